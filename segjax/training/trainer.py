"""Prepares the training of a work directory, and does single steps, evaluations and saves."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from segjax.data import check, normalization, pipeline, pixels, sources
from segjax.data.counts import format_report, write_cache
from segjax.errors import ConfigError, TrainingError
from segjax.evaluation.evaluator import Evaluation, evaluate
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import GanState, TrainState, fingerprint, not_finite
from segjax.runtime.devices import Parallel
from segjax.runtime.files import expanded
from segjax.training import build, second_stage
from segjax.training.totals import Totals
from segjax.training.validate import validate
from segjax.weights import pretrained, warm_start

log = logging.getLogger(__name__)
State = TrainState | GanState


class Trainer:
    """A run that is ready to train: data checked, steps compiled, state created or restored."""

    def __init__(self, config: ConfigDict, folder: Path) -> None:
        """Long, for what is checked and made here depends on what was before it."""
        config = expanded(config)
        self.devices = Parallel(config.parallel)
        validate(config, self.devices)
        config = pretrained.with_conventions(workdir.as_trained(config, folder), folder)
        config, self.segmenter = second_stage.with_segmenter(config, folder)
        config.data = sources.resolved(config.data)
        config = normalization.with_normalization(config)
        workdir.require_same_run(folder, config)
        cache, resumes = folder / "data.json", workdir.holds_checkpoints(folder)
        data = check.check(config.data, cache=cache, trained=resumes)
        is_measured = config.data.normalize in normalization.MEASURED
        if is_measured and not resumes and not self.segmenter:  # whose mean and std are used
            config = normalization.measured(config, data.channels["train"])
        self.config, self.folder = config, folder
        self.table, counts = data.table, data.pixel_counts["train"]
        log.info("%s\n%s", self.table.describe(), format_report(data))
        segmenter = ""
        if self.segmenter:
            second_stage.require_same_data(config, self.segmenter, data, folder)
            segmenter = fingerprint(self.segmenter.variables)
        fields = self.devices.mode, workdir.deciding_fields(config)
        same = f"{fields} {data.num_images} {data.skipped} {counts.tolist()} {segmenter}"
        self.devices.require_same(same, "the configuration or the data")
        workdir.require_division(folder, data.divided)
        workdir.require_same_data(folder, self.table, counts)

        self.steps_per_epoch = data.num_images["train"] // config.batch_size
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"config.batch_size is {config.batch_size}, more than the "
                f"{data.num_images['train']} training images; lower it"
            )
        self.total_steps = config.num_epochs * self.steps_per_epoch
        if config.optim.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"config.optim.warmup_steps is {config.optim.warmup_steps}, and the run has "
                f"{self.total_steps} steps; set fewer, or 0 for config.optim.warmup_fraction"
            )
        classes = len(self.table.names)
        self.compiled = build.compile_steps(
            config, self.devices, classes, counts, self.total_steps, segmenter=self.segmenter
        )
        self.checkpoints = Checkpoints(folder)
        self.start_state, self.epochs, self.totals = self._start_or_restore()
        self.start_step = int(self.start_state.step)

        train_source = check.usable(config.data, "train", data)
        self.train_examples = pipeline.FixedShapeSource(
            train_source,
            config.data,
            data.max_size["train"],
            native=False,
            small=self.segmenter and self.segmenter.fit,
            fill=normalization.fill(config),
        )
        self.val_examples = build.eval_examples(config, "val", data, segmenter=self.segmenter)
        self.has_evaluated, self.saved_at = False, time.monotonic()
        if self.devices.is_first:  # at last: a start that fails leaves nothing of its configuration
            if self.segmenter:
                second_stage.keep(config, self.segmenter, folder)
            workdir.save(folder, config, data)
            write_cache(cache, data)

    def _start_or_restore(self) -> tuple[State, list[dict], Totals]:
        config, step = self.config, self.checkpoints.latest_step
        fresh = build.create_state(
            self.compiled, len(self.table.names), config.seed, pixels.of(config.data).channels
        )
        size = sum(p.size for p in jax.tree.leaves(fresh.ema["params"]))
        log.info(
            "%s parameters, %d steps of %d images on %d %s (%s)",
            *(f"{size:,}", self.total_steps, config.batch_size, len(self.devices.devices)),
            *(self.devices.devices[0].device_kind, self.devices.mode),
        )
        if step is None and config.init_from and not self.segmenter:
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
        if self.segmenter:
            kept["segmenter"] = self.devices.replicate(self.segmenter.variables)
        stream = pipeline.train_batches(
            examples,
            self.config.data,
            self.config.batch_size,
            self.config.seed,
            self.start_step,
            self.devices.process,
        )
        return (batch | kept for batch in self.devices.prefetch(stream))

    def compiles(self, step: int) -> bool:
        """True for a step whose program is compiled first: one without a discriminator, or with."""
        gan = self.compiled.gan
        return step == self.start_step + 1 or (gan is not None and step == gan.start_step + 1)

    def train_step(self, step: int, train_state: State, batch: Any) -> tuple[State, Any]:
        """Update number `step`: before the discriminator comes in exactly that without it."""
        if not self.compiles(step):
            return self._update(step, train_state, batch)
        log.info("Compiling the training step, which can take a minute or two")
        return jax.block_until_ready(self._update(step, train_state, batch))

    def _update(self, step: int, train_state: State, batch: Any) -> tuple[State, Any]:
        gan = self.compiled.gan
        if gan is None:
            return self.compiled.train_step(train_state, batch)
        if step > gan.start_step:
            return gan.step(train_state, batch)
        generator, metrics = self.compiled.train_step(train_state.generator, batch)
        return train_state.replace(generator=generator), metrics

    def validate(self, variables: Any) -> Evaluation:
        """Scores averaged variables, on the devices, on the validation split."""
        if not self.has_evaluated:
            log.info("Compiling the evaluation")
        self.has_evaluated = True
        return evaluate(
            variables,
            self.val_examples,
            step=self.compiled.eval_step,
            loss=self.compiled.loss,
            logits=self.compiled.logits,
            devices=self.devices,
            batch_size=self.config.eval.batch_size,
            num_pictures=self.config.eval.num_pictures,
        )

    def save_is_due(self) -> bool:
        """True where config.checkpoint_minutes have passed since the last checkpoint."""
        minutes = self.config.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self, train_state: State, mean_iou: float | None = None) -> None:
        """Saves the state and what the curves and the running epoch need.

        Without a score, a step that is there already stays as it is, with the score that it has.
        TrainingError where the state is not finite: what is saved can be trained from and exported.
        """
        host_state = self.devices.unreplicate(train_state)
        step = int(host_state.step)
        if mean_iou is None and step == self.checkpoints.latest_step:
            return
        if broken := not_finite(host_state):
            raise self.diverged(f"values that are not finite in {', '.join(broken)}", step)
        log.info("saving step %d, parameters %s", step, fingerprint(host_state.params))
        progress = {"history": self.epochs, "totals": self.totals.to_json()}
        self.checkpoints.save(host_state, progress, mean_iou)
        self.saved_at = time.monotonic()

    def diverged(self, what: str, step: int) -> TrainingError:
        """The error for numbers that cannot be trained from."""
        last = self.checkpoints.latest_step
        kept = (
            "nothing is saved yet" if last is None else f"the last good checkpoint is step {last}"
        )
        return TrainingError(
            f"{what} at step {step}; {kept}. Lower config.optim.learning_rate or "
            "config.optim.grad_clip (config.gan.learning_rate if it is the discriminator), or use "
            "--config.model.dtype=float32, in another --workdir"
        )
