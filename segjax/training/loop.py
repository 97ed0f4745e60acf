"""The training loop: configuration and work directory in, trained state and scores out."""

import logging
import math
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax.errors import DataError, Interrupted
from segjax.evaluation import boundary, plots
from segjax.evaluation.evaluator import write_report
from segjax.evaluation.report import format_table
from segjax.run import lock, profile
from segjax.run.progress import Progress
from segjax.run.tensorboard import Summaries
from segjax.runtime.devices import Parallel
from segjax.runtime.files import expand
from segjax.runtime.signals import catch_signals
from segjax.training import adversarial, build
from segjax.training.totals import Totals, prefixed
from segjax.training.trainer import State, Trainer

log = logging.getLogger(__name__)
OnEpoch = Callable[[list[dict[str, float]]], None]


def train_and_evaluate(
    config: ConfigDict,
    folder: str | Path,
    on_epoch: OnEpoch | None = None,
    profile_steps: int = 0,
) -> tuple[State, dict]:
    """Trains, or resumes, and evaluates the best checkpoint on the validation split.

    Args:
      on_epoch: called after every epoch with a row per epoch so far: epoch, train_loss … and, where
        an evaluation ran, and the epoch was saved, val_mean_iou …. What it raises ends
        the run; of several processes, all have to raise it.
      profile_steps: how many steps to trace, see `profile.traced`.

    Returns:
      The last state, unreplicated, and the report that is also in report/val.json.

    Raises:
      ConfigError, DataError: before the first step, for what cannot work.
      InUseError: where another run trains in the work directory.
      TrainingError: when the loss, a gradient or the state is no longer finite.
      Interrupted: after SIGINT or SIGTERM, with everything saved.
    """
    folder = Path(expand(str(folder)))
    with lock.hold(folder, Parallel(config.parallel)):
        trainer = Trainer(config, folder)
        try:
            return trainer.devices.unreplicate(
                _train(trainer, on_epoch, profile_steps)
            ), write_reports(trainer)
        finally:
            trainer.checkpoints.close()


def _train(trainer: Trainer, on_epoch: OnEpoch | None, profile_steps: int) -> State:
    train_state = trainer.devices.replicate(trainer.start_state)
    steps = trainer.start_step, trainer.total_steps, trainer.steps_per_epoch
    with (
        catch_signals() as signals,
        Summaries(trainer.folder, purge_step=trainer.start_step + 1) as summaries,
        Progress(*steps, trainer.config.batch_size) as progress,
    ):
        summaries.text(trainer.start_step, "config", f"```\n{trainer.config}\n```")
        numbers = range(trainer.start_step + 1, trainer.total_steps + 1)
        numbers = profile.traced(numbers, trainer.folder / "tensorboard", profile_steps)
        return _loop(trainer, numbers, train_state, signals, summaries, progress, on_epoch)


def _loop(
    trainer: Trainer,
    numbers: Iterable[int],
    train_state: State,
    signals: list[int],
    summaries: Summaries,
    progress: Progress,
    on_epoch: OnEpoch | None,
) -> State:
    pending: list[Any] = []
    batches = progress.timed(trainer.batches())
    for step in numbers:
        try:
            batch = next(batches)
        except DataError:  # a file that was there when the run began
            if pending:
                _log_steps(trainer, step - 1, pending, summaries, progress)
            if trainer.devices.is_alone:  # saving takes all processes; the others know nothing
                trainer.save(train_state)
            raise
        train_state, metrics = trainer.train_step(step, train_state, batch)
        pending.append(metrics)
        progress.step(trainer.compiles(step))
        epoch_ends = step % trainer.steps_per_epoch == 0
        log_now = trainer.compiles(step) or step % trainer.config.log_every == 0 or epoch_ends
        stop, save = _stop_or_save(trainer, signals, log_now)
        if log_now or stop or save:
            _log_steps(trainer, step, pending, summaries, progress)
        if epoch_ends:
            _end_epoch(trainer, step, train_state, summaries)
            stop = trainer.devices.any(bool(signals))  # one may have come during the evaluation
        if stop or save:
            trainer.save(train_state)
        if stop:
            raise _interrupted(step, signals)
        if epoch_ends or save:
            progress.pause()
        if epoch_ends and on_epoch:
            on_epoch(trainer.epochs)
    return train_state


def _stop_or_save(trainer: Trainer, signals: list[int], log_now: bool) -> tuple[bool, bool]:
    """Whether to stop and whether to save after this step; processes agree at log lines."""
    flags = bool(signals), trainer.save_is_due()
    if log_now:
        return tuple(map(trainer.devices.any, flags))
    return tuple(trainer.devices.is_alone and flag for flag in flags)


def _interrupted(step: int, signals: list[int]) -> Interrupted:
    message = f"stopped at step {step}, everything is saved; the same command resumes"
    return Interrupted(message, signals[0] if signals else signal.SIGTERM)


def _log_steps(
    trainer: Trainer, step: int, pending: list[Any], summaries: Summaries, progress: Progress
) -> None:
    """Fetches the metrics of the steps since the last call, adds them up and shows them."""
    window = Totals()
    for i, metrics in enumerate(pending):
        metrics = trainer.devices.unreplicate(metrics)
        values = {name: metrics[name] for name in ("loss", "grad_norm")} | metrics.get("gan", {})
        bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise trainer.diverged(", ".join(bad), step - len(pending) + 1 + i)
        window.add(metrics)
        trainer.totals.add(metrics)
    pending.clear()
    scores = window.scores()
    speed = progress.show(step, scores["loss"], scores["accuracy"])
    rate = float(trainer.compiled.schedule(step - 1))
    other = {"learning_rate": rate, "grad_norm": float(metrics["grad_norm"]), **speed}
    summaries.scalars(step, prefixed("train/", {**scores, **other}))


def _end_epoch(trainer: Trainer, step: int, train_state: State, summaries: Summaries) -> None:
    """Adds the row of the epoch; where an evaluation is due, scores and saves."""
    epoch = step // trainer.steps_per_epoch
    scores = trainer.totals.scores()
    row = {"epoch": epoch, "step": step, **prefixed("train_", scores)}
    trainer.totals = Totals()
    _warn_if_the_discriminator_won(trainer, step, scores, summaries)
    trainer.epochs.append(row)
    if epoch % trainer.config.eval.every_epochs and step != trainer.total_steps:
        return
    result = trainer.validate(train_state.ema)
    scores = result.scores
    values = {
        "loss": result.loss,
        "accuracy": scores["pixel_accuracy"],
        **{name: score for name, score in scores.items() if name.startswith("mean_")},
    }
    row |= prefixed("val_", values)
    shown = ("loss", "accuracy", "mean_iou", f"mean_{boundary.NAMES[0]}")
    log.info(
        "epoch %d  val loss %.4f  val accuracy %.3f  val mIoU %.4f  boundary IoU %.4f",
        *(epoch, *(values[name] for name in shown)),
    )
    summaries.scalars(step, prefixed("val/", values))
    per_class = dict(zip(trainer.table.names, scores["iou"].tolist(), strict=True))
    summaries.scalars(step, prefixed("val_iou/", per_class))
    trainer.save(train_state, scores["mean_iou"])
    if not trainer.devices.is_first:
        return
    if result.pictures:
        panel = plots.prediction_panel(*zip(*result.pictures, strict=True), trainer.table.palette)
        summaries.picture(step, "val/predictions", panel)
    plots.training_curves(trainer.epochs, trainer.folder / "report" / "training_curves.png")


def _warn_if_the_discriminator_won(
    trainer: Trainer, step: int, scores: dict[str, float], summaries: Summaries
) -> None:
    loss = scores.get("gan/discriminator_loss")
    if loss is not None and adversarial.has_won(trainer.config.gan.objective, loss):
        warning = (
            f"The discriminator has won: its mean loss of the epoch to step {step} is {loss:.4f}, "
            "and the segmenter learns little from it. Lower config.gan.learning_rate or "
            "config.gan.softening, or set config.gan.spectral_norm, in another --workdir"
        )
        log.warning(warning)
        summaries.text(step, "gan/warning", warning)


def write_reports(trainer: Trainer) -> dict:
    """Evaluates the best checkpoint on the validation split and writes everything in report/."""
    best = trainer.checkpoints.find("best")
    variables = trainer.checkpoints.restore_ema(trainer.start_state.ema, best)
    result = trainer.validate(trainer.devices.replicate(variables))
    resolution = build.resolution_name(trainer.config)
    path = trainer.folder / "report" / "val.json"
    content = write_report(
        path, result, trainer.table, best, resolution, writes=trainer.devices.is_first
    )
    log.info(
        "Validation split, best checkpoint:\n%s\n\nPictures and scores: %s\nCurves: tensorboard "
        "--logdir %s",
        *(format_table(content), trainer.folder / "report", trainer.folder / "tensorboard"),
    )
    return content
