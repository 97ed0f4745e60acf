"""From a configuration to the compiled steps that training and evaluation run."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from segjax import models
from segjax.data import check, normalization, pipeline, pixels
from segjax.data.refining import Refined, TwoStage
from segjax.data.sources import Source
from segjax.evaluation import tta as test_time
from segjax.evaluation.loss import Loss
from segjax.evaluation.step import eval_step
from segjax.models.segmenter import has_several_axes
from segjax.run import state
from segjax.runtime.devices import Parallel
from segjax.training import adversarial, augment, gan_step, losses, optim, refinement, steps
from segjax.weights.runs import Trained


class CompiledSteps(NamedTuple):
    """The compiled steps, which take state or variables from the devices, and what is in them.

    logits: of variables on one device, the function that `fitting` or `refining` takes.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss: Loss
    train_step: Callable
    eval_step: Callable
    logits: Callable
    gan: "CompiledGan | None"


class CompiledGan(NamedTuple):
    """The second stage of training: `step` takes a GanState, after `start_step` updates."""

    adversary: adversarial.Adversary
    step: Callable
    start_step: int


def compile_steps(
    config: ConfigDict,
    devices: Parallel,
    num_classes: int,
    pixel_counts: np.ndarray,
    total_steps: int,
    tta: Sequence[str] = (),
    segmenter: Trained | None = None,
) -> CompiledSteps:
    """Model, optimiser, and the steps with everything but state and batch bound to them.

    pixel_counts: [C], of the training split; tta: of the evaluation, see `tta.averaged`; segmenter:
    what a refiner refines.
    """
    model = _build_model(config, num_classes, devices.axis_name)
    optimizer, schedule = _build_optimizer(config, model, total_steps)
    loss = losses.build(config.loss, pixel_counts)
    train_step = partial(
        steps.train_step,
        model=model,
        optimizer=optimizer,
        loss=loss,
        augment=_bind_augment(config, segmenter),
        seed=config.seed,
        accumulate=config.optim.accumulate,
        ema_decay=config.optim.ema_decay,
        axis_name=devices.axis_name,
    )

    return CompiledSteps(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loss=loss,
        train_step=devices.compile(train_step, donate_state=True),
        eval_step=_compile_eval_step(config, devices, model, loss, tta),
        logits=_compile_logits(model, segmenter, tta),
        gan=_compile_gan(config, devices, total_steps // config.num_epochs, train_step.keywords),
    )


def _build_optimizer(
    config: ConfigDict, model: nn.Module, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    is_decayed = getattr(model, "is_decayed", has_several_axes)
    return optim.build(config.optim, total_steps, is_decayed, config.model.freeze_encoder)


def _build_model(config: ConfigDict, num_classes: int, axis_name: str | None) -> nn.Module:
    shared = num_classes, axis_name, pixels.of(config.data).channels
    if config.refiner.name == "none":
        return models.build(config.model, *shared)
    return models.build_refiner(config.refiner, config.model, *shared)


def light_of(config: ConfigDict) -> augment.Light:
    """What photometric changes take for black and white, by what images are."""
    kind = pixels.of(config.data)
    if kind.is_rgb:
        return augment.RGB
    low, high = normalization.limits(config)
    return augment.Light(kind.channels, low, high, False, normalization.fill(config))


def _bind_augment(config: ConfigDict, segmenter: Trained | None) -> steps.Augment:
    bound = dict(
        out=tuple(config.data.size),
        options=augment.Options(**config.augment),
        light=light_of(config),
    )
    if segmenter is None:
        return partial(augment.augment, config.seed, **bound)
    bound["refinement"] = refinement.Refinement(
        partial(segmenter.model.apply, train=False),
        len(segmenter.table.names),
        config.refiner.damage,
        config.refiner.disturbance,
    )
    return partial(refinement.augment, config.seed, **bound)


def _compile_logits(
    model: nn.Module, segmenter: Trained | None, tta: Sequence[str]
) -> Callable[[Any], Any]:
    """A function of variables to one of images, compiled; with a refiner to both stages."""

    def averaged(model: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
        return test_time.averaged(partial(model.apply, variables, train=False), tta)(images)

    if segmenter is None:
        compiled = jax.jit(partial(averaged, model))
        return lambda variables: partial(compiled, variables)
    kept = jax.device_put(segmenter.variables, jax.local_devices()[0])
    coarse = partial(jax.jit(partial(averaged, segmenter.model)), kept)
    refine = jax.jit(partial(model.apply, train=False))
    return lambda variables: TwoStage(coarse, partial(refine, variables))


def _compile_eval_step(
    config: ConfigDict, devices: Parallel, model: nn.Module, loss: Loss, tta: Sequence[str]
) -> Callable:
    stretched = config.data.fit == "resize" and config.eval.resolution == "native"
    step = partial(
        eval_step,
        model=model,
        loss=loss,
        stretched=stretched,
        tta=tta,
        axis_name=devices.axis_name,
    )
    return devices.compile(step, split=(False, True))


def _compile_gan(
    config: ConfigDict, devices: Parallel, steps_per_epoch: int, bound: dict[str, Any]
) -> CompiledGan | None:
    """bound: what the step without a discriminator has bound to it."""
    if config.gan.objective == "none":
        return None
    discriminator = models.build_discriminator(config.gan, config.model.dtype, devices.axis_name)
    adversary = adversarial.build(config.gan, discriminator, steps_per_epoch)
    shared = {name: value for name, value in bound.items() if name != "accumulate"}
    shared["light"] = light_of(config)
    step = partial(gan_step.gan_train_step, adversary=adversary, **shared)
    start_step = config.gan.start_epoch * steps_per_epoch
    return CompiledGan(adversary, devices.compile(step, donate_state=True), start_step)


def create_state(
    compiled: CompiledSteps, num_classes: int, seed: int, channels: int = 3
) -> state.TrainState | state.GanState:
    """A state at step 0, with a discriminator if there is one; channels: of images."""
    fresh = state.create(compiled.model, compiled.optimizer, seed)
    if compiled.gan is None:
        return fresh
    adversary = compiled.gan.adversary
    return state.add_discriminator(
        fresh, adversary.discriminator, adversary.optimizer, (channels, num_classes), seed
    )


def eval_examples(
    config: ConfigDict,
    split: str,
    report: check.Report,
    source: Source | None = None,
    place: dict[str, str] | None = None,
    segmenter: Trained | None = None,
) -> pipeline.EvalSplit:
    """A checked split as the evaluator wants it.

    source: in place of what the configuration names; place: how a report names it then; segmenter:
    what a refiner refines.
    """
    data = config.data
    about = place or {"source": data.source, "name": data.name, "root": data.root, "split": split}
    about |= {"num_skipped": len(report.skipped[split]), "sha256": report.sha256[split]}
    source = check.usable(data, split, report, source)
    native = config.eval.resolution == "native"
    fit = Refined(segmenter.fit) if segmenter else normalization.fit(config)
    return pipeline.EvalSplit(source, report.sizes[split], data, native, about, fit)


def resolution_name(config: ConfigDict) -> str:
    """How a report states at which size its pixels were counted: "pixels counted at …"."""
    size = "{}×{} (height×width)".format(*config.data.size)
    if config.data.fit == "pad":
        return "each label's own size"
    if config.eval.resolution == "native":
        return f"each label's own size, images stretched to {size}"
    return f"{size}, images and labels stretched to it"
