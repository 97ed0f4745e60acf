"""From a configuration to the functions that training and evaluation run."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from segjax import models
from segjax.data import check, pipeline
from segjax.data.sources import Source
from segjax.evaluation import tta as test_time
from segjax.evaluation.loss import Loss
from segjax.evaluation.step import eval_step
from segjax.models.segmenter import has_several_axes
from segjax.run import state
from segjax.runtime.devices import Parallel
from segjax.training import adversarial, augment, gan_step, losses, optim, steps


class Functions(NamedTuple):
    """What `build` makes; the steps are compiled, and take state or variables from the devices.

    logits: variables and images, on one device, to logits.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss: Loss
    train_step: Callable
    eval_step: Callable
    logits: Callable
    gan: "Gan | None"


class Gan(NamedTuple):
    """The second stage of training: `step` takes a GanState, after `start_step` updates."""

    adversary: adversarial.Adversary
    step: Callable
    start_step: int


def build(
    config: ConfigDict,
    devices: Parallel,
    num_classes: int,
    pixel_counts: np.ndarray,
    total_steps: int,
    tta: Sequence[str] = (),
) -> Functions:
    """Model, optimiser, and the steps with everything but state and batch bound to them.

    tta: what logits are averaged over in evaluation, see `tta.averaged`.
    """
    axis_name = devices.axis_name
    model = models.build(config.model, num_classes, axis_name)
    is_decayed = getattr(model, "is_decayed", has_several_axes)
    optimizer, schedule = optim.build(
        config.optim, total_steps, is_decayed, config.model.freeze_encoder
    )
    loss = losses.build(config.loss, pixel_counts)
    shared = dict(
        model=model,
        optimizer=optimizer,
        loss=loss,
        augment=partial(
            augment.augment,
            config.seed,
            out=tuple(config.data.size),
            options=augment.Options(**config.augment),
        ),
        seed=config.seed,
        ema_decay=config.optim.ema_decay,
        axis_name=axis_name,
    )
    train_step = partial(steps.train_step, accumulate=config.optim.accumulate, **shared)
    gan = None
    if config.gan.objective != "none":
        gan = _build_gan(config, devices, total_steps // config.num_epochs, shared)
    stretched = config.data.fit == "resize" and config.eval.resolution == "native"
    score_batch = partial(
        eval_step, model=model, loss=loss, stretched=stretched, tta=tta, axis_name=axis_name
    )

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        return test_time.averaged(partial(model.apply, variables, train=False), tta)(images)

    return Functions(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loss=loss,
        train_step=devices.compile(train_step, donate_state=True),
        eval_step=devices.compile(score_batch, split=(False, True)),
        logits=jax.jit(logits),
        gan=gan,
    )


def _build_gan(config: ConfigDict, devices: Parallel, steps_per_epoch: int, shared: dict) -> Gan:
    discriminator = models.build_discriminator(config.gan, config.model.dtype, devices.axis_name)
    adversary = adversarial.build(config.gan, discriminator, steps_per_epoch)
    step = partial(gan_step.gan_train_step, adversary=adversary, **shared)
    start_step = config.gan.start_epoch * steps_per_epoch
    return Gan(adversary, devices.compile(step, donate_state=True), start_step)


def create_state(
    functions: Functions, num_classes: int, seed: int
) -> state.TrainState | state.GanState:
    """A state at step 0, with a discriminator if there is one."""
    fresh = state.create(functions.model, functions.optimizer, seed)
    if functions.gan is None:
        return fresh
    adversary = functions.gan.adversary
    return state.add_discriminator(
        fresh, adversary.discriminator, adversary.optimizer, num_classes, seed
    )


def eval_examples(
    config: ConfigDict,
    split: str,
    report: check.Report,
    source: Source | None = None,
    place: dict[str, str] | None = None,
) -> pipeline.EvalSplit:
    """A checked split as the evaluator wants it.

    source: in place of what the configuration names; place: how a report names it then.
    """
    data = config.data
    about = place or {"source": data.source, "name": data.name, "root": data.root, "split": split}
    about |= {"num_skipped": len(report.skipped[split]), "sha256": report.sha256[split]}
    source = check.usable(data, split, report, source)
    native = config.eval.resolution == "native"
    return pipeline.EvalSplit(source, report.sizes[split], data, native, about)


def resolution_name(config: ConfigDict) -> str:
    """How a report states at which size its pixels were counted: "pixels counted at …"."""
    size = "{}×{} (height×width)".format(*config.data.size)
    if config.data.fit == "pad":
        return "each label's own size"
    if config.eval.resolution == "native":
        return f"each label's own size, images stretched to {size}"
    return f"{size}, images and labels stretched to it"
