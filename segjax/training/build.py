"""From a configuration to the functions that training and evaluation run."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from segjax import models
from segjax.data import check, division, pipeline, sources
from segjax.data.sources import Source
from segjax.errors import ConfigError
from segjax.evaluation import tta as test_time
from segjax.evaluation.evaluator import RESOLUTIONS
from segjax.evaluation.loss import Loss
from segjax.evaluation.step import eval_step
from segjax.models import patchgan
from segjax.run import state
from segjax.runtime.devices import Parallel
from segjax.training import adversarial, augment, gan_step, losses, optim, steps
from segjax.weights import pretrained


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


# The smallest values of fields that have no other rule.
LOWEST = {
    0: (
        "checkpoint_minutes",
        "data.fold",
        "data.folds",
        "data.cache_gb",
        "data.device_gb",
        "eval.num_pictures",
    ),
    1: (
        "num_epochs",
        "log_every",
        "data.num_train",
        "data.num_val",
        "data.num_threads",
        "eval.every_epochs",
        "eval.batch_size",
    ),
}


def _get(config: ConfigDict, field: str) -> Any:
    return reduce(lambda part, name: part[name], field.split("."), config)


def _are_whole(values: tuple) -> bool:
    return all(isinstance(n, int) and n >= 1 for n in values)


def _require(condition: bool, field: str, value: object, needed: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field} is {value!r}; it must be {needed}")


def _check_values(config: ConfigDict, prefix: str = "") -> None:
    """ml_collections keeps the types of fields, but lets None, NaN and odd tuples through."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _check_values(value, f"{prefix}{name}.")
            continue
        parts = value if isinstance(value, (tuple, list)) else (value,)
        finite = all(isinstance(p, str) or (p is not None and np.isfinite(p)) for p in parts)
        _require(finite, f"{prefix}{name}", value, "finite")
        if parts is value:
            numbers = all(isinstance(p, (int, float)) and not isinstance(p, bool) for p in parts)
            _require(numbers, f"{prefix}{name}", value, "numbers, separated by commas")


def _check_bounds(config: ConfigDict) -> None:
    """Single fields that nothing else looks at before the data are read."""
    for lowest, fields in LOWEST.items():
        for field in fields:
            value = _get(config, field)
            _require(value >= lowest, field, value, f"at least {lowest}")
    for field in ("seed", "data.seed"):
        value = _get(config, field)
        _require(0 <= value < 2**32, field, value, "in [0, 4294967296)")
    for field in ("data.val_fraction", "data.test_fraction", "optim.ema_decay"):
        value = _get(config, field)
        _require(0 <= value < 1, field, value, "in [0, 1)")
    choices_of = {
        "eval.resolution": RESOLUTIONS,
        "data.fit": pipeline.FITS,
        "data.divide": division.RULES,
    }
    for field, choices in choices_of.items():
        value = _get(config, field)
        _require(value in choices, field, value, f"one of {choices}")
    size = tuple(config.data.size)
    _require(len(size) == 2 and _are_whole(size), "data.size", size, "height and width: 256,256")
    for field in ("model.decoder_channels", "gan.channels"):
        value = tuple(_get(config, field))
        _require(_are_whole(value), field, value, "whole numbers of at least 1")
    epsilon = config.model.norm_epsilon
    _require(epsilon > 0, "model.norm_epsilon", epsilon, "above 0")
    for field in ("mean", "std"):
        values = tuple(config.model[field])
        positive = field == "mean" or all(value > 0 for value in values)
        _require(len(values) == 3 and positive, f"model.{field}", values, "three numbers, std > 0")


def validate(config: ConfigDict, devices: Parallel) -> None:
    """Raises ConfigError for what no run can be made of, before any data are read."""
    _check_values(config)
    _check_bounds(config)
    devices.check_batch_size(config.batch_size)
    share, k = config.batch_size // len(devices.devices), config.optim.accumulate
    _require(k >= 1 and share % k == 0, "optim.accumulate", k, f"a divisor of {share}, a device's "
             "share of the batch")  # fmt: skip
    val, test = config.data.val_fraction, config.data.test_fraction
    _require(val + test < 1 or config.data.folds, "data.val_fraction", val,
             f"less than {1 - test:g}, so that training has a share, too")  # fmt: skip
    sources.value_range(config.data)
    augment.check(config.augment)
    pretrained.check(config)
    adversarial.check(config.gan)
    has_gan = config.gan.objective != "none"
    _require(k == 1 or not has_gan, "optim.accumulate", k, "1 with a discriminator (config.gan)")
    if has_gan and patchgan.num_patches(min(config.data.size), len(config.gan.channels)) < 1:
        raise ConfigError(
            f"config.gan.channels has {len(config.gan.channels)} convolutions, too many for "
            f"config.data.size = {tuple(config.data.size)}; take fewer, or larger images"
        )
    start = config.gan.start_epoch
    _require(not has_gan or start < config.num_epochs, "gan.start_epoch", start, "below num_epochs")
    build(config, devices, num_classes=2, pixel_counts=np.ones(2), total_steps=100)


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
    optimizer, schedule = optim.build(config.optim, total_steps, config.model.freeze_encoder)
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
