"""MobileNetV2, and the U-Net on it, as torchvision, timm, Keras and SMP save them.

SMP is segmentation_models.pytorch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from segjax.models.layers.blocks import EPSILON
from segjax.models.mobilenet_v2 import STAGES, WIDTHS, scaled
from segjax.weights import tensor_files
from segjax.weights.mapping import (
    CONVOLUTION,
    DEPTHWISE_KERAS,
    HEAD,
    SAME_4D,
    VECTOR,
    Row,
    Shapes,
    Source,
    conv_norm,
    no_fields,
    require_fields,
    with_counters,
)
from segjax.weights.tensor_files import Tensors

NETWORK = "MobileNetV2", "mobilenet_v2"
EPSILON_FIELD, PADDING_FIELD = "mobilenet_v2.norm_epsilon", "mobilenet_v2.padding"
TORCH = {
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    EPSILON_FIELD: EPSILON,
    PADDING_FIELD: "symmetric",
}
KERAS = {"mean": (127.5,) * 3, "std": (127.5,) * 3, EPSILON_FIELD: 1e-3, PADDING_FIELD: "same"}
TORCH_NAMES = ("weight", "weight", "bias", "running_mean", "running_var")
KERAS_NAMES = ("kernel", "gamma", "beta", "moving_mean", "moving_variance")
STEM = "params/encoder/stem/conv/kernel"
WHOLE = "config.model.name=unet and config.model.unet.upsample=nearest"
# (stage, block, parts) in order; the first block has no expansion.
BLOCKS = [
    (stage, block, ("expand", "depthwise", "project")[expansion == 1 :])
    for stage, (expansion, _, repeats, _) in enumerate(STAGES)
    for block in range(repeats)
]
# Names of a layer's convolution and batch norm in a file, by the layer's path in segjax.
Layers = dict[str, tuple[str, str]]


def _torchvision() -> Layers:
    layers = {"encoder/stem": ("features.0.0", "features.0.1")}
    for index, (stage, block, parts) in enumerate(BLOCKS, start=1):
        for i, part in enumerate(parts):
            # The last part has no activation and so is not wrapped in a module of its own.
            conv = f"{i}" if part == "project" else f"{i}.0"
            norm = f"{i + 1}" if part == "project" else f"{i}.1"
            prefix = f"features.{index}.conv."
            layers[f"encoder/stage{stage}_block{block}/{part}"] = (prefix + conv, prefix + norm)
    return layers | {"encoder/last": ("features.18.0", "features.18.1")}


def _timm() -> Layers:
    layers = {"encoder/stem": ("conv_stem", "bn1")}
    for stage, block, parts in BLOCKS:
        convs = ("conv_pw", "conv_dw", "conv_pwl") if len(parts) == 3 else ("conv_dw", "conv_pw")
        prefix = f"blocks.{stage}.{block}."
        for i, (part, conv) in enumerate(zip(parts, convs, strict=True), start=1):
            layers[f"encoder/stage{stage}_block{block}/{part}"] = (prefix + conv, f"{prefix}bn{i}")
    return layers | {"encoder/last": ("conv_head", "bn2")}


def _keras() -> Layers:
    layers = {"encoder/stem": ("Conv1", "bn_Conv1")}
    for index, (stage, block, parts) in enumerate(BLOCKS):
        prefix = f"block_{index}_" if index else "expanded_conv_"
        for part in parts:
            names = (prefix + part, f"{prefix}{part}_BN")
            layers[f"encoder/stage{stage}_block{block}/{part}"] = names
    return layers | {"encoder/last": ("Conv_1", "Conv_1_bn")}


def _smp() -> Layers:
    layers = {
        layer: (f"encoder.{conv}", f"encoder.{norm}")
        for layer, (conv, norm) in _torchvision().items()
    }
    for block in range(5):
        for conv in range(2):
            prefix = f"decoder.blocks.{block}.conv{conv + 1}"
            layers[f"decoder/block{block}_conv{conv}"] = (f"{prefix}.0", f"{prefix}.1")
    return layers


def _torch_source(
    library: str,
    layers: Layers,
    classifier: str,
    others: tuple[Row, ...] = (),
    fields: Callable[[Shapes], dict[str, Any]] = no_fields,
) -> Source:
    rows = [
        row
        for layer, names in layers.items()
        for row in conv_norm(layer, *names, CONVOLUTION, TORCH_NAMES, ".")
    ]
    mark = rows[0].name
    rows = (*rows, *others)
    return Source(library, *NETWORK, mark, rows, (classifier,), TORCH, STEM, WHOLE, remedy, fields)


def _keras_source() -> Source:
    rows = []
    for layer, names in _keras().items():
        kernel = DEPTHWISE_KERAS if layer.endswith("/depthwise") else SAME_4D
        rows += conv_norm(layer, *names, kernel, KERAS_NAMES, "/")
    classifier = ("predictions/", "Logits/")
    return Source(
        "Keras", *NETWORK, "Conv1/kernel", tuple(rows), classifier, KERAS, STEM, WHOLE, remedy
    )


def remedy(variable: str, loaded: dict[str, Any], target: dict[str, Any]) -> str:
    """What to set where a variable has another shape in the file: see `Source`."""
    if variable.split("/")[1] == "decoder":
        channels = [loaded[f"params/decoder/block{i}_conv0/norm/scale"].size for i in range(5)]
        return f"set config.model.unet.channels={tuple(channels)} and upsample=nearest"
    theirs, ours = (
        width_of({name: array.shape for name, array in variables.items()})
        for variables in (loaded, target)
    )
    if theirs in (None, ours):
        return f"this is not a MobileNetV2 of one of the widths {WIDTHS}"
    return f"set config.model.mobilenet_v2.width={theirs}"


def width_of(shapes: Shapes) -> float | None:
    """The width of an encoder, from the shapes of its variables; None for one not in WIDTHS."""

    def channels(width: float) -> list[int]:
        return [scaled(channels, width) for _, channels, _, _ in STAGES]

    norms = (f"params/encoder/stage{stage}_block0/project/norm/scale" for stage in range(7))
    found = [shapes.get(norm, (0,))[0] for norm in norms]
    return next((width for width in WIDTHS if channels(width) == found), None)


def unet_fields(shapes: Shapes) -> dict[str, Any]:
    """What config.model must be for the decoder of a file of SMP's U-Net: see `Source.fields`."""
    norms = [f"params/decoder/block{block}_conv0/norm/scale" for block in range(5)]
    if not shapes.keys() >= {*norms}:
        return {}
    return {"name": "unet", "unet.channels": tuple(shapes[norm][0] for norm in norms)}


def fields_of_smp(shapes: Shapes) -> dict[str, Any]:
    """What config.model must be for a file of SMP: see `Source.fields`."""
    width = width_of(shapes)
    return unet_fields(shapes) | ({"mobilenet_v2.width": width} if width else {})


SMP = _torch_source(
    "segmentation_models.pytorch",
    _smp(),
    "classification_head.",
    (
        Row("segmentation_head.0.weight", f"{HEAD}kernel", CONVOLUTION),
        Row("segmentation_head.0.bias", f"{HEAD}bias", VECTOR),
    ),
    fields_of_smp,
)
SMP_TAKES = {
    "input": "float32 [batch, 3, height, width], RGB, (0 … 255 - mean) / std, height and width "
    "multiples of 32",
    "outputs": ["logits: float32 [batch, classes, height, width]"],
}
SOURCES = (
    SMP,
    _torch_source("torchvision", _torchvision(), "classifier."),
    _torch_source("timm", _timm(), "classifier."),
    _keras_source(),
)


def to_smp(variables: dict[str, np.ndarray], config: Any) -> Tensors:
    """The state dictionary of SMP's U-Net, from segjax's flat variables.

    Raises ConfigError where config.model describes a network that its U-Net cannot be.
    """
    can_be = {
        "name": ("unet",),
        "encoder": ("mobilenet_v2",),
        "mobilenet_v2.width": (1.0,),
        PADDING_FIELD: ("symmetric",),
        EPSILON_FIELD: (EPSILON,),
        "unet.upsample": ("nearest", "bilinear"),
    }
    require_fields(config, "safetensors", SMP.library, can_be)
    return with_counters(SMP.write(variables))


def write(path: Path, variables: dict[str, Any], config: Any, metadata: dict[str, Any]) -> None:
    """Writes params and batch_stats as a .safetensors file for PyTorch; ConfigError as `to_smp`.

    metadata: for the header, with what PyTorch's network takes and gives.
    """
    tensors = to_smp(flatten_dict(variables, sep="/"), config)
    network = (
        'segmentation_models_pytorch.Unet("mobilenet_v2", encoder_weights=None, '
        f"decoder_channels={tuple(config.unet.channels)}, "
        f'decoder_interpolation="{config.unet.upsample}", '
        f"classes={len(tensors['segmentation_head.0.bias'])})"
    )
    header = metadata | {
        **SMP_TAKES,
        "network": network,
    }
    tensor_files.write(path, tensors, header)
