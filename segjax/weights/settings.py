"""What stands beside the weights of a library: config.json and preprocessor_config.json.

Whatever in them means another computation than segjax's is refused by name.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from segjax.errors import ConfigError, DataError
from segjax.runtime.files import read_text

FILES = "config.json", "preprocessor_config.json"
# By library: the key that tells whose config.json it is, and keys with the values that segjax's
# network has. A key that is missing has the first of them by default.
MARKS = {"transformers": "model_type", "segmentation_models.pytorch": "encoder_name"}
ACTIVATIONS = {True: ("sigmoid",), False: ("softmax", "softmax2d")}  # by: there is one class
KNOWN: dict[str, dict[str, tuple]] = {
    "transformers": {
        "model_type": ("segformer",),
        "num_encoder_blocks": (4,),
        "num_channels": (3,),
        "num_attention_heads": ([1, 2, 5, 8],),
        "sr_ratios": ([8, 4, 2, 1],),
        "patch_sizes": ([7, 3, 3, 3],),
        "strides": ([4, 2, 2, 2],),
        "mlp_ratios": ([4, 4, 4, 4],),
        "hidden_act": ("gelu",),
        "reshape_last_stage": (True,),
    },
    "segmentation_models.pytorch": {
        "_model_class": ("Unet", "Segformer"),
        "encoder_depth": (5,),
        "in_channels": (3,),
        "upsampling": (4,),
        "output_stride": (32,),
        "decoder_use_norm": ("batchnorm", True),
        "decoder_use_batchnorm": (None, True),
        "decoder_attention_type": (None,),
        "decoder_interpolation": ("nearest", "bilinear"),
    },
}
# Of SMP, which writes all arguments of a network and nothing else: what the weights tell anyhow.
FREE = {"encoder_name", "encoder_weights", "decoder_channels", "decoder_segmentation_channels",
        "classes", "activation", "aux_params"}  # fmt: skip
PROCESSOR: dict[str, tuple] = {
    "do_center_crop": (False,),
    "do_pad": (False,),
    "do_flip_channel_order": (False,),
    "resample": (2,),  # bilinear
}
# Defaults of transformers' SegformerImageProcessor.
DEFAULT_SIZE = 512
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
REDUCE = ("do_reduce_labels", "reduce_labels")


class Settings(NamedTuple):
    """names: of the classes, () where nothing tells; model, data: fields of those sections.

    reduces_labels: in masks 0 is void, and class i has the value i + 1. ignored: a class that was
    void in training.
    """

    names: tuple[str, ...]
    model: dict[str, Any]
    data: dict[str, Any]
    reduces_labels: bool = False
    ignored: int | None = None


NONE = Settings((), {}, {})


def read(path: Path, library: str, classes: int) -> Settings:
    """The settings beside a file of weights, or in the folder of one.

    Raises DataError for a file that is damaged, ConfigError for a value that segjax has not.
    """
    folder = path if path.is_dir() else path.parent
    network, processor = (_content(folder / name) for name in FILES)
    known = KNOWN.get(library, {})
    if MARKS.get(library) not in network:  # it is of something else
        if processor:
            raise ConfigError(f"{folder / FILES[1]} is there, but not the config.json of {library}")
        return NONE
    _require(folder / FILES[0], network, known)
    if library != "transformers":
        _require_smp(folder / FILES[0], network, known, classes)
        return Settings((), {"unet.upsample": network.get("decoder_interpolation", "nearest")}, {})
    _require_processor(folder / FILES[1], processor)
    ignored = network.get("semantic_loss_ignore_index", 255)
    reduces = any(processor.get(key) for key in REDUCE)
    return Settings(
        _names(folder / FILES[0], network, classes),
        _normalization(folder / FILES[1], processor),
        _fit(folder / FILES[1], processor),
        reduces,
        ignored if ignored in range(classes) and not reduces else None,
    )


def _content(path: Path) -> dict[str, Any]:
    """Without the keys that are null, which mean the default."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); download or save it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; download or save it again")
    return {key: value for key, value in content.items() if value is not None}


def _require(path: Path, content: dict[str, Any], known: dict[str, tuple]) -> None:
    for key, values in known.items():
        if content.get(key, values[0]) not in values:
            options = " or ".join(json.dumps(value) for value in values if value is not None)
            only = f"segjax has {options} only" if options else "segjax has none"
            raise ConfigError(f'{path}, "{key}" is {json.dumps(content[key])}; {only}')


def _require_smp(
    path: Path, network: dict[str, Any], known: dict[str, tuple], classes: int
) -> None:
    activation = {"activation": ("identity", *ACTIVATIONS[classes == 1])}
    _require(path, network, activation)
    unknown = sorted(network.keys() - known.keys() - FREE)
    if unknown:
        raise ConfigError(f'{path}, "{unknown[0]}": what it changes in the network is not known')


def _require_processor(path: Path, processor: dict[str, Any]) -> None:
    _require(path, processor, PROCESSOR)
    kind = processor.get("image_processor_type", processor.get("feature_extractor_type", ""))
    if kind and not str(kind).startswith("Segformer"):
        raise ConfigError(f'{path} is of "{kind}"; only that of SegFormer is known')
    if len({bool(processor[key]) for key in REDUCE if key in processor}) == 2:
        raise ConfigError(f'{path}, "{REDUCE[0]}" and "{REDUCE[1]}" disagree; correct one of them')


def _names(path: Path, network: dict[str, Any], classes: int) -> tuple[str, ...]:
    names = network.get("id2label", {})
    wanted = [str(i) for i in range(classes)]
    if not isinstance(names, dict) or (names and sorted(names) != sorted(wanted)):
        raise DataError(
            f'{path}, "id2label" does not name the {classes} classes of the weights, 0 to '
            f"{classes - 1}; download or save both again"
        )
    return tuple(str(names[i]) for i in wanted) if names else ()


def _normalization(path: Path, processor: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """mean and std of pixels in 0 … 255; nothing where the processor says nothing."""
    if not processor:
        return {}
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    values = {"image_mean": 0, "image_std": 1}
    if processor.get("do_normalize", True):
        values = IMAGENET | {key: processor[key] for key in IMAGENET if key in processor}
    try:
        scaled = {
            key.removeprefix("image_"): tuple(
                float(x) / factor for x in (value if hasattr(value, "__len__") else [value] * 3)
            )
            for key, value in values.items()
        }
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{path}: rescale_factor, image_mean or image_std: {error}") from error
    return scaled


def _fit(path: Path, processor: dict[str, Any]) -> dict[str, Any]:
    """How images meet the network: fields of config.data."""
    if not processor:
        return {}
    if not processor.get("do_resize", True):
        return {"fit": "pad"}
    size = processor.get("size", DEFAULT_SIZE)
    if isinstance(size, dict):
        size = [size.get("height"), size.get("width")]
    elif isinstance(size, int):
        size = [size, size]
    is_shape = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
    if not is_shape or min(size) < 1:
        raise ConfigError(
            f'{path}, "size" is {json.dumps(processor["size"])}; segjax stretches images to '
            "one height and width: give them, or set do_resize to false"
        )
    return {"fit": "resize", "size": tuple(size)}
