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
    "data.root",
    "data.num_threads",
    "data.cache_gb",
    "eval.batch_size",
    "eval.num_pictures",
}


def _flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def open_for_training(workdir: Path, config: ConfigDict) -> None:
    """Makes the directory and writes config.json.

    Raises ConfigError where the directory cannot be written, or holds checkpoints of another
    configuration.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / ".writable").touch()
        (workdir / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            f"--workdir {workdir} cannot be written ({error.strerror}); choose another"
        ) from error
    path = workdir / "config.json"
    wanted = json.loads(config.to_json_best_effort())
    if path.exists() and any(workdir.glob("checkpoints/*")):
        held, new = _flatten(json.loads(path.read_text())), _flatten(wanted)
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
    write_json(path, wanted)


def save_table(workdir: Path, table: LabelTable, pixel_counts: np.ndarray) -> None:
    """Writes classes.json, and the training pixels per class, which class weights are made of."""
    write_json(workdir / "classes.json", json.loads(table.to_json()))
    counts = dict(zip(table.names, pixel_counts.tolist(), strict=True))
    write_json(workdir / "pixel_counts.json", counts)


def load(workdir: Path) -> tuple[ConfigDict, LabelTable, np.ndarray]:
    """Configuration, label table and training pixels per class; DataError where there is no run."""
    content = []
    for name in ("config.json", "classes.json", "pixel_counts.json"):
        path = workdir / name
        if not path.is_file():
            raise DataError(f"{path} is missing; train first, or correct --workdir")
        content.append(path.read_text())
    config, table, counts = content
    table = LabelTable.from_json(table, str(workdir / "classes.json"))
    return ConfigDict(json.loads(config)), table, np.array(list(json.loads(counts).values()))
