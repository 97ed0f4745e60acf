"""The training loop: configuration and work directory in, trained state and scores out."""

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from segjax import adversarial, boundary, pictures, pretrained, setup, warm_start, workdir
from segjax.checkpoint import Checkpoints
from segjax.data import check, pipeline
from segjax.errors import ConfigError, DataError, Interrupted, TrainingError
from segjax.evaluator import Evaluation, evaluate, write_split
from segjax.history import Totals, prefixed
from segjax.parallel import Parallel
from segjax.progress import Progress
from segjax.report import format_table
from segjax.state import GanState, TrainState, fingerprint
from segjax.summaries import Summaries

log = logging.getLogger(__name__)
State = TrainState | GanState
OnEpoch = Callable[[list[dict[str, float]]], None]


class Run:
    """One run of a work directory, ready to go: data checked, functions built, state restored."""

    def __init__(self, config: ConfigDict, folder: Path) -> None:
        self.devices = Parallel(config.parallel)
        setup.validate(config, self.devices)
        config = pretrained.with_conventions(workdir.as_trained(config, folder), folder)
        self.config, self.folder = config, folder
        writes = self.devices.is_first
        workdir.open_for_training(folder, config, writes)
        data = check.check(config.data, cache=folder / "data.json")
        self.table, counts = data.table, data.pixel_counts["train"]
        log.info("%s\n%s", self.table.describe(), check.format_report(data))
        fields = self.devices.mode, workdir.deciding_fields(config)
        same = f"{fields} {data.num_images} {data.skipped} {counts.tolist()}"
        self.devices.require_same(same, "the configuration or the data")
        workdir.save_division(folder, data.divided, writes)
        workdir.save_table(folder, self.table, counts, writes)

        self.steps_per_epoch = data.num_images["train"] // config.batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"config.batch_size is {config.batch_size}, more than the "
                f"{data.num_images['train']} training images; lower it"
            )
        self.total_steps = config.num_epochs * self.steps_per_epoch
        self.functions = setup.build(
            config, self.devices, len(self.table.names), counts, self.total_steps
        )
        self.checkpoints = Checkpoints(folder)
        self.start_state, self.history, self.totals = self._start_or_restore()
        self.start_step = int(self.start_state.step)

        train_source = check.usable(config.data, "train", data)
        self.train_examples = pipeline.Fitted(
            train_source, config.data, data.max_size["train"], native=False
        )
        self.val_examples = setup.eval_examples(config, "val", data)

    def _start_or_restore(self) -> tuple[State, list[dict], Totals]:
        config, step = self.config, self.checkpoints.latest_step
        fresh = setup.create_state(self.functions, len(self.table.names), config.seed)
        size = sum(p.size for p in jax.tree.leaves(fresh.ema["params"]))
        log.info(
            "%s parameters, %d steps of %d images on %d %s (%s)",
            *(f"{size:,}", self.total_steps, config.batch_size, len(self.devices.devices)),
            *(self.devices.devices[0].device_kind, self.devices.mode),
        )
        if step is None and config.init_from:
            log.info("Starting from the best checkpoint of %s", config.init_from)
            source = Path(config.init_from)
            variables = warm_start.variables_of(source, config, self.table, fresh.ema)
            return fresh.with_variables(variables), [], Totals()
        if step is None and config.pretrained.path:
            options = config.pretrained.to_dict()
            variables = pretrained.load(Path(options.pop("path")), fresh.ema, **options)
            return fresh.with_variables(variables), [], Totals()
        if step is None:
            return fresh, [], Totals()
        restored, progress = self.checkpoints.restore(fresh, step)
        log.info(
            "Resuming %s at step %d of %d, parameters %s",
            *(self.folder, step, self.total_steps, fingerprint(jax.device_get(restored.params))),
        )
        return restored, progress["history"], Totals.from_json(progress["totals"])

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """Training batches on the devices, from the first step that is still to do."""
        examples, kept = self.train_examples, {}
        stacked = examples.stacked(self.config.data.device_gb)
        if stacked:
            kept = {"examples": self.devices.replicate(stacked)}
            examples = [{"row": np.int32(i)} for i in range(len(examples))]
        stream = pipeline.train_batches(
            examples,
            self.config.data,
            self.config.batch_size,
            self.config.seed,
            self.start_step,
            self.devices.process,
        )
        return (batch | kept for batch in self.devices.prefetch(stream))

    def train_step(self, step: int, train_state: State, batch: Any) -> tuple[State, Any]:
        """Update number `step`: before the discriminator comes in exactly that without it."""
        gan = self.functions.gan
        if gan is None:
            return self.functions.train_step(train_state, batch)
        if step > gan.start_step:
            return gan.step(train_state, batch)
        generator, metrics = self.functions.train_step(train_state.generator, batch)
        return train_state.replace(generator=generator), metrics

    def validate(self, variables: Any) -> Evaluation:
        """Scores averaged variables, on the devices, on the validation split."""
        return evaluate(
            variables,
            self.val_examples,
            step=self.functions.eval_step,
            devices=self.devices,
            batch_size=self.config.eval.batch_size,
            num_pictures=self.config.eval.num_pictures,
        )

    def save(self, train_state: State, mean_iou: float = -1.0) -> None:
        """Saves the state and what the curves and the running epoch need."""
        progress = {"history": self.history, "totals": self.totals.to_json()}
        host_state = self.devices.unreplicate(train_state)
        log.info("saving step %d, parameters %s", host_state.step, fingerprint(host_state.params))
        self.checkpoints.save(host_state, progress, mean_iou)


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second one acts as it always does."""
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def handle(number: int, _: Any) -> None:
        received.append(number)
        log.info("Signal %d: stopping soon, when all is saved. Once more stops at once.", number)
        for caught, handler in handlers.items():
            signal.signal(caught, handler)

    handlers |= {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train_and_evaluate(
    config: ConfigDict, folder: str | Path, on_epoch: OnEpoch | None = None
) -> tuple[State, dict]:
    """Trains, or resumes, and evaluates the best checkpoint on the validation split.

    Args:
      on_epoch: called after every epoch with the history: a row per epoch, with epoch, train_loss …
        and, where an evaluation ran, and the epoch was saved, val_mean_iou …. What it raises ends
        the run; of several processes, all have to raise it.

    Returns:
      The last state, unreplicated, and the report that is also in report/val.json.

    Raises:
      ConfigError, DataError: before the first step, for what cannot work.
      TrainingError: when the loss is no longer finite.
      Interrupted: after SIGINT or SIGTERM, with everything saved.
    """
    run = Run(config, Path(folder))
    train_state = run.devices.replicate(run.start_state)
    try:
        with (
            catch_signals() as signals,
            Summaries(folder, purge_step=run.start_step + 1) as summaries,
            Progress(
                run.start_step, run.total_steps, run.steps_per_epoch, config.batch_size
            ) as progress,
        ):
            summaries.text(run.start_step, "config", f"```\n{config}\n```")
            train_state = _loop(run, train_state, signals, summaries, progress, on_epoch)
        final = run.devices.unreplicate(train_state)
        return final, write_reports(run)
    finally:
        run.checkpoints.close()


def _loop(
    run: Run,
    train_state: State,
    signals: list[int],
    summaries: Summaries,
    progress: Progress,
    on_epoch: OnEpoch | None,
) -> State:
    config, pending = run.config, []
    batches = progress.timed(run.batches())
    for step in range(run.start_step + 1, run.total_steps + 1):
        try:
            batch = next(batches)
        except DataError:  # a file that was there when the run began
            if pending:
                _log_steps(run, step - 1, pending, summaries, progress)
            if run.devices.is_alone:  # saving takes all processes, and the others know nothing
                run.save(train_state)
            raise
        train_state, metrics = run.train_step(step, train_state, batch)
        pending.append(metrics)
        progress.step()
        epoch_ends = step % run.steps_per_epoch == 0
        log_now = step % config.log_every == 0 or epoch_ends
        stop = run.devices.any(bool(signals)) if log_now else run.devices.is_alone and bool(signals)
        if log_now or stop:
            _log_steps(run, step, pending, summaries, progress)
        if epoch_ends:
            _end_epoch(run, step, train_state, summaries)
            progress.pause()
            stop = run.devices.any(bool(signals))  # one may have come during the evaluation
        if stop:
            run.save(train_state)
            raise Interrupted(
                f"stopped at step {step}, everything is saved; the same command resumes",
                signals[0] if signals else signal.SIGTERM,
            )
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
            raise TrainingError(
                f"{', '.join(bad)} at step {step - len(pending) + 1 + i}; the last good checkpoint "
                f"is step {run.checkpoints.latest_step}. Lower config.optim.learning_rate or "
                "config.optim.grad_clip (config.gan.learning_rate if it is the discriminator), or "
                "use --config.model.dtype=float32, in another --workdir"
            )
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
        panel = pictures.prediction_panel(*zip(*result.pictures, strict=True), run.table.palette)
        summaries.picture(step, "val/predictions", panel)
    pictures.training_curves(run.history, run.folder / "report" / "training_curves.png")


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
    resolution = setup.resolution_name(run.config)
    content = write_split(
        run.folder, "val", result, run.table, best, resolution, run.devices.is_first
    )
    log.info(
        "Validation split, best checkpoint:\n%s\n\nPictures and scores: %s\nCurves: tensorboard "
        "--logdir %s",
        *(format_table(content), run.folder / "report", run.folder / "tensorboard"),
    )
    return content
