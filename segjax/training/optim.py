"""`config.optim` to an optax transformation and its learning-rate schedule."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ("adamw", "sgd")
SGD_DECAYS = ("l2", "decoupled")
SCHEDULES = ("cosine", "poly", "constant")


def build_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then cosine or polynomial decay to 0, or constant."""
    warmup = config.warmup_steps or int(config.warmup_fraction * total_steps)
    decay_steps = max(1, total_steps - warmup)
    peak = config.learning_rate
    after = {
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
        "poly": optax.polynomial_schedule(peak, 0.0, config.poly_power, decay_steps),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    if warmup == 0:
        return after
    # As optax.warmup_cosine_decay_schedule, for all three.
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def is_encoder(params: Any) -> Any:
    """True for every parameter of the encoder."""
    return jax.tree.map_with_path(lambda path, _: path[0].key == "encoder", params)


def build(
    config: ConfigDict,
    total_steps: int,
    is_decayed: Callable[[Any], Any],
    freeze_encoder: bool = False,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW, or SGD with Nesterov momentum, of gradients clipped by their global norm.

    Decay comes after clipping. AdamW's is decoupled (Loshchilov and Hutter, ICLR 2019): it is added
    to Adam's direction. SGD's is that of published recipes and of PyTorch, added to the gradient
    ahead of the momentum, where it acts 1 / (1 - momentum) times as strongly; 'decoupled', after
    it. Either is multiplied by the learning rate, and by the encoder's share of it: an encoder that
    is frozen, or has a ratio of 0, does not decay.

    is_decayed: from parameters to a tree like them, True where decay acts (`Segmenter.is_decayed`).
    """
    schedule = build_schedule(config, total_steps)
    decay = optax.add_decayed_weights(config.weight_decay, mask=is_decayed)
    if config.name == "adamw":
        direction = optax.scale_by_adam(b1=config.momentum), decay
    else:
        momentum = optax.trace(config.momentum, nesterov=True)
        direction = (decay, momentum) if config.sgd_decay == "l2" else (momentum, decay)
    encoder_ratio = 0.0 if freeze_encoder else config.encoder_lr_ratio
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.grad_clip),
        *direction,
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.scale(encoder_ratio), is_encoder),
    )
    return optimizer, schedule
