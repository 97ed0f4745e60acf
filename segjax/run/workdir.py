"""What a work directory remembers of its run: the configuration and the label table.

With config.json and classes.json in place, evaluation, prediction and export need no --config.
"""

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from segjax import defaults
from segjax.data import normalization
from segjax.data.counts import Report
from segjax.data.label_table import LabelTable
from segjax.defaults import MOVED
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import expand_config, read_text, write_json

log = logging.getLogger(__name__)
# Fields that change where and how fast a run goes, not what it computes.
FREE = {
    "parallel",
    "log_every",
    "checkpoint_minutes",
    "data.root",
    "data.num_threads",
    "data.cache_gb",
    "data.device_gb",
    "eval.num_pictures",
}


def _flatten(config: dict) -> dict[str, object]:
    """{"optim": {"name": "sgd"}} to {"optim.name": "sgd"}."""
    return flatten_dict(config, sep=".")


def as_json(config: ConfigDict) -> dict:
    """The configuration as config.json holds it."""
    return json.loads(config.to_json_best_effort())


# The sections of families and of the refiner: a run that has not that of one is not made of it.
_defaults = _flatten(as_json(defaults.get_config()))
SECTIONS = {
    field: value
    for field, value in _defaults.items()
    if field.startswith("refiner.") or (field.startswith("model.") and field.count(".") == 2)
}
# Fields that came later, with the values that give what the runs without them were.
LATER = {
    **SECTIONS,
    "checkpoint_minutes": 0.0,
    "model.name": "unet",
    "model.encoder": "mobilenet_v2",
    "model.mobilenet_v2.norm_epsilon": 1e-5,
    "model.mobilenet_v2.padding": "symmetric",
    "pretrained.path": "",
    "pretrained.head": "keep",
    "pretrained.channels": "",
    "data.folds": 0,
    "data.fold": 0,
    "data.divide": "thresholds",
    "data.subfolders": False,
    "data.pairing": "",
    "data.list": "",
    "data.missing_mask": "raise",
    "data.group_by": "",
    "data.value_range": [],
    "data.bands": "rgb",
    "data.channels": 3,
    "data.dtype": "uint8",
    "data.pages": "refuse",
    "data.normalize": "given",
    "data.windows": [],
    "model.clip": False,
    "augment.noise": 0.0,
    "augment.blur": 0.0,
    "data.drawn": [],
    "optim.sgd_decay": "decoupled",
    "optim.warmup_steps": 0,
    "optim.poly_power": 0.9,
    "loss.boundary": 0.0,
    "gan.feature_matching": 0.0,
    "gan.r1": 0.0,
    "gan.boundary_only": False,
}

# Those of LATER whose default is another today.
DEFAULTS = {"data.divide": "shares", "data.subfolders": True, "optim.sgd_decay": "l2"}

# Fields that the data decide where they are left as they are here.
OPEN = {"data.bands": "auto", "data.channels": 0, "data.dtype": "", "data.normalize": "auto"}
MEASURED = ("model.mean", "model.std")  # if config.data.normalize says so


@cache
def _say_moved(path: Path, fields: str) -> None:
    """Once for each file, which is read several times."""
    log.info("%s is of an earlier version; fields read under their new names: %s", path, fields)


def _read_config(workdir: Path) -> dict:
    fields = _flatten(_read_json(workdir / "config.json"))
    moved = {field: fields.pop(field) for field in MOVED.keys() & fields.keys()}
    if moved:
        names = ", ".join(sorted(MOVED[field] for field in moved))
        _say_moved((workdir / "config.json").absolute(), names)
    fields = {MOVED[field]: value for field, value in moved.items()} | fields
    config = unflatten_dict(LATER | fields, sep=".")
    expand_config(config)
    return config


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise DataError(f"{path} is missing; train first, or correct --workdir")
    try:
        return json.loads(read_text(path))
    except (ValueError, DataError) as error:
        raise DataError(
            f"{path} is damaged ({error}); restore it, or use another --workdir"
        ) from error


def deciding_fields(config: ConfigDict) -> dict:
    """The fields of a configuration that decide what a run computes."""
    fields = _flatten(as_json(config))
    return {name: value for name, value in sorted(fields.items()) if name not in FREE}


def as_trained(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The configuration, with what an earlier version trained the run with in place of defaults.

    So the command that trained a run resumes it, although a default is another now.
    """
    if not holds_checkpoints(workdir):
        return config
    config, stored = config.copy_and_resolve_references(), _flatten(_read_config(workdir))
    for field, default in DEFAULTS.items():
        section, name = field.split(".")
        if stored[field] == LATER[field] and config[section][name] == default:
            log.info("config.%s = %r, as the run was trained", field, stored[field])
            config[section][name] = stored[field]
    found = {k: stored[k] for k, v in OPEN.items() if _flatten(config.to_dict())[k] == v}
    if stored["data.normalize"] in normalization.MEASURED:
        found |= {field: tuple(stored[field]) for field in MEASURED}
    for field, value in found.items():
        section, name = field.split(".")
        config[section][name] = value
    return config


def holds_checkpoints(workdir: Path) -> bool:
    """Whether something is saved in a work directory."""
    return any(workdir.glob("checkpoints/*"))


def require_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises ConfigError where the directory holds checkpoints of another configuration."""
    if not (workdir / "config.json").exists() or not holds_checkpoints(workdir):
        return
    stored, new = _flatten(_read_config(workdir)), _flatten(as_json(config))
    changed = [
        f"{field} was {stored.get(field)!r}, is {new.get(field)!r}"
        for field in sorted(stored.keys() | new.keys())
        if stored.get(field) != new.get(field) and field not in FREE
    ]
    if changed:
        raise ConfigError(
            f"--workdir {workdir} holds a run of another configuration: {'; '.join(changed)}. "
            "Choose another --workdir, or give the fields their old values to resume"
        )


def require_same_data(workdir: Path, table: LabelTable, pixel_counts: np.ndarray) -> None:
    """Raises ConfigError where the directory holds checkpoints that saw other data."""
    if not (workdir / "pixel_counts.json").exists() or not holds_checkpoints(workdir):
        return
    _, stored, counts = load(workdir)
    if stored != table or counts.tolist() != pixel_counts.tolist():
        raise ConfigError(
            f"--workdir {workdir} holds a run that was trained on other data: the label table "
            "or the training pixels differ. Choose another --workdir, or restore the data"
        )


def require_division(workdir: Path, divided: dict[str, str]) -> None:
    """Raises ConfigError where a folder is divided otherwise than when the run was trained.

    divided: of `check.Report`.
    """
    path = workdir / "splits.json"  # missing in runs of earlier versions: divided by thresholds
    stored = _read_json(path) if path.exists() and holds_checkpoints(workdir) else {}
    moved = [split for split in divided if stored.get(split, divided[split]) != divided[split]]
    if moved:
        raise ConfigError(
            f"the run of --workdir {workdir} was trained on one folder, divided by shares; images "
            f"were added, removed or renamed since, and {' and '.join(moved)} would be others "
            "(perhaps with images that were trained on). Restore the folder, or train again in "
            "another --workdir; to add images later, put them into ROOT/{train,val,test}, or set "
            "config.data.divide=thresholds"
        )


def save(workdir: Path, config: ConfigDict, data: Report) -> None:
    """Writes config.json and, of the checked data, classes.json, pixel_counts.json, splits.json.

    The training split's pixels per class are what class weights are made of.
    """
    write_json(workdir / "config.json", as_json(config))
    write_json(workdir / "classes.json", json.loads(data.table.to_json()))
    counts = dict(zip(data.table.names, data.pixel_counts["train"].tolist(), strict=True))
    write_json(workdir / "pixel_counts.json", counts)
    write_json(workdir / "splits.json", data.divided)


def load(workdir: Path) -> tuple[ConfigDict, LabelTable, np.ndarray]:
    """Configuration, label table and training pixels per class; DataError where there is no run."""
    config = _read_config(workdir)
    table, counts = (_read_json(workdir / name) for name in ("classes.json", "pixel_counts.json"))
    table = LabelTable.from_json(json.dumps(table), str(workdir / "classes.json"))
    return ConfigDict(config), table, np.array(list(counts.values()))
