"""The training step: a pure function of a state and a batch.

Everything else it needs is bound by keyword (`functools.partial`), so that the same function runs
under jit on one device, under jit over a mesh and under pmap (`axis_name`).
"""

from collections.abc import Callable
from functools import partial
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
# Images [B, H, W, 3], labels [B, H, W] and, of stochastic networks, keys [B].
Examples = tuple[jax.Array, jax.Array, jax.Array | None]

# Augmentation folds the index of an example into the seed's key, an int32: never this large.
NETWORK_KEY = 2**32 - 1


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    augment: Augment,
    seed: int = 0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update from one batch: gradients are those of the loss over the global batch.

    Args:
      batch: see `data.pipeline`; `augment` turns it into images [B, H, W, 3] and labels [B, H, W].
      seed: of the keys of a stochastic network, see `example_keys`.
      accumulate: in how many parts the batch goes through the network, see `accumulated_gradients`.
      ema_decay: 0 evaluates the parameters as they are; the decay is smaller in the first steps.

    Returns:
      The new state, and `loss`, `grad_norm` (before clipping) and `confusion` int32 [C, C].
    """
    examples = (*augment(batch), example_keys(model, seed, batch))
    gradients_of = partial(accumulated_gradients, accumulate) if accumulate > 1 else loss_gradients
    gradients, value, confusion, batch_stats = gradients_of(
        state.params, state.batch_stats, examples, model, loss, axis_name
    )
    gradients, confusion = psum((gradients, confusion), axis_name)

    new_state = apply_gradients(state, gradients, batch_stats, optimizer, ema_decay)
    metrics = {"loss": value, "grad_norm": optax.global_norm(gradients), "confusion": confusion}
    return new_state, metrics


def example_keys(model: nn.Module, seed: int, batch: Batch) -> jax.Array | None:
    """Typed PRNG keys [B] for dropout and stochastic depth, functions of (seed, step, example).

    `batch["index"]`, the position in the endless stream of examples, implies the step. None for a
    model without a true attribute `stochastic`.
    """
    if not getattr(model, "stochastic", False):
        return None
    key = jax.random.fold_in(jax.random.key(seed), NETWORK_KEY)
    return jax.vmap(partial(jax.random.fold_in, key))(batch["index"])


def forward(
    model: nn.Module, params: Any, batch_stats: Any, image: jax.Array, keys: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Logits [B, H, W, C] of images [B, H, W, 3] in training, and the new batch statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    randomness = {} if keys is None else {"keys": keys}
    logits, updates = model.apply(
        variables, image, train=True, mutable=["batch_stats"], **randomness
    )
    return logits, updates.get("batch_stats", {})


def loss_gradients(
    params: Any,
    batch_stats: Any,
    examples: Examples,
    model: nn.Module,
    loss: Loss,
    axis_name: str | None,
) -> tuple[Any, jax.Array, jax.Array, Any]:
    """This device's share of the gradients of `params` and of the confusion matrix.

    Returns:
      Gradients, loss (of the global batch), confusion int32 [C, C], new batch statistics.
    """
    image, label, keys = examples

    def loss_of(params: Any) -> tuple[jax.Array, tuple]:
        logits, new_stats = forward(model, params, batch_stats, image, keys)
        confusion = confusion_matrix(label, logits.argmax(-1), model.num_classes)
        return loss(logits, label, axis_name), (confusion, new_stats)

    (value, (confusion, new_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return gradients, value, confusion, new_stats


def accumulated_gradients(
    num_parts: int,
    params: Any,
    batch_stats: Any,
    examples: Examples,
    model: nn.Module,
    loss: Loss,
    axis_name: str | None,
) -> tuple[Any, jax.Array, jax.Array, Any]:
    """As `loss_gradients`, from parts of the batch, one after the other, to save memory.

    The parts' losses are weighted by their shares of labelled pixels (exact for cross entropy
    without class weights); batch statistics are those of the parts.
    """

    def labelled(label: jax.Array) -> jax.Array:
        return global_sum((label < model.num_classes).sum().astype(jnp.float32), axis_name)

    def add(sums: tuple, part: Examples) -> tuple[tuple, None]:
        gradients, value, confusion, batch_stats = sums
        new, part_value, counts, batch_stats = loss_gradients(
            params, batch_stats, part, model, loss, axis_name
        )
        share = labelled(part[1]) / jnp.maximum(labelled(examples[1]), 1)
        gradients = jax.tree.map(lambda g, n: g + share * n, gradients, new)
        return (gradients, value + share * part_value, confusion + counts, batch_stats), None

    # Part i holds the examples i, i + num_parts, …: the same on any number of devices.
    parts = jax.tree.map(lambda x: x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1), examples)
    zeros = jax.tree.map(jnp.zeros_like, params)
    counts = jnp.zeros((model.num_classes, model.num_classes), jnp.int32)
    return jax.lax.scan(add, (zeros, jnp.zeros(()), counts, batch_stats), parts)[0]


def apply_gradients(
    state: TrainState,
    gradients: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """The state after the update by these gradients of the global batch."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    variables = {
        "params": optax.apply_updates(state.params, updates),
        "batch_stats": batch_stats,
    }
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(variables, state.ema, 1 - decay)
    return TrainState(step=state.step + 1, opt_state=opt_state, ema=ema, **variables)
