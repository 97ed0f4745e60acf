"""What a work directory remembers of its run: the configuration and the label table.

With config.json and classes.json in place, evaluation, prediction and export need no --config.
"""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from segjax.data.datasets import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.report import write_json

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


# Fields that came later, with the values that give what the runs without them were.
LATER = {
    "checkpoint_minutes": 0.0,
    "model.norm_epsilon": 1e-5,
    "model.padding": "symmetric",
    "pretrained.path": "",
    "pretrained.head": "keep",
    "pretrained.channels": "",
    "data.folds": 0,
    "data.fold": 0,
    "data.value_range": [],
}


def _read_config(workdir: Path) -> dict:
    config = _read_json(workdir / "config.json")
    for field, value in LATER.items():
        *sections, name = field.split(".")
        section = config
        for part in sections:
            section = section.setdefault(part, {})
        section.setdefault(name, value)
    # It was decoupled; of AdamW, where the field decides nothing, it must not differ.
    optim = config.setdefault("optim", {})
    optim.setdefault("sgd_decay", "decoupled" if optim.get("name") == "sgd" else "l2")
    return config


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise DataError(f"{path} is missing; train first, or correct --workdir")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}); restore it, or use another --workdir"
        ) from error


def _flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def as_json(config: ConfigDict) -> dict:
    """The configuration as config.json holds it."""
    return json.loads(config.to_json_best_effort())


def deciding_fields(config: ConfigDict) -> dict:
    """The fields of a configuration that decide what a run computes."""
    fields = _flatten(as_json(config))
    return {name: value for name, value in sorted(fields.items()) if name not in FREE}


def _holds_checkpoints(workdir: Path) -> bool:
    return any(workdir.glob("checkpoints/*"))


def require_same_run(workdir: Path, config: ConfigDict) -> None:
    """Raises ConfigError where the directory holds checkpoints of another configuration."""
    if not (workdir / "config.json").exists() or not _holds_checkpoints(workdir):
        return
    held, new = _flatten(_read_config(workdir)), _flatten(as_json(config))
    changed = [
        f"{field} was {held.get(field)!r}, is {new.get(field)!r}"
        for field in sorted(held.keys() | new.keys())
        if held.get(field) != new.get(field) and field not in FREE
    ]
    if changed:
        raise ConfigError(
            f"--workdir {workdir} holds a run of another configuration: {'; '.join(changed)}. "
            "Choose another --workdir, or give the fields their old values to resume"
        )


def require_same_data(workdir: Path, table: LabelTable, pixel_counts: np.ndarray) -> None:
    """Raises ConfigError where the directory holds checkpoints that saw other data."""
    if not (workdir / "pixel_counts.json").exists() or not _holds_checkpoints(workdir):
        return
    _, held, counts = load(workdir)
    if held != table or counts.tolist() != pixel_counts.tolist():
        raise ConfigError(
            f"--workdir {workdir} holds a run that was trained on other data: the label table "
            "or the training pixels differ. Choose another --workdir, or restore the data"
        )


def save(workdir: Path, config: ConfigDict, table: LabelTable, pixel_counts: np.ndarray) -> None:
    """Writes config.json, classes.json and pixel_counts.json.

    pixel_counts: int64 [C], the training split's pixels per class, which class weights are made of.
    """
    write_json(workdir / "config.json", as_json(config))
    write_json(workdir / "classes.json", json.loads(table.to_json()))
    counts = dict(zip(table.names, pixel_counts.tolist(), strict=True))
    write_json(workdir / "pixel_counts.json", counts)


def load(workdir: Path) -> tuple[ConfigDict, LabelTable, np.ndarray]:
    """Configuration, label table and training pixels per class; DataError where there is no run."""
    config = _read_config(workdir)
    table, counts = (_read_json(workdir / name) for name in ("classes.json", "pixel_counts.json"))
    table = LabelTable.from_json(json.dumps(table), str(workdir / "classes.json"))
    return ConfigDict(config), table, np.array(list(counts.values()))
