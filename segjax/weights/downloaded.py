"""A whole network of another library as if it had been trained here: from a file or a folder.

What the weights do not say comes from the config.json and preprocessor_config.json beside them, or,
of segjax's own exports, from their header.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from segjax import defaults, models
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import read_text
from segjax.weights import pretrained, settings, tensor_files
from segjax.weights.mapping import HEAD, Source
from segjax.weights.runs import Trained
from segjax.weights.settings import Settings
from segjax.weights.tensor_files import IN_FOLDERS, SUFFIXES, Tensors

log = logging.getLogger(__name__)
# Where nothing tells how images met the network: they keep their pixels. An exported ONNX file, of
# one size, has this.
DATA = {"fit": "pad", "size": (512, 512)}
BIAS = f"{HEAD}bias"
RUN = "pixel_counts.json"  # in every work directory
MAX_CLASSES = 255


def holds_weights(path: Path) -> bool:
    """Whether it is a folder with weights and no run, or a file of weights by its name."""
    if path.is_dir():
        return not (path / RUN).is_file() and tensor_files.located(path) != path
    return path.suffix.lower() in SUFFIXES


def require(path: Path) -> None:
    """Raises DataError where there are no weights."""
    if not path.exists():
        raise DataError(f"--pretrained {path}: no such file or folder")
    if not holds_weights(path):
        raise DataError(
            f"--pretrained {path}: no weights; give a folder with {' or '.join(IN_FOLDERS)}, or a "
            f"file that ends in {', '.join(SUFFIXES)}"
        )


def require_alone(path: Path, checkpoint: str, refine: str | Path | None) -> None:
    """Raises ConfigError for what a run has and weights have not."""
    if refine or checkpoint != "best":
        flag = "refine" if refine else "checkpoint"
        raise ConfigError(f"--{flag} is for --workdir; {path} holds weights of another library")


def restore(path: Path, dtype: str = "float32", root: str | Path | None = None) -> Trained:
    """The network and its classes, in the form of a run at step 0.

    A network with one output, the logit of a foreground, becomes one of two classes with the same
    probabilities.

    Args:
      root: a folder whose classes.json names the classes where nothing beside the weights does.

    Raises:
      DataError: where the file cannot be read, or is not complete.
      ConfigError: where it is not a whole network, or one that segjax has not.
    """
    tensors = tensor_files.read(path)
    source = pretrained.recognise(path, tensors)
    classes = _num_outputs(path, source, tensors)
    own = tensor_files.read_header(path)
    if own and "model" not in own:
        raise ConfigError(f"{path} is of an earlier version; export it again from its run")
    found = settings.NONE if own else settings.read(path, source.library, classes)
    config = _config(source, tensors, found, own)
    config.model.dtype = dtype
    table = _table(found, classes) if found.names else _own_table(path, root, own)
    table = table or _table(found, classes)
    if len(table.names) != max(classes, 2):
        raise DataError(
            f"{path} has {classes} classes, and its classes.json names {len(table.names)}"
        )
    config.data.classes = table.to_json()
    variables = pretrained.load(
        path,
        _zeros(models.build(config.model, classes, channels=config.data.channels)),
        tensors=tensors,
    )
    if classes == 1:
        variables["params"]["head"] = _with_background(variables["params"]["head"])
    model = models.build(config.model, len(table.names), channels=config.data.channels)
    _log(config, table)
    return Trained(model, variables, config, table, step=0)


def _own_table(path: Path, root: str | Path | None, own: dict[str, Any]) -> LabelTable | None:
    """Of the header, or of a classes.json beside the weights or the data, if there is one."""
    if own:
        return LabelTable.from_json(json.dumps(own["table"]))
    folder = path if path.is_dir() else path.parent
    for place in (folder, root):
        if place and (Path(place) / "classes.json").is_file():
            file = Path(place) / "classes.json"
            return LabelTable.from_json(read_text(file), str(file))
    return None


def _num_outputs(path: Path, source: Source, tensors: Tensors) -> int:
    name = next((row.name for row in source.rows if row.variable == BIAS), None)
    if name not in tensors:
        raise ConfigError(
            f"{path} holds an encoder of {source.network} and no whole network; train from it with "
            f"--config.pretrained.path={path}"
        )
    classes = tensors[name].size
    if classes > MAX_CLASSES:
        raise ConfigError(f"{path} has {classes} classes; segjax has at most {MAX_CLASSES}")
    return classes


def _config(source: Source, tensors: Tensors, found: Settings, own: dict[str, Any]) -> ConfigDict:
    config = defaults.get_config()
    config.model.update_from_flattened_dict(
        source.needed(tensors) | source.conventions | found.model
    )
    config.data.update({**DATA, **found.data})
    config.lock()  # what a later version has written is refused
    fields = {
        f"model.{key}": value for key, value in flatten_dict(own.get("model", {}), sep=".").items()
    }
    fields |= {f"data.{key}": own[key] for key in ("size", "fit", "value_range") if own}
    kind = own.get("pixels", {"bands": "rgb", "channels": 3, "dtype": "uint8"})
    fields |= {f"data.{key}": kind[key] for key in ("bands", "channels", "dtype")}
    fields["data.pages"] = kind.get("pages", "refuse")
    fields["data.normalize"] = "image" if kind.get("per_image") else "given"
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    try:
        config.update_from_flattened_dict(fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"the weights are of another version of segjax: {error}") from error
    config.unlock()
    return config


def _table(found: Settings, classes: int) -> LabelTable:
    names = list(found.names) or [f"class {i}" for i in range(classes)]
    if classes == 1:
        names = ["background", names[0] if found.names else "foreground"]
    twice = {name for name in names if names.count(name) > 1}
    names = [f"{name} {i}" if name in twice else name for i, name in enumerate(names)]
    content: dict[str, Any] = {"classes": names}
    if found.reduces_labels:
        content |= {"values": [i + 1 for i in range(len(names))], "void": [0]}
        content["void"] += [255] if len(names) < 255 else []
    if found.ignored is not None:
        values = [[] if i == found.ignored else [i] for i in range(len(names))]
        content |= {"values": values, "void": [found.ignored, 255]}
    return LabelTable.from_json(json.dumps(content))


def _zeros(model: Any) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, 64, 64, model.in_channels), jnp.uint8)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))
    return {name: arrays.get(name, {}) for name in ("params", "batch_stats")}


def _with_background(head: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """A class whose logit is 0 before the one there is: softmax is then the other's sigmoid."""
    return {name: jnp.concatenate([jnp.zeros_like(x), x], axis=-1) for name, x in head.items()}


def _log(config: ConfigDict, table: LabelTable) -> None:
    size = "{}×{}".format(*config.data.size)
    fit = f"stretched to {size}" if config.data.fit == "resize" else "taken at their own size"
    values = [", ".join(f"{x:g}" for x in config.model[name]) for name in ("mean", "std")]
    log.info(
        "Images are %s, less (%s), over (%s); classes: %s", fit, *values, ", ".join(table.names)
    )
