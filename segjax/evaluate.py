"""Evaluates a trained run on a split: report/<split>.json and its pictures.

  python -m segjax.evaluate --workdir runs/camvid-cpu --split test

The configuration comes from the work directory.
"""

from pathlib import Path

from absl import flags

from segjax import cli, processor
from segjax.errors import ConfigError

SPLITS = ("train", "val", "test")
CHECKPOINTS = ("best", "latest")


def define_flags() -> None:
    """The flags of this entry point."""
    cli.define_multihost()
    flags.DEFINE_string("workdir", None, "The run to evaluate.")
    flags.DEFINE_enum("split", "val", SPLITS, "The split to evaluate on.")
    flags.DEFINE_enum("checkpoint", "best", CHECKPOINTS, "best (by validation mIoU) or latest.")
    flags.DEFINE_string("data_root", None, "Where the data are, if not where they were.")
    flags.DEFINE_enum(
        "resolution",
        None,
        ("native", "input"),
        "Count at the labels' own resolution or at that of the network's input; as trained by "
        "default.",
    )


def evaluate_run(
    folder: Path,
    split: str = "val",
    checkpoint: str = "best",
    data_root: str | None = None,
    resolution: str | None = None,
) -> dict:
    """Scores a checkpoint of `folder` on a split, writes the report and returns it.

    At another resolution than the run's own the report is report/<split>_<resolution>.json.
    """
    from segjax import setup, state, workdir
    from segjax.checkpoint import Checkpoints
    from segjax.data import check
    from segjax.evaluator import evaluate, write_split
    from segjax.parallel import Parallel

    config, table, counts = workdir.load(folder)
    config.data.root = data_root or config.data.root
    name = split
    if resolution and config.data.fit == "pad":
        raise ConfigError(
            "--resolution is for runs that resize; this one's images keep their pixels"
        )
    if resolution and resolution != config.eval.resolution:
        config.eval.resolution = resolution
        name = f"{split}_{resolution}"
    config.data.allow_missing_classes = True  # of the training split, which is not opened here
    devices = Parallel(config.parallel)
    checkpoints = Checkpoints(folder, reads_only=True)
    step = checkpoints.find(checkpoint)
    data = check.check(config.data, splits=(split,))
    if data.table != table:
        raise ConfigError(
            f"{config.data.root}: the label table differs from the one of {folder}/classes.json; "
            "evaluate on data with the classes that were trained"
        )
    workdir.require_division(folder, data.divided)
    functions = setup.build(config, devices, len(table.names), counts, total_steps=1)
    fresh = state.create(functions.model, functions.optimizer, config.seed)
    variables = devices.replicate(checkpoints.restore_ema(fresh.ema, step))
    checkpoints.close()
    result = evaluate(
        variables,
        setup.eval_examples(config, split, data),
        step=functions.eval_step,
        loss=functions.loss,
        devices=devices,
        batch_size=config.eval.batch_size,
        num_pictures=config.eval.num_pictures,
    )
    resolution = setup.resolution_name(config)
    return write_split(folder, name, result, table, step, resolution, devices.is_first)


def main() -> None:
    """Prints the table of `evaluate_run`."""
    values = flags.FLAGS
    if not values.workdir:
        raise ConfigError("--workdir is missing; give the folder of a trained run")
    processor.use_kept_memory()
    report = evaluate_run(
        Path(values.workdir),
        values.split,
        values.checkpoint,
        values.data_root,
        values.resolution,
    )
    import jax

    from segjax.report import format_table

    if jax.process_index() == 0:
        print(format_table(report))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
