"""A trained run, scored on one of its splits or on other labelled data."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from segjax.data.label_table import BINARY_HINT
from segjax.data.pipeline import EvalSplit
from segjax.errors import ConfigError, DataError
from segjax.evaluation import scored
from segjax.evaluation import tta as test_time
from segjax.evaluation.evaluator import Evaluation, evaluate, write_report
from segjax.evaluation.scored import SPLITS, Scored
from segjax.run import workdir
from segjax.run.state import fingerprint
from segjax.runtime.devices import Parallel
from segjax.runtime.files import expand
from segjax.training import build
from segjax.weights import downloaded, runs
from segjax.weights.runs import Trained

log = logging.getLogger(__name__)


def evaluate_run(
    folder: str | Path,
    split: str = "val",
    checkpoint: str = "best",
    data_root: str | None = None,
    resolution: str | None = None,
    *,
    images: str | None = None,
    masks: str | None = None,
    name: str | None = None,
    output: str | Path | None = None,
    tta: Sequence[str] = (),
    refine: str | Path | None = None,
) -> dict:
    """Scores a checkpoint of `folder`, writes the report and returns it.

    Args:
      folder: a work directory, or weights of another library (`downloaded.restore`), which need
        `data_root`, or `images` and `masks`, and `output`.

    For the others see the flags of segjax.evaluate. A report's name says what is not as it was in
    training: val_input_tta_flip. (Long, for it has many arguments.)
    """
    data_root, images, masks, output = (
        place and expand(str(place)) for place in (data_root, images, masks, output)
    )
    if split not in scored.SPLITS:
        raise ConfigError(f"split is {split!r}; choose one of {scored.SPLITS}")
    place = data_root or (masks and Path(masks).absolute().parent)
    run = _open(Path(expand(str(folder))), checkpoint, refine, place, output)
    config, table, folder = run.trained.config, run.trained.table, run.folder
    changes = [] if checkpoint == "best" else [checkpoint]
    changes += _set_resolution(config, resolution)
    if tta:
        test_time.scales(tta)
        changes += ["tta", *tta]
    _check_place(folder, name, output)
    devices = Parallel(config.parallel)
    data = scored.find(folder, config.data, table, split, data_root, images, masks)
    if folder is None:
        _require_foreground(data)
    for warning in data.report.warnings:
        log.warning("%s", warning)
    config.data = data.config
    path = Path(output or f"{folder}/report/{name or '_'.join([data.name, *changes])}.json")
    if data.name != split and not (name or output):
        _require_same_data(path, data)
    segmenter = run.trained.segmenter
    compiled = build.compile_steps(
        config, devices, len(table.names), run.counts, total_steps=1, tta=tta, segmenter=segmenter
    )
    examples = build.eval_examples(
        config, data.split, data.report, data.source, data.place, segmenter
    )
    result = _evaluate(compiled, config, devices, examples, run.trained.variables)
    log.info("Pictures and scores: %s", path)
    resolution = build.resolution_name(config)
    result.data.update(run.about)
    return write_report(path, result, table, run.trained.step, resolution, tta, devices.is_first)


class _Run(NamedTuple):
    """What is scored; folder: its work directory, None if it is another library's.

    counts: pixels [C] of its training split, which class weights of the loss are made of; about:
    what a report says of weights that are no run's.
    """

    trained: Trained
    counts: np.ndarray
    folder: Path | None
    about: dict[str, Any]


def _open(
    path: Path,
    checkpoint: str,
    refine: str | Path | None,
    place: str | Path | None,
    output: str | Path | None,
) -> _Run:
    """place, output: where the data are and the report goes, which weights have none of."""
    if not downloaded.holds_weights(path):
        folder = runs.with_refiner(path, refine)
        counts = workdir.load(folder)[2]
        return _Run(runs.restore(folder, checkpoint), counts, folder, {})
    downloaded.require_alone(path, checkpoint, refine)
    if not (place and output):
        raise ConfigError(
            "weights of another library have no data and no place of their own; give --data_root, "
            "or --images and --masks, and --output, a .json file"
        )
    trained = downloaded.restore(path, root=place)
    about = {"weights": str(path), "parameters": fingerprint(trained.variables["params"])}
    return _Run(trained, np.ones(len(trained.table.names), int), None, about)


def _require_foreground(data: Scored) -> None:
    """Raises DataError where masks of 0 and 255 may have been read by a table of 0 and 1."""
    counts = data.report.pixel_counts[data.split]
    if len(counts) == 2 and counts[1] == 0 and data.report.void_counts[data.split]:
        name = data.report.table.names[1]
        raise DataError(f"no pixel of {name!r}, but void; {BINARY_HINT}, in a classes.json")


def _set_resolution(config: ConfigDict, resolution: str | None) -> list[str]:
    """Changes where scores are counted; returns what a report's name says of it."""
    if resolution and config.data.fit == "pad":
        raise ConfigError(
            "--resolution is for runs that resize; this one's images keep their pixels"
        )
    if not resolution or resolution == config.eval.resolution:
        return []
    config.eval.resolution = resolution
    return [resolution]


def _evaluate(
    compiled: build.CompiledSteps,
    config: ConfigDict,
    devices: Parallel,
    examples: EvalSplit,
    variables: Any,
) -> Evaluation:
    return evaluate(
        devices.replicate(variables),
        examples,
        step=compiled.eval_step,
        loss=compiled.loss,
        logits=compiled.logits,
        devices=devices,
        batch_size=config.eval.batch_size,
        num_pictures=config.eval.num_pictures,
    )


def _check_place(folder: Path | None, name: str | None, output: str | Path | None) -> None:
    """Raises ConfigError where a report would not be found, or be taken for that of a split."""
    if name and output:
        raise ConfigError("--name and --output are both given; leave one of them out")
    if output and Path(output).suffix != ".json":
        raise ConfigError(f"--output {output}: give a file that ends in .json")
    inside = folder and output and Path(output).resolve().parent == (folder / "report").resolve()
    name = Path(output).stem if inside else name
    if name and (name.split("_")[0] in SPLITS or "/" in name):
        raise ConfigError(
            f"--name or --output: {name!r} would be taken for a report on the run's own data, or "
            f"is a path; choose another whose first word is none of {', '.join(SPLITS)}"
        )


def _require_same_data(path: Path, data: Scored) -> None:
    """Raises ConfigError where a report is of other data that have the same name."""
    try:
        recorded = json.loads(path.read_text())["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or of an earlier version
        return
    if recorded != data.report.sha256[data.split]:
        raise ConfigError(
            f"{path} is of other data of this name; give --name, or remove the report"
        )
