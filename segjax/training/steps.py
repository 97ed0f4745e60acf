"""The training step: a pure function of a state and a batch.

Everything else it needs is bound by keyword (`functools.partial`), so that the same function runs
under jit on one device, under jit over a mesh and under pmap (`axis_name`).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from segjax.evaluation.iou import confusion_matrix
from segjax.evaluation.loss import Loss
from segjax.run.state import TrainState
from segjax.runtime.devices import global_sum, psum

Batch = dict[str, jax.Array]
Augment = Callable[[Batch], tuple[jax.Array, jax.Array]]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Augment,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from one batch: gradients are those of the loss over the global batch.

    Args:
      batch: see `data.pipeline`; `augment` turns it into images [B, H, W, 3] and labels [B, H, W].
      accumulate: in how many parts the batch goes through the network, to save memory. The parts'
        losses are weighted by their shares of labelled pixels (exact for cross entropy without
        class weights); batch statistics are those of the parts.
      ema_decay: 0 evaluates the parameters as they are; the decay is smaller in the first steps.

    Returns:
      The new state, and `loss`, `grad_norm` (before clipping) and `confusion` int32 [C, C].
    """
    image, label = augment(batch)

    def part_loss(params: Any, batch_stats: Any, image: jax.Array, label: jax.Array) -> tuple:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, image, train=True, mutable=["batch_stats"])
        confusion = confusion_matrix(label, logits.argmax(-1), model.num_classes)
        return loss(logits, label, axis_name), (updates.get("batch_stats", {}), confusion)

    def labelled(label: jax.Array) -> jax.Array:
        return global_sum((label < model.num_classes).sum().astype(jnp.float32), axis_name)

    def one_part(carry: tuple, part: tuple[jax.Array, jax.Array]) -> tuple:
        batch_stats, gradients, total, confusion = carry
        (value, (batch_stats, counts)), new = jax.value_and_grad(part_loss, has_aux=True)(
            state.params, batch_stats, *part
        )
        share = labelled(part[1]) / jnp.maximum(labelled(label), 1) if accumulate > 1 else 1.0
        gradients = jax.tree.map(lambda g, n: g + share * n, gradients, new)
        return (batch_stats, gradients, total + share * value, confusion + counts), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    counts = jnp.zeros((model.num_classes, model.num_classes), jnp.int32)
    carry = (state.batch_stats, zeros, jnp.zeros(()), counts)
    if accumulate == 1:
        carry, _ = one_part(carry, (image, label))
    else:
        # Part i holds the examples i, i + accumulate, …: the same on any number of devices.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), (image, label)
        )
        carry, _ = jax.lax.scan(one_part, carry, parts)
    batch_stats, gradients, value, confusion = carry
    gradients, confusion = psum((gradients, confusion), axis_name)

    new_state = updated(state, gradients, batch_stats, optimizer, ema_decay)
    metrics = {"loss": value, "grad_norm": optax.global_norm(gradients), "confusion": confusion}
    return new_state, metrics


def updated(
    state: TrainState,
    gradients: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """The state after the update by these gradients of the global batch."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    new_variables = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=state.step + 1,
        opt_state=opt_state,
        ema=jax.tree.map(lambda e, n: decay * e + (1 - decay) * n, state.ema, new_variables),
        **new_variables,
    )
