"""What cannot work in a configuration, found before any data are read; all rules are in this file.

A field has a row in RULES unless it is a switch, a text that only the data can judge, or a field of
a network, which its builder in `models` judges. Rules of several fields are in `_combinations`.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from segjax import defaults, models
from segjax.data import (
    background,
    check,
    division,
    groups,
    normalization,
    pairing,
    pipeline,
    pixels,
    sources,
)
from segjax.errors import ConfigError
from segjax.evaluation.evaluator import RESOLUTIONS
from segjax.models import patchgan
from segjax.runtime import suggestions
from segjax.runtime.devices import MODES, Parallel
from segjax.training import adversarial, losses, optim
from segjax.weights import pretrained


class Rule(NamedTuple):
    """accepts: whether a value can work; needed: how a message that it cannot goes on."""

    accepts: Callable[[Any], bool]
    needed: str


def _one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, f"choose one of {choices}")


def _at_least(lowest: int) -> Rule:
    return Rule(lambda value: value >= lowest, f"it must be at least {lowest}")


def _are_whole(values: tuple) -> bool:
    return all(isinstance(n, int) and n >= 1 for n in values)


ABOVE_0 = Rule(lambda value: value > 0, "it must be above 0")
SHARE = Rule(lambda value: 0 <= value < 1, "it must be in [0, 1)")
SEED = Rule(lambda value: 0 <= value < 2**32, f"it must be in [0, {2**32})")
WHOLE = Rule(
    lambda values: len(values) > 0 and _are_whole(values),
    "it must be one or more whole numbers of at least 1",
)

RULES = {
    "seed": SEED,
    "pretrained.head": _one_of(*pretrained.HEADS),
    "pretrained.channels": _one_of(*pretrained.CHANNELS),
    "num_epochs": _at_least(1),
    "batch_size": _at_least(1),
    "parallel": _one_of(*MODES),
    "log_every": _at_least(1),
    "checkpoint_minutes": _at_least(0),
    "data.source": _one_of(*sources.SOURCES),
    "data.val_fraction": SHARE,
    "data.test_fraction": SHARE,
    "data.seed": SEED,
    "data.divide": _one_of(*division.RULES),
    "data.folds": Rule(lambda n: n == 0 or n >= 2, "it must be 0 (off) or at least 2"),
    "data.fold": _at_least(0),
    "data.size": Rule(
        lambda size: len(size) == 2 and _are_whole(size), "it must be height and width: 256,256"
    ),
    "data.drawn": Rule(
        lambda size: len(size) in (0, 2) and _are_whole(size), "it must be empty, or 256,256"
    ),
    "data.fit": _one_of(*pipeline.FITS),
    "data.num_train": _at_least(1),
    "data.num_val": _at_least(1),
    "data.missing_mask": _one_of(*background.MISSING_MASK),
    "data.on_error": _one_of(*check.ON_ERROR),
    "data.value_range": Rule(
        lambda limits: len(limits) == 0 or (len(limits) == 2 and limits[0] < limits[1]),
        "it must be empty, or two numbers, the lower one first",
    ),
    "data.channels": Rule(
        lambda n: 0 <= n <= pixels.MAX_CHANNELS,
        f"it must be 0 (as in the data) to {pixels.MAX_CHANNELS}",
    ),
    "data.dtype": _one_of("", *pixels.DTYPES),
    "data.pages": _one_of(*pixels.PAGES),
    "data.normalize": _one_of(*normalization.CHOICES),
    "data.windows": Rule(
        lambda limits: len(limits) % 2 == 0 and all(width > 0 for width in limits[1::2]),
        "it must be level and width, once or several times, each width above 0",
    ),
    "data.num_threads": _at_least(1),
    "data.cache_gb": _at_least(0),
    "data.device_gb": _at_least(0),
    "augment.scale": Rule(
        lambda scale: len(scale) == 2 and 0 < scale[0] <= scale[1], "it must be 0 < low <= high"
    ),
    "augment.brightness": SHARE,
    "augment.contrast": SHARE,
    "augment.saturation": SHARE,
    "augment.hue": SHARE,
    "augment.gamma": SHARE,
    "augment.noise": SHARE,
    "augment.blur": Rule(lambda sigma: 0 <= sigma <= 10, "it must be in [0, 10], in pixels"),
    "model.mean": Rule(lambda mean: len(mean) > 0, "it must be a number for every channel"),
    "model.std": Rule(
        lambda std: len(std) > 0 and min(std) > 0, "it must be a number above 0 for every channel"
    ),
    **{f"loss.{name}": _at_least(0) for name in losses.TERMS},
    "loss.class_weights": _one_of(*losses.CLASS_WEIGHTS),
    "loss.label_smoothing": SHARE,
    "loss.focal_gamma": _at_least(0),
    "optim.name": _one_of(*optim.OPTIMIZERS),
    "optim.learning_rate": ABOVE_0,
    "optim.schedule": _one_of(*optim.SCHEDULES),
    "optim.warmup_fraction": SHARE,
    "optim.warmup_steps": _at_least(0),
    "optim.poly_power": ABOVE_0,
    "optim.weight_decay": _at_least(0),
    "optim.sgd_decay": _one_of(*optim.SGD_DECAYS),
    "optim.momentum": SHARE,
    "optim.grad_clip": ABOVE_0,
    "optim.encoder_lr_ratio": _at_least(0),
    "optim.accumulate": _at_least(1),
    "optim.ema_decay": SHARE,
    "gan.objective": _one_of("none", *adversarial.CHANCE),
    "gan.weight": _at_least(0),
    "gan.start_epoch": _at_least(0),
    "gan.ramp_epochs": _at_least(0),
    "gan.channels": WHOLE,
    "gan.softening": Rule(lambda value: 0.5 < value <= 1, "it must be in (0.5, 1]"),
    "gan.learning_rate": ABOVE_0,
    "gan.momentum": SHARE,
    "gan.feature_matching": _at_least(0),
    "gan.r1": _at_least(0),
    "refiner.name": _one_of(*models.REFINERS),
    "refiner.channels": WHOLE,
    "refiner.features": _at_least(1),
    "refiner.damage": Rule(lambda share: 0 <= share <= 1, "it must be in [0, 1]"),
    "refiner.disturbance": Rule(lambda value: 0 <= value <= 2, "it must be in [0, 2]"),
    "eval.every_epochs": _at_least(1),
    "eval.batch_size": _at_least(1),
    "eval.resolution": _one_of(*RESOLUTIONS),
    "eval.num_pictures": _at_least(0),
}


def validate(config: ConfigDict, devices: Parallel | None = None) -> None:
    """Raises ConfigError if the configuration cannot run; it names the field and its value.

    devices: what it is to run on; without, what depends on their number is not looked at.
    """
    _require_known(config)
    _check_values(config)
    for field, rule in RULES.items():
        value = reduce(lambda part, name: part[name], field.split("."), config)
        _require(rule.accepts(value), field, value, rule.needed)
    if devices:
        devices.check_batch_size(config.batch_size)
    for accepted, field, value, needed in _combinations(config, devices):
        _require(accepted, field, value, needed)
    size, patch = tuple(config.data.size), getattr(models.build(config.model, 2), "patch", 1)
    needed = f"a patch of config.model.encoder={config.model.encoder} has {patch}×{patch} pixels; "
    needed += f"set it to at least {patch},{patch}"
    _require(min(size) >= patch, "data.size", size, needed)
    models.build_discriminator(config.gan, config.model.dtype)


def _require(accepted: bool, field: str, value: object, needed: str) -> None:
    if not accepted:
        raise ConfigError(f"config.{field} is {value!r}; {needed}")


def _require_known(config: ConfigDict) -> None:
    """Refuses fields that nothing reads: a file of configuration may set any name."""
    known = defaults.get_config()
    own = {*models.ENCODERS, *models.DECODERS} - set(known.model)  # their sections are their own
    fields = set(suggestions.fields(known))
    for field in suggestions.fields(config):
        if field not in fields and not field.startswith(tuple(f"model.{name}." for name in own)):
            alike = suggestions.text(suggestions.of_field(field, known), "config.")
            raise ConfigError(f"config.{field}: no such field{alike}")


def _check_values(config: ConfigDict, prefix: str = "") -> None:
    """ml_collections keeps the types of fields, but lets None, NaN and odd tuples through."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _check_values(value, f"{prefix}{name}.")
            continue
        parts = value if isinstance(value, (tuple, list)) else (value,)
        finite = all(isinstance(p, str) or (p is not None and np.isfinite(p)) for p in parts)
        _require(finite, f"{prefix}{name}", value, "it must be finite")
        if parts is value:
            numbers = all(isinstance(p, (int, float)) and not isinstance(p, bool) for p in parts)
            needed = "it must be numbers, separated by commas"
            _require(numbers, f"{prefix}{name}", value, needed)


def _combinations(
    config: ConfigDict, devices: Parallel | None
) -> Iterator[tuple[bool, str, object, str]]:
    """Whether it can work, field, value and what is needed, of rules about several fields."""
    data, gan, k = config.data, config.gan, config.optim.accumulate
    share = config.batch_size // (len(devices.devices) if devices else 1)
    needed = f"it must be a divisor of {share}, a device's share of the batch"
    yield share % k == 0, "optim.accumulate", k, needed
    val, test = data.val_fraction, data.test_fraction
    needed = f"it must be less than {1 - test:g}, so that training has a share, too"
    total = val + test
    yield total < 1 or (data.folds > 0 and total == 1), "data.val_fraction", val, needed
    needed = f"it must be less than config.data.folds, {data.folds}"
    yield data.folds == 0 or data.fold < data.folds, "data.fold", data.fold, needed
    needed = "folds divide a folder ROOT/{images,masks}: set it to 0, or config.data.source=folder"
    yield data.folds == 0 or data.source == "folder", "data.folds", data.folds, needed
    pairing.parse(data.pairing)
    groups.compiled(data.group_by)
    for field in ("pairing", "list", "group_by"):
        needed = "it is for config.data.source=folder; leave it out"
        yield not data[field] or data.source == "folder", f"data.{field}", data[field], needed
    needed = f"config.data.list={data.list} says which mask an image has; leave one of them out"
    yield not (data.pairing and data.list), "data.pairing", data.pairing, needed
    pixels.numbers(data.bands)
    windows = tuple(data.windows)
    needed = "windows are for config.data.normalize=window, which needs one or more"
    yield bool(windows) == (data.normalize == "window"), "data.windows", windows, needed
    mean, std = tuple(config.model.mean), tuple(config.model.std)
    needed = f"it must have as many numbers as config.model.mean, {len(mean)}"
    yield len(std) == len(mean), "model.std", std, needed
    needed = "rgb has 3 channels of uint8: leave it out, or set config.data.bands=stored"
    is_rgb = data.bands == "rgb"
    yield not is_rgb or data.channels in (0, 3), "data.channels", data.channels, needed
    yield not is_rgb or data.dtype in ("", "uint8"), "data.dtype", data.dtype, needed
    needed = "it is for config.data.bands=rgb (or auto); leave it out"
    is_seen = not data.value_range or data.bands in ("auto", "rgb")
    yield is_seen, "data.value_range", tuple(data.value_range), needed
    needed = (
        "set it to 'pad': a refiner sees windows of config.data.size at the images' own resolution"
    )
    yield config.refiner.name == "none" or data.fit == "pad", "data.fit", data.fit, needed
    path = config.pretrained.path
    needed = f"and config.init_from {config.init_from!r}; set one of them to ''"
    yield not (path and config.init_from), "pretrained.path", path, needed
    needed = f"one or more of {losses.TERMS} must be above 0"
    yield any(config.loss[term] for term in losses.TERMS), "loss", config.loss.to_dict(), needed
    if gan.objective != "none":
        yield k == 1, "optim.accumulate", k, "it must be 1 with a discriminator (config.gan)"
        needed = f"it must be less than config.num_epochs, {config.num_epochs}"
        yield gan.start_epoch < config.num_epochs, "gan.start_epoch", gan.start_epoch, needed
        size = tuple(data.size)
        has_patches = patchgan.num_patches(min(size), len(gan.channels)) >= 1
        needed = f"too many convolutions for config.data.size {size}; take fewer, or larger images"
        yield has_patches, "gan.channels", tuple(gan.channels), needed
