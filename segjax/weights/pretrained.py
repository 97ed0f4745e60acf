"""Weights of another library as the start of a run.

Every tensor of the file has a place in the network or is known to have none, and every variable of
the network is filled or belongs to a part that the file does not have. Whatever else is an error.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.weights import SOURCES, WRITERS, tensor_files
from segjax.weights.mapping import COUNTER, HEAD, Source
from segjax.weights.tensor_files import Tensors

log = logging.getLogger(__name__)
HEADS = ("keep", "drop")
CHANNELS = ("", "sum", "tile")


def with_conventions(config: ConfigDict, folder: Path) -> ConfigDict:
    """The configuration with the conventions that the weights of config.pretrained.path need.

    Fields of config.model (mean, std, the encoder's epsilon and padding) become those of the
    library that the file comes from, whatever they were: with others its weights would compute
    something else. A run that is resumed has them in its config.json, and needs the file no more.
    Raises ConfigError where the file is of another encoder, or of another variant of it.
    """
    if not config.pretrained.path:
        return config
    config = config.copy_and_resolve_references()
    trained = workdir.load(folder)[0] if workdir.holds_checkpoints(folder) else None
    path = Path(config.pretrained.path)
    if trained and trained.pretrained.path == config.pretrained.path:
        found, names = _fields(trained.model), {name for s in SOURCES for name in s.conventions}
        fields = {name: found[name] for name in found.keys() & names}
    else:
        own = tensor_files.read_header(path)  # segjax's files say how they were trained
        tensors = tensor_files.read(path)
        source = recognise(path, tensors)
        _require_fields(path, source, tensors, config.model)
        fields = {name: own.get(name, value) for name, value in source.conventions.items()}
    for name, value in sorted(fields.items()):
        value = tuple(value) if isinstance(value, list | tuple) else value
        if value != _fields(config.model)[name]:
            log.info("config.model.%s = %s, as the pretrained weights need it", name, value)
        config.model.update_from_flattened_dict({name: value})
    return config


def _require_fields(path: Path, source: Source, tensors: Tensors, model: ConfigDict) -> None:
    for name, value in source.needed(tensors).items():
        found = _fields(model)[name]
        found = tuple(found) if isinstance(found, list) else found  # as config.json has it
        if found != value:
            raise ConfigError(
                f"{path} has the weights of {source.network}, and config.model.{name} is "
                f"{found!r}; set it to {value!r}, or take another file"
            )


def _fields(model: ConfigDict) -> dict[str, Any]:
    return flatten_dict(model.to_dict(), sep=".")


def recognise(path: Path, tensors: Tensors) -> Source:
    """The library that a file comes from, by the names in it; DataError for none that is known."""
    for source in SOURCES:
        if source.mark in tensors:
            return source
    raise DataError(
        f"{path}: no {' and no '.join(_networks())}; its tensors are {_some(tensors)}. Save the "
        "network's own state dictionary, without a prefix"
    )


def _networks() -> list[str]:
    """'MobileNetV2 of torchvision, timm': what can be read, by network."""
    libraries: dict[str, list[str]] = {}
    for source in SOURCES:
        libraries.setdefault(source.network, []).append(source.library)
    return [
        f"{network} of {', '.join(dict.fromkeys(names))}" for network, names in libraries.items()
    ]


def load(
    path: Path,
    like: dict[str, Any],
    head: str = "keep",
    channels: str = "",
    tensors: Tensors | None = None,
) -> dict[str, Any]:
    """Params and batch_stats in the structure of `like`, from a file.

    What the file does not have (a decoder, a head) stays as it is in `like`. For `head` and
    `channels` see config.pretrained. tensors: of the file, if it was read before.

    Raises:
      DataError: where the file cannot be read, or a tensor of it is unknown or missing.
      ConfigError: where config.model or the number of classes is another than the file's.
    """
    tensors = tensor_files.read(path) if tensors is None else tensors
    source = recognise(path, tensors)
    target = flatten_dict(like, sep="/")
    new_parts = ("decoder", "head")
    if source.is_whole:
        new_parts = ("head",) if head == "drop" else ()
    new = {variable for variable in target if variable.split("/")[1] in new_parts}
    names = source.names
    dropped = {
        name
        for name in tensors
        if name.startswith(source.classifier) or name.endswith(COUNTER) or names.get(name) in new
    }
    _require_all_explained(path, source, tensors.keys() - dropped, target.keys() - new)
    try:
        loaded = source.read(tensors, [name for name in tensors if name not in dropped])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    loaded[source.stem] = with_channels(
        path, loaded[source.stem], target[source.stem].shape[2], channels
    )
    _require_same_shapes(path, source, loaded, target)
    log.info("%s", _table(path, source, loaded, dropped, new))
    filled = {name: jnp.asarray(loaded.get(name, value)) for name, value in target.items()}
    return like | unflatten_dict(filled, sep="/")  # an empty collection has no variable


def write(
    path: Path,
    variables: Any,
    config: ConfigDict,
    metadata: dict[str, Any],
    format: str = "safetensors",
) -> None:
    """Writes params and batch_stats for another library.

    Args:
      config: `config.model`; metadata: for the header of the file; format: a file `safetensors`, or
        `transformers`, a folder.

    Raises ConfigError where no library has this network, or safetensors is not installed.
    """
    if (format, config.encoder) not in WRITERS:
        known = ", ".join(encoder for name, encoder in WRITERS if name == format)
        raise ConfigError(
            f"--format {format}: config.model.encoder is {config.encoder!r}, of which no other "
            f"library takes the weights ({known} can be written); take stablehlo or onnx"
        )
    WRITERS[format, config.encoder](path, variables, config, metadata)


def with_channels(path: Path, kernel: np.ndarray, wanted: int, how: str) -> np.ndarray:
    """A first kernel [k, k, C, features] as one for images of `wanted` channels.

    `sum` gives each channel an equal part of the sum over C: an image with the same values in all
    its channels then has the response that the original has to one with these in all of its own.
    `tile` gives channel i the channel i modulo C, times C / wanted, so that there is as much to add
    up as before: it keeps channels apart (as timm and segmentation_models.pytorch do). ConfigError
    where one of them is needed and not given.
    """
    channels = kernel.shape[2]
    if channels == wanted:
        return kernel
    if not how:
        raise ConfigError(
            f"{path}: its first convolution takes {channels} channels, images here have {wanted}; "
            "set config.pretrained.channels to 'sum' or 'tile'"
        )
    if how == "sum":
        return np.repeat(kernel.sum(2, keepdims=True) / wanted, wanted, axis=2)
    return kernel[:, :, np.arange(wanted) % channels] * (channels / wanted)


def _require_all_explained(path: Path, source: Source, present: set[str], wanted: set[str]) -> None:
    unknown = present - source.names.keys()
    if unknown:
        raise DataError(
            f"{path}: {_some(unknown)}: not in {source.library}'s {source.network}; a network of "
            "another kind or depth cannot be loaded"
        )
    names = {row.variable: row.name for row in source.rows}
    homeless = wanted - names.keys()
    if homeless:
        raise ConfigError(
            f"{path}: {source.library} has nothing for {_some(homeless)}; set {source.whole}"
        )
    superfluous = {variable for variable, name in names.items() if name in present} - wanted
    if superfluous:
        raise ConfigError(f"{path}: the network has no {_some(superfluous)}; set {source.whole}")
    missing = {names[variable] for variable in wanted} - present
    if missing:
        raise DataError(
            f"{path}: {_some(missing)}: missing; the file is incomplete, download or save it again"
        )


def _require_same_shapes(
    path: Path, source: Source, loaded: Tensors, target: dict[str, Any]
) -> None:
    for variable, array in loaded.items():
        if array.shape == target[variable].shape:
            continue
        if variable.startswith(HEAD):
            remedy = (
                f"the file has {array.shape[-1]} classes, the data {target[variable].shape[-1]}; "
                "set config.pretrained.head=drop"
            )
        else:
            remedy = source.remedy(variable, loaded, target)
        raise ConfigError(
            f"{path}: {variable} has the shape {array.shape} there and {target[variable].shape} "
            f"here; {remedy}"
        )


def _table(path: Path, source: Source, loaded: Tensors, dropped: set[str], new: set[str]) -> str:
    counters = {name for name in dropped if name.endswith(COUNTER)}
    others = [_some(dropped - counters), f"{len(counters)} × {COUNTER}" if counters else ""]
    named = " and ".join(filter(None, others))
    rows = (("loaded", loaded, _parts(loaded)), ("dropped", dropped, named),
            ("new", new, _parts(new)))  # fmt: skip
    lines = [f"{kind:8}{len(names):4} tensors  {what}".rstrip() for kind, names, what in rows]
    return "\n".join([f"Weights of {source.library} from {path}", *lines])


def _parts(variables: Iterable[str]) -> str:
    """decoder, encoder, head: the parts of the network that some variables belong to."""
    return ", ".join(sorted({variable.split("/")[1] for variable in variables}))


def _some(names: Iterable[str], most: int = 4) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
