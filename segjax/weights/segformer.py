"""SegFormer, and the U-Net on its encoder, as transformers, its authors (NVlabs) and SMP save them.

SMP is segmentation_models.pytorch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from segjax.models.mit import HEADS, REDUCTIONS, VARIANTS
from segjax.runtime.files import write_json
from segjax.weights import mit, mobilenet_v2, tensor_files
from segjax.weights.mapping import (
    CONVOLUTION,
    HEAD,
    VECTOR,
    Row,
    Shapes,
    Source,
    conv_norm,
    require_fields,
    with_counters,
)
from segjax.weights.mit import STAGES, encoder
from segjax.weights.tensor_files import Tensors

WHOLE = "config.model.encoder=mit, and config.model.mit.variant and config.model.name as the file's"
LINEAR = "params/decoder/linear0/bias"  # of SegFormer's decoder


def _head(linear: Callable[[int], str], fuse: tuple[str, str], classifier: str) -> list[Row]:
    """Rows of the decoder: names of a stage's dense layer, of the fusion's two, of the last."""
    rows = [row for i in STAGES for row in mit.layer(linear(i), f"decoder/linear{i}")]
    rows += conv_norm("decoder/fuse", *fuse, CONVOLUTION, mobilenet_v2.TORCH_NAMES, ".")
    return [
        *rows,
        Row(f"{classifier}.weight", f"{HEAD}kernel", CONVOLUTION),
        Row(f"{classifier}.bias", f"{HEAD}bias", VECTOR),
    ]


def needed(shapes: Shapes) -> dict[str, Any]:
    """What config.model must be, from the shapes of a file's tensors: see `Source.fields`."""
    variant = mit.variant_of(shapes)
    fields = {"mit.variant": variant} if variant else {}
    if LINEAR in shapes:
        fields |= {"name": "segformer", "segformer.channels": shapes[LINEAR][0]}
    return fields | mobilenet_v2.unet_fields(shapes)


def remedy(variable: str, loaded: dict[str, Any], target: dict[str, Any]) -> str:
    """What to set where a variable has another shape in the file: see `Source`."""
    theirs, ours = (
        mit.variant_of({name: array.shape for name, array in variables.items()})
        for variables in (loaded, target)
    )
    if theirs not in (None, ours):
        return f"set config.model.mit.variant={theirs}"
    if variable.split("/")[1] != "decoder":
        return "this is no encoder of SegFormer"
    if LINEAR in loaded:
        return f"set config.model.segformer.channels={loaded[LINEAR].size}"
    return mobilenet_v2.remedy(variable, loaded, target)


def _source(library: str, conventions: dict[str, Any], rows: list[Row], *classifier: str) -> Source:
    """classifier: how the names of tensors begin that have no place in segjax."""
    return Source(
        library=library,
        network="SegFormer",
        encoder="mit",
        mark=rows[0].name,
        rows=tuple(rows),
        classifier=classifier,
        conventions=conventions,
        stem=mit.STEM,
        whole=WHOLE,
        remedy=remedy,
        fields=needed,
    )


def _unet_head() -> list[Row]:
    return [row for row in mobilenet_v2.SMP.rows if row.variable.split("/")[1] != "encoder"]


HALF_PIXEL, CORNERS = ({"segformer.align_corners": value} for value in (False, True))
SMP = _source(
    mobilenet_v2.SMP.library,
    mit.ORIGINAL | CORNERS,
    _head(
        lambda i: f"decoder.mlp_stage.{3 - i}.linear",
        ("decoder.fuse_stage.0", "decoder.fuse_stage.1"),
        "segmentation_head.0",
    )
    + encoder(mit.NVLABS, "encoder."),
    "classification_head.",
)
SMP_UNET = _source(
    mobilenet_v2.SMP.library,
    mit.ORIGINAL,
    encoder(mit.NVLABS, "encoder.") + _unet_head(),
    "classification_head.",
)
HUGGING_FACE, HUGGING_FACE_5 = (
    _source(
        "transformers",
        mit.TRANSFORMERS | HALF_PIXEL,
        _head(
            linear.format,
            ("decode_head.linear_fuse", "decode_head.batch_norm"),
            "decode_head.classifier",
        )
        + encoder(names, "segformer."),
    )
    for linear, names in (
        ("decode_head.linear_c.{}.proj", mit.HUGGING_FACE),
        ("decode_head.linear_projections.{}.proj", mit.HUGGING_FACE_5),
    )
)
NVLABS = _source(
    "NVlabs",
    mit.ORIGINAL | HALF_PIXEL,
    _head(
        lambda i: f"decode_head.linear_c{i + 1}.proj",
        ("decode_head.linear_fuse.conv", "decode_head.linear_fuse.bn"),
        "decode_head.linear_pred",
    )
    + encoder(mit.NVLABS, "backbone."),
    "decode_head.conv_seg.",  # of mmsegmentation's base class, and not used
)
# Without a decoder, perhaps with a classifier of ImageNet.
ENCODERS = (
    _source("NVlabs", mit.ORIGINAL, encoder(mit.NVLABS), "head."),
    *(
        _source("transformers", mit.TRANSFORMERS, encoder(names, prefix), "classifier.")
        for names in (mit.HUGGING_FACE, mit.HUGGING_FACE_5)
        for prefix in ("segformer.", "")
    ),
)
SOURCES = (SMP, SMP_UNET, HUGGING_FACE, HUGGING_FACE_5, NVLABS, *ENCODERS)


def to_tensors(source: Source, variables: dict[str, Any]) -> Tensors:
    """The state dictionary of a library, from segjax's variables."""
    return with_counters(source.write(flatten_dict(variables, sep="/")))


def write(path: Path, variables: dict[str, Any], config: Any, metadata: dict[str, Any]) -> None:
    """Writes the state of SMP's SegFormer or U-Net, as `mobilenet_v2.write` does."""
    is_unet = config.name == "unet"
    source = SMP_UNET if is_unet else SMP
    own = {"unet.upsample": ("nearest", "bilinear")} if is_unet else {}
    require_fields(config, "safetensors", source.library, _can_be(source) | own)
    tensors = to_tensors(source, variables)
    classes = len(tensors["segmentation_head.0.bias"])
    decoder = (
        f"decoder_channels={tuple(config.unet.channels)}, "
        f'decoder_interpolation="{config.unet.upsample}"'
        if is_unet
        else f"decoder_segmentation_channels={config.segformer.channels}"
    )
    network = (
        f"segmentation_models_pytorch.{'Unet' if is_unet else 'Segformer'}("
        f'"mit_{config.mit.variant}", encoder_weights=None, {decoder}, classes={classes})'
    )
    header = metadata | mobilenet_v2.SMP_TAKES | {"network": network}
    tensor_files.write(path, tensors, header)


def _can_be(source: Source) -> dict[str, tuple]:
    """What config.model can be for a library to compute the same; its mean and std are free."""
    free = ("mean", "std")
    return {n: (value,) for n, value in source.conventions.items() if n not in free}


def write_pretrained(
    folder: Path, variables: dict[str, Any], config: Any, metadata: dict[str, Any]
) -> None:
    """Writes what transformers' `from_pretrained` loads: three files in a new folder.

    Raises ConfigError where config.model describes a network that it does not have.
    """
    families = {"encoder": ("mit",), "name": ("segformer",)}
    require_fields(config, "transformers", "transformers", families | _can_be(HUGGING_FACE))
    table = {"values": [], "void": []} | metadata["table"]  # masks of colours have neither
    names = dict(enumerate(table["classes"]))
    depths, channels = VARIANTS[config.mit.variant]
    network = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "depths": depths,
        "hidden_sizes": channels,
        "num_attention_heads": HEADS,
        "sr_ratios": REDUCTIONS,
        "decoder_hidden_size": config.segformer.channels,
        "classifier_dropout_prob": config.segformer.dropout,
        "drop_path_rate": config.mit.drop_path,
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
    }
    height, width = metadata["size"]
    images = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": metadata["fit"] == "resize",
        "size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in config.mean],
        "image_std": [value / 255 for value in config.std],
        "do_reduce_labels": 0 in table["void"] and table["values"] == [[n + 1] for n in names],
    }
    folder.mkdir()
    write_json(folder / "config.json", network)
    write_json(folder / "preprocessor_config.json", images)
    tensors = to_tensors(HUGGING_FACE, variables)
    tensor_files.write(folder / tensor_files.IN_FOLDERS[0], tensors, metadata)
