"""Every field of the configuration is refused by name where it cannot work, and works elsewhere."""

import re

import jax
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from test_configs import fields

from segjax import defaults
from segjax.errors import ConfigError
from segjax.training import loop
from segjax.training.validate import RULES, validate

# Free text, which the data decide on, and switches.
OPEN = {
    *("init_from", "pretrained.path", "data.root", "data.name", "data.classes", "data.list"),
    *("data.image_key", "data.label_key"),
    *("data.splits.train", "data.splits.val", "data.splits.test"),
    *(
        "data.allow_missing_classes",
        "data.subfolders",
        "augment.flip_horizontal",
        "augment.flip_vertical",
    ),
    *("model.freeze_encoder", "model.clip", "model.segformer.align_corners"),
    *("gan.spectral_norm", "gan.boundary_only"),
}
NEGATIVE, NOT_POSITIVE, CHOICE = (-1,), (0, -1), ("other",)
SEED, SHARE = (-1, 2**32, 2**63), (-0.1, 1.0)
REFUSED = {
    "seed": SEED,
    "pretrained.head": CHOICE,
    "pretrained.channels": CHOICE,
    "num_epochs": NOT_POSITIVE,
    "batch_size": NOT_POSITIVE,
    "parallel": CHOICE,
    "log_every": NOT_POSITIVE,
    "checkpoint_minutes": NEGATIVE,
    "data.source": CHOICE,
    "data.val_fraction": (*SHARE, 0.9),
    "data.test_fraction": SHARE,
    "data.seed": SEED,
    "data.folds": (-1, 1),
    "data.fold": NEGATIVE,
    "data.size": ((0, 1), (8,), (8.0, 8.0), (8, 8, 8)),
    "data.drawn": ((0, 1), (8,), (8.0, 8.0), (8, 8, 8)),
    "data.fit": CHOICE,
    "data.divide": CHOICE,
    "data.pairing": ("{}_mask", "{}:mask", "{}:{}:{}", "a/{}:{}"),
    "data.missing_mask": CHOICE,
    "data.group_by": ("(",),
    "data.bands": ("x", "0", "1,a"),
    "data.channels": (-1, 33),
    "data.dtype": CHOICE,
    "data.pages": CHOICE,
    "data.normalize": CHOICE,
    "data.windows": ((1.0,), (1.0, -2.0), (40.0, 400.0)),
    "data.value_range": ((1.0,), (2.0, 1.0), (0.0, float("inf"))),
    "data.num_train": NOT_POSITIVE,
    "data.num_val": NOT_POSITIVE,
    "data.on_error": CHOICE,
    "data.num_threads": NOT_POSITIVE,
    "data.cache_gb": (-0.1, float("nan")),
    "data.device_gb": (-0.1, None),
    "augment.scale": ((0.0, 1.0), (2.0, 1.0), (1.0,), (1.0, float("inf"))),
    "augment.brightness": SHARE,
    "augment.contrast": SHARE,
    "augment.saturation": SHARE,
    "augment.hue": SHARE,
    "augment.gamma": SHARE,
    "augment.noise": SHARE,
    "augment.blur": (-1.0, 11.0),
    "model.name": CHOICE,
    "model.encoder": CHOICE,
    "model.mobilenet_v2.width": (0.0, 0.6),
    "model.unet.channels": ((8,) * 4, (8, 8, 8, 8, 0), (8.5,) * 5),
    "model.unet.upsample": CHOICE,
    "model.dtype": CHOICE,
    "model.mean": ((), (0.0, 0.0, float("nan"))),
    "model.std": ((1.0, 1.0), (1.0, 1.0, 0.0)),
    "model.mobilenet_v2.norm_epsilon": NOT_POSITIVE,
    "model.mobilenet_v2.padding": CHOICE,
    "model.mit.variant": CHOICE,
    "model.mit.drop_path": SHARE,
    "model.mit.norm_epsilon": NOT_POSITIVE,
    "model.mit.patch_norm_epsilon": NOT_POSITIVE,
    "model.segformer.channels": NOT_POSITIVE,
    "model.segformer.dropout": SHARE,
    "loss.cross_entropy": NEGATIVE,
    "loss.focal": NEGATIVE,
    "loss.dice": NEGATIVE,
    "loss.lovasz": NEGATIVE,
    "loss.boundary": NEGATIVE,
    "loss.class_weights": CHOICE,
    "loss.label_smoothing": SHARE,
    "loss.focal_gamma": NEGATIVE,
    "optim.name": CHOICE,
    "optim.learning_rate": NOT_POSITIVE,
    "optim.schedule": CHOICE,
    "optim.warmup_fraction": SHARE,
    "optim.warmup_steps": NEGATIVE,
    "optim.poly_power": NOT_POSITIVE,
    "optim.weight_decay": NEGATIVE,
    "optim.sgd_decay": CHOICE,
    "optim.momentum": SHARE,
    "optim.grad_clip": NOT_POSITIVE,
    "optim.encoder_lr_ratio": NEGATIVE,
    "optim.accumulate": (0, -1, 3),
    "optim.ema_decay": SHARE,
    "gan.objective": CHOICE,
    "gan.weight": NEGATIVE,
    "gan.start_epoch": (-1, 2),
    "gan.ramp_epochs": NEGATIVE,
    "gan.channels": ((), (8, 0), (8.5,), (8,) * 9),
    "gan.norm": CHOICE,
    "gan.softening": (0.5, 1.1),
    "gan.learning_rate": NOT_POSITIVE,
    "gan.momentum": SHARE,
    "gan.feature_matching": NEGATIVE,
    "gan.r1": NEGATIVE,
    "refiner.name": CHOICE,
    "refiner.channels": ((), (8, 0), (8.5,)),
    "refiner.features": NOT_POSITIVE,
    "refiner.damage": (-0.1, 1.1),
    "refiner.disturbance": (-0.1, 2.1),
    "eval.every_epochs": NOT_POSITIVE,
    "eval.batch_size": NOT_POSITIVE,
    "eval.resolution": CHOICE,
    "eval.num_pictures": NEGATIVE,
}


def test_every_field_has_a_rule():
    assert REFUSED.keys() >= RULES.keys()
    assert set(fields(defaults.get_config())) == OPEN | REFUSED.keys()


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_work_is_refused_by_name(field, tiny_config):
    tiny_config.gan.update(objective="hinge", channels=(8, 16))
    for value in REFUSED[field]:
        config = tiny_config.copy_and_resolve_references()
        with config.ignore_type():
            config.update_from_flattened_dict({field: value})
        with pytest.raises(ConfigError, match=re.escape(f"config.{field} ")):
            validate(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data.val_fraction": 0.6, "data.test_fraction": 0.5},
            "data.val_fraction is 0.6; .* 0.5,",
        ),
        ({"data.source": "folder", "data.folds": 5, "data.fold": 5}, "data.fold is 5; .*folds, 5"),
        ({"data.folds": 2}, "data.folds is 2; .*data.source=folder"),
        ({"pretrained.path": "a.pth", "init_from": "b"}, "pretrained.path is 'a.pth'; .*from 'b'"),
        ({"loss.cross_entropy": 0.0}, "loss is .*'dice': 0.0.*; .* must be above 0"),
        ({"refiner.name": "pix2pix"}, "data.fit is 'resize'; set it to 'pad': a refiner sees wind"),
        ({"gan.objective": "hinge", "optim.accumulate": 2}, "optim.accumulate is 2; .* be 1 with"),
        (
            {"gan.objective": "hinge", "gan.start_epoch": 2},
            "gan.start_epoch is 2; .*num_epochs, 2",
        ),
        (
            {"gan.objective": "hinge", "data.size": (8, 8)},
            "gan.channels is .*; too many convolutions",
        ),
    ],
)
def test_fields_that_cannot_work_together_are_refused_by_name(changes, message, tiny_config):
    tiny_config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        validate(tiny_config)


def smallest(config):
    """Every field at its lower bound."""
    config.update(seed=0, batch_size=1, num_epochs=1, log_every=1, parallel="jit")
    config.data.update(size=(1, 1), num_train=1, num_val=1, num_threads=1, seed=0)
    config.data.update(cache_gb=0.0, device_gb=0.0, val_fraction=0.0, test_fraction=0.0)
    config.eval.update(batch_size=1, num_pictures=0)
    if (config.model.encoder, config.model.name) == SEGFORMER:
        config.data.size = (4, 4)
        config.model.mit.update(drop_path=0.0, norm_epsilon=1e-12, patch_norm_epsilon=1e-12)
        config.model.segformer.update(channels=1, dropout=0.0)
    else:
        config.model.unet.channels = (1,) * 5
        config.model.mobilenet_v2.norm_epsilon = 1e-12
    config.augment.update(scale=(0.01, 0.01), brightness=0.0, contrast=0.0, saturation=0.0)
    config.augment.update(hue=0.0, gamma=0.0)
    config.loss.update(cross_entropy=0.0, focal=1.0, focal_gamma=0.0, label_smoothing=0.0)
    config.optim.update(momentum=0.0, weight_decay=0.0, warmup_fraction=0.0, ema_decay=0.0)
    config.optim.update(grad_clip=1e-9, encoder_lr_ratio=0.0)
    config.gan.update(channels=(1,), weight=0.0, ramp_epochs=0.0, softening=0.51, momentum=0.0)


def largest(config):
    """Where a field has an upper bound, close below it."""
    smallest(config)
    config.update(seed=2**32 - 1)
    config.data.update(size=(4, 4), seed=2**32 - 1)
    config.augment.update(brightness=0.99, contrast=0.99, saturation=0.99, hue=0.99, gamma=0.99)
    config.loss.update(label_smoothing=0.99)
    config.optim.update(name="sgd", momentum=0.99, warmup_fraction=0.99, ema_decay=0.99)
    config.gan.update(objective="vanilla", softening=1.0, momentum=0.99)
    if config.model.encoder == "mit":
        config.model.mit.drop_path = config.model.segformer.dropout = 0.99


@pytest.mark.parametrize(
    ("network", "bounds"),
    [
        (UNET, smallest),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((UNET, largest), (SEGFORMER, smallest), (SEGFORMER, largest))
        ),
    ],
    ids=["smallest", "largest", "smallest segformer", "largest segformer"],
)
def test_a_run_at_the_bounds_trains(network, bounds, tiny_config, tmp_path, monkeypatch):
    use(tiny_config, *network)
    bounds(tiny_config)
    alone = jax.devices()[:1]  # four would need a batch of four
    monkeypatch.setattr(jax, "devices", lambda: alone)
    state, report = loop.train_and_evaluate(tiny_config, tmp_path)
    assert int(state.step) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    pixels = sum(row["pixels"] for row in report["per_class"].values())
    assert pixels == report["num_images"] * np.prod(tiny_config.data.size)
