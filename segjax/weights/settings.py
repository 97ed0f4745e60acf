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
# network has. A key that is missing has one of them by default.
MARKS = {"transformers": "model_type", "segmentation_models.pytorch": "_model_class"}
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
        "decoder_use_norm": ("batchnorm", True),
        "decoder_attention_type": (None,),
        "activation": (None, "identity", "softmax", "softmax2d"),
    },
}
# Defaults of transformers' SegformerImageProcessor.
DEFAULT_SIZE = 512
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
PROCESSOR: dict[str, tuple] = {
    "do_center_crop": (False, None),
    "do_pad": (False, None),
    "resample": (2,),  # bilinear
}


class Settings(NamedTuple):
    """names: of the classes, () where nothing tells; model, data: fields of those sections.

    reduces_labels: in masks 0 is void, and class i has the value i + 1.
    """

    names: tuple[str, ...]
    model: dict[str, Any]
    data: dict[str, Any]
    reduces_labels: bool = False


NONE = Settings((), {}, {})


def read(path: Path, library: str) -> Settings:
    """The settings beside a file of weights, or in the folder of one.

    Raises DataError for a file that is damaged, ConfigError for a value that segjax has not.
    """
    folder = path if path.is_dir() else path.parent
    network, processor = (_content(folder / name) for name in FILES)
    if MARKS.get(library) not in network:  # there is none, or it is of something else
        return NONE
    _require(folder / FILES[0], network, KNOWN[library])
    _require(folder / FILES[1], processor, PROCESSOR)
    names = network.get("id2label", {})
    interpolation = network.get("decoder_interpolation")
    return Settings(
        tuple(names[i] for i in sorted(names, key=int)),
        _normalization(processor) | ({"unet.upsample": interpolation} if interpolation else {}),
        _fit(folder / FILES[1], processor),
        bool(processor.get("do_reduce_labels", processor.get("reduce_labels"))),
    )


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); download or save it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; download or save it again")
    return content


def _require(path: Path, content: dict[str, Any], known: dict[str, tuple]) -> None:
    for key, values in known.items():
        if content.get(key, values[0]) not in values:
            options = " or ".join(json.dumps(value) for value in values)
            raise ConfigError(
                f'{path}, "{key}" is {json.dumps(content[key])}; segjax has {options} only'
            )


def _normalization(processor: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """mean and std of pixels in 0 … 255; nothing where the processor says nothing."""
    if not processor:
        return {}
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.get("do_normalize", True):
        mean, std = (processor.get(key, default) for key, default in IMAGENET.items())
    return {name: tuple(x / factor for x in xs) for name, xs in (("mean", mean), ("std", std))}


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
