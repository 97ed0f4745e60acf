"""The training loop: configuration and work directory in, trained state and scores out."""

import logging
import math
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
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
from segjax.training.trainer import Run, State

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
      on_epoch: called after every epoch with the history: a row per epoch, with epoch, train_loss …
        and, where an evaluation ran, and the epoch was saved, val_mean_iou …. What it raises ends
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
        run = Run(config, folder)
        try:
            return run.devices.unreplicate(_train(run, on_epoch, profile_steps)), write_reports(run)
        finally:
            run.checkpoints.close()


def _train(run: Run, on_epoch: OnEpoch | None, profile_steps: int) -> State:
    train_state = run.devices.replicate(run.start_state)
    steps = run.start_step, run.total_steps, run.steps_per_epoch
    with (
        catch_signals() as signals,
        Summaries(run.folder, purge_step=run.start_step + 1) as summaries,
        Progress(*steps, run.config.batch_size) as progress,
    ):
        summaries.text(run.start_step, "config", f"```\n{run.config}\n```")
        numbers = range(run.start_step + 1, run.total_steps + 1)
        numbers = profile.traced(numbers, run.folder / "tensorboard", profile_steps)
        return _loop(run, numbers, train_state, signals, summaries, progress, on_epoch)


def _loop(
    run: Run,
    numbers: Iterable[int],
    train_state: State,
    signals: list[int],
    summaries: Summaries,
    progress: Progress,
    on_epoch: OnEpoch | None,
) -> State:
    pending: list[Any] = []
    batches = progress.timed(run.batches())
    for step in numbers:
        try:
            batch = next(batches)
        except DataError:  # a file that was there when the run began
            if pending:
                _log_steps(run, step - 1, pending, summaries, progress)
            if run.devices.is_alone:  # saving takes all processes, and the others know nothing
                run.save(train_state)
            raise
        compiles = run.compiles(step)
        if compiles:
            log.info("Compiling the training step, which can take a minute or two")
        train_state, metrics = run.train_step(step, train_state, batch)
        if compiles:
            jax.block_until_ready(metrics)
        pending.append(metrics)
        progress.step(compiles)
        epoch_ends = step % run.steps_per_epoch == 0
        log_now = compiles or step % run.config.log_every == 0 or epoch_ends
        stop, save = (
            run.devices.any(flag) if log_now else run.devices.is_alone and flag
            for flag in (bool(signals), run.save_is_due())
        )
        if log_now or stop or save:
            _log_steps(run, step, pending, summaries, progress)
        if epoch_ends:
            _end_epoch(run, step, train_state, summaries)
            stop = run.devices.any(bool(signals))  # one may have come during the evaluation
        if stop or save:
            run.save(train_state)
        if stop:
            raise Interrupted(
                f"stopped at step {step}, everything is saved; the same command resumes",
                signals[0] if signals else signal.SIGTERM,
            )
        if epoch_ends or save:
            progress.pause()
        if epoch_ends and on_epoch:
            on_epoch(run.history)
    return train_state


def _log_steps(
    run: Run, step: int, pending: list[Any], summaries: Summaries, progress: Progress
) -> None:
    """Fetches the metrics of the steps since the last call, adds them up and shows them."""
    window = Totals()
    for i, metrics in enumerate(pending):
        metrics = run.devices.unreplicate(metrics)
        values = {name: metrics[name] for name in ("loss", "grad_norm")} | metrics.get("gan", {})
        bad = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise run.diverged(", ".join(bad), step - len(pending) + 1 + i)
        window.add(metrics)
        run.totals.add(metrics)
    pending.clear()
    scores = window.scores()
    speed = progress.show(step, scores["loss"], scores["accuracy"])
    rate = float(run.functions.schedule(step - 1))
    other = {"learning_rate": rate, "grad_norm": float(metrics["grad_norm"]), **speed}
    summaries.scalars(step, prefixed("train/", {**scores, **other}))


def _end_epoch(run: Run, step: int, train_state: State, summaries: Summaries) -> None:
    """Adds a row to the history; where an evaluation is due, scores and saves."""
    epoch = step // run.steps_per_epoch
    scores = run.totals.scores()
    row = {"epoch": epoch, "step": step, **prefixed("train_", scores)}
    run.totals = Totals()
    _warn_if_the_discriminator_won(run, step, scores, summaries)
    run.history.append(row)
    if epoch % run.config.eval.every_epochs and step != run.total_steps:
        return
    result = run.validate(train_state.ema)
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
    per_class = dict(zip(run.table.names, scores["iou"].tolist(), strict=True))
    summaries.scalars(step, prefixed("val_iou/", per_class))
    run.save(train_state, scores["mean_iou"])
    if not run.devices.is_first:
        return
    if result.pictures:
        panel = plots.prediction_panel(*zip(*result.pictures, strict=True), run.table.palette)
        summaries.picture(step, "val/predictions", panel)
    plots.training_curves(run.history, run.folder / "report" / "training_curves.png")


def _warn_if_the_discriminator_won(
    run: Run, step: int, scores: dict[str, float], summaries: Summaries
) -> None:
    loss = scores.get("gan/discriminator_loss")
    if loss is not None and adversarial.has_won(run.config.gan.objective, loss):
        warning = (
            f"The discriminator has won: its mean loss of the epoch to step {step} is {loss:.4f}, "
            "and the segmenter learns little from it. Lower config.gan.learning_rate or "
            "config.gan.softening, or set config.gan.spectral_norm, in another --workdir"
        )
        log.warning(warning)
        summaries.text(step, "gan/warning", warning)


def write_reports(run: Run) -> dict:
    """Evaluates the best checkpoint on the validation split and writes everything in report/."""
    best = run.checkpoints.find("best")
    variables = run.checkpoints.restore_ema(run.start_state.ema, best)
    result = run.validate(run.devices.replicate(variables))
    resolution = build.resolution_name(run.config)
    path = run.folder / "report" / "val.json"
    content = write_report(path, result, run.table, best, resolution, writes=run.devices.is_first)
    log.info(
        "Validation split, best checkpoint:\n%s\n\nPictures and scores: %s\nCurves: tensorboard "
        "--logdir %s",
        *(format_table(content), run.folder / "report", run.folder / "tensorboard"),
    )
    return content
