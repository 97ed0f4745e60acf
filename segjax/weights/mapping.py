"""One network under the names and in the layouts of four libraries.

segjax's variables are flat here: `params/encoder/stem/conv/kernel` to array. A `Source` says how a
library calls each of them, and by which conventions its weights were trained.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from segjax.errors import ConfigError
from segjax.models.layers.blocks import EPSILON
from segjax.models.mobilenet_v2 import STAGES
from segjax.weights import tensor_files
from segjax.weights.tensor_files import Tensors

IMAGENET = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
TORCH = dict(**IMAGENET, norm_epsilon=EPSILON, padding="symmetric")
KERAS = dict(mean=(127.5,) * 3, std=(127.5,) * 3, norm_epsilon=1e-3, padding="same")

TORCH_NORM = ("weight", "bias", "running_mean", "running_var")
KERAS_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
COUNTER = "num_batches_tracked"  # of PyTorch's batch norm; with a momentum it is not used
# (stage, block, parts) in order; the first block has no expansion.
BLOCKS = [
    (stage, block, ("expand", "depthwise", "project")[expansion == 1 :])
    for stage, (expansion, _, repeats, _) in enumerate(STAGES)
    for block in range(repeats)
]
# Names of a layer's convolution and batch norm in a file, by the layer's path in segjax.
Layers = dict[str, tuple[str, str]]


class Source(NamedTuple):
    """A library: its names, its layout and its conventions.

    mark: a tensor that its files have, and no other's.
    names: segjax's variable for every tensor.
    classifier: how the names of tensors begin that have no place in segjax.
    conventions: fields of config.model.
    """

    name: str
    mark: str
    names: dict[str, str]
    classifier: tuple[str, ...]
    conventions: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """It has a decoder and a head."""
        return "params/head/kernel" in self.names.values()

    def from_file(self, variable: str, tensor: np.ndarray) -> np.ndarray:
        """A tensor in segjax's layout: kernels are [h, w, in, out]."""
        if tensor.ndim != 4:
            return tensor
        if self.conventions is TORCH:
            return tensor.transpose(2, 3, 1, 0)
        return tensor.swapaxes(2, 3) if "/depthwise/" in variable else tensor


def _name_all(layers: Layers, separator: str, kernel: str, norm: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for layer, (conv_name, norm_name) in layers.items():
        names[f"{conv_name}{separator}{kernel}"] = f"params/{layer}/conv/kernel"
        kinds = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")
        for weight, kind in zip(norm, kinds, strict=True):
            names[f"{norm_name}{separator}{weight}"] = kind.format(f"{layer}/norm")
    return names


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


def _torch_source(name: str, layers: Layers, classifier: tuple[str, ...], **others: str) -> Source:
    names = _name_all(layers, ".", "weight", TORCH_NORM) | others
    return Source(name, next(iter(names)), names, classifier, TORCH)


HEAD = {
    "segmentation_head.0.weight": "params/head/kernel",
    "segmentation_head.0.bias": "params/head/bias",
}
SMP = _torch_source("segmentation_models.pytorch", _smp(), ("classification_head.",), **HEAD)
SOURCES = (
    SMP,
    _torch_source("torchvision", _torchvision(), ("classifier.",)),
    _torch_source("timm", _timm(), ("classifier.",)),
    Source("Keras", "Conv1/kernel", _name_all(_keras(), "/", "kernel", KERAS_NORM),
           ("predictions/", "Logits/"), KERAS),
)  # fmt: skip


def to_smp(variables: dict[str, np.ndarray], config: Any) -> Tensors:
    """The state dictionary of segmentation_models.pytorch's U-Net, from segjax's flat variables.

    Raises ConfigError where config.model describes a network that its U-Net cannot be.
    """
    held = dict(width=(1.0,), padding=("symmetric",), norm_epsilon=(EPSILON,))
    for field, allowed in (held | dict(upsample=("nearest", "bilinear"))).items():
        if config[field] not in allowed:
            raise ConfigError(
                f"--format safetensors: config.model.{field} is {config[field]!r}, and "
                f"segmentation_models.pytorch has {' or '.join(map(str, allowed))} only; take "
                "stablehlo or onnx"
            )
    tensors = {}
    for name, variable in SMP.names.items():
        array = np.asarray(variables[variable])
        tensors[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        if name.endswith("running_var"):
            tensors[name.replace("running_var", COUNTER)] = np.array(0)
    return tensors


def write(path: Path, variables: dict[str, Any], config: Any, metadata: dict[str, Any]) -> None:
    """Writes params and batch_stats as a .safetensors file for PyTorch; ConfigError as `to_smp`.

    metadata: of `export.metadata`; in the header, with what PyTorch's network takes and gives.
    """
    tensors = to_smp(flatten_dict(variables, sep="/"), config)
    network = (
        'segmentation_models_pytorch.Unet("mobilenet_v2", encoder_weights=None, '
        f"decoder_channels={tuple(config.decoder_channels)}, "
        f'decoder_interpolation="{config.upsample}", '
        f"classes={len(tensors['segmentation_head.0.bias'])})"
    )
    header = metadata | {
        "input": "float32 [batch, 3, height, width], RGB, (0 … 255 - mean) / std, height and width "
        "multiples of 32",
        "outputs": ["logits: float32 [batch, classes, height, width]"],
        "network": network,
    }
    tensor_files.write(path, tensors, header)
