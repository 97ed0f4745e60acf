"""Evaluates a trained run on a split, or on other labelled data: scores as JSON, and pictures.

  python -m segjax.evaluate --workdir runs/camvid-cpu --split test
  python -m segjax.evaluate --workdir runs/camvid-cpu --split test --tta=flip,0.75,1.25
  python -m segjax.evaluate --workdir runs/camvid-cpu --data_root other
  python -m segjax.evaluate --workdir runs/camvid-cpu --images other/photos --masks other/masks

The configuration comes from the work directory. report/<split>.json has the scores of the run's own
data, also where --data_root says that they have moved; those of other data go to report/<name>.json
and are of all images of a folder ROOT/{images,masks}, or of the split of a ROOT that is divided
into folders. Other data may have a classes.json that names the same classes.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from segjax.errors import ConfigError
from segjax.runtime import cli, process
from segjax.runtime.files import expand

if TYPE_CHECKING:
    from segjax.evaluation.scored import Scored

log = logging.getLogger("segjax.evaluate")  # its __name__ is __main__
SPLITS = ("train", "val", "test")
CHECKPOINTS = ("best", "latest")


def define_flags() -> None:
    """The flags of this entry point."""
    cli.define_multihost()
    flags.DEFINE_string("workdir", None, "The run to evaluate.")
    flags.DEFINE_enum("split", "val", SPLITS, "The split to evaluate on.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_string(
        "data_root", None, "Where the run's data are, if not where they were, or other data."
    )
    flags.DEFINE_string("images", None, "A folder of images, all to be scored, with --masks.")
    flags.DEFINE_string("masks", None, "A folder of masks that have the names of the images.")
    flags.DEFINE_string("name", None, "The report's name; by default the split's or the folder's.")
    flags.DEFINE_string(
        "output", None, "A .json file for the report, in place of report/NAME.json."
    )
    flags.DEFINE_list("tta", [], "Average over flip and scales, as in segjax.predict: flip,0.75.")
    flags.DEFINE_enum(
        "resolution",
        None,
        ("native", "input"),
        "Count at the labels' own resolution or at that of the network's input; as trained by "
        "default.",
    )


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
) -> dict:
    """Scores a checkpoint of `folder`, writes the report and returns it.

    See the flags. A report's name says what is not as it was in training: val_input_tta_flip.
    """
    from segjax.evaluation import scored
    from segjax.evaluation import tta as test_time
    from segjax.evaluation.evaluator import evaluate, write_report
    from segjax.run import state, workdir
    from segjax.run.checkpoints import Checkpoints
    from segjax.runtime.devices import Parallel
    from segjax.training import build

    folder = Path(expand(str(folder)))
    data_root, images, masks, output = (
        place and expand(str(place)) for place in (data_root, images, masks, output)
    )
    config, table, counts = workdir.load(folder)
    changes = [] if checkpoint == "best" else [checkpoint]
    if resolution and config.data.fit == "pad":
        raise ConfigError(
            "--resolution is for runs that resize; this one's images keep their pixels"
        )
    if resolution and resolution != config.eval.resolution:
        config.eval.resolution = resolution
        changes.append(resolution)
    if tta:
        test_time.scales(tta)
        changes += ["tta", *tta]
    _check_place(folder, name, output)
    devices = Parallel(config.parallel)
    checkpoints = Checkpoints(folder, reads_only=True)
    step = checkpoints.find(checkpoint)
    data = scored.find(folder, config.data, table, split, data_root, images, masks)
    for warning in data.report.warnings:
        log.warning("%s", warning)
    config.data = data.config
    path = Path(output or folder / "report" / f"{name or '_'.join([data.name, *changes])}.json")
    if data.name != split and not (name or output):
        _require_same_data(path, data)
    functions = build.build(config, devices, len(table.names), counts, total_steps=1, tta=tta)
    fresh = state.create(functions.model, functions.optimizer, config.seed)
    variables = devices.replicate(checkpoints.restore_ema(fresh.ema, step))
    checkpoints.close()
    result = evaluate(
        variables,
        build.eval_examples(config, data.split, data.report, data.source, data.place),
        step=functions.eval_step,
        loss=functions.loss,
        logits=functions.logits,
        devices=devices,
        batch_size=config.eval.batch_size,
        num_pictures=config.eval.num_pictures,
    )
    log.info("Pictures and scores: %s", path)
    resolution = build.resolution_name(config)
    return write_report(path, result, table, step, resolution, tta, devices.is_first)


def _check_place(folder: Path, name: str | None, output: str | Path | None) -> None:
    """Raises ConfigError where a report would not be found, or be taken for that of a split."""
    if name and output:
        raise ConfigError("--name and --output are both given; leave one of them out")
    if output and Path(output).suffix != ".json":
        raise ConfigError(f"--output {output}: give a file that ends in .json")
    inside = output and Path(output).resolve().parent == (folder / "report").resolve()
    name = Path(output).stem if inside else name
    if name and (name.split("_")[0] in SPLITS or "/" in name):
        raise ConfigError(
            f"--name or --output: {name!r} would be taken for a report on the run's own data, or "
            f"is a path; choose another whose first word is none of {', '.join(SPLITS)}"
        )


def _require_same_data(path: Path, data: "Scored") -> None:
    """Raises ConfigError where a report is of other data that have the same name."""
    try:
        held = json.loads(path.read_text())["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or of an earlier version
        return
    if held != data.report.sha256[data.split]:
        raise ConfigError(
            f"{path} is of other data of this name; give --name, or remove the report"
        )


def main() -> None:
    """Prints the table of `evaluate_run`."""
    values = flags.FLAGS
    if not values.workdir:
        raise ConfigError("--workdir is missing; give the folder of a trained run")
    if (values.images or values.masks) and (values.data_root or values["split"].present):
        raise ConfigError(
            "--images and --masks are scored whole; leave out --data_root and --split"
        )
    names = ("split", "checkpoint", "data_root", "resolution")
    names += ("images", "masks", "name", "output", "tta")
    process.use_kept_memory()
    report = evaluate_run(values.workdir, **{name: values[name].value for name in names})
    import jax

    from segjax.evaluation.report import format_table

    if jax.process_index() == 0:
        print(format_table(report))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
