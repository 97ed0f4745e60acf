"""The evaluation step: the sums that a batch adds to the scores of its split."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.data.fitting import at_size
from segjax.evaluation import boundary
from segjax.evaluation.iou import confusion_matrix
from segjax.evaluation.loss import Loss
from segjax.evaluation.tta import averaged
from segjax.runtime.devices import psum

Batch = dict[str, jax.Array]


def eval_step(
    variables: dict[str, Any],
    batch: Batch,
    *,
    model: nn.Module,
    loss: Loss,
    stretched: bool = False,
    tta: Sequence[str] = (),
    axis_name: str | None = None,
) -> tuple[dict[str, Any], jax.Array]:
    """Scores one batch; `stretched` if the images were resized and their labels were not.

    Args:
      batch: see `data.pipeline`, and `widths` from `boundary.widths`.
      tta: what logits are averaged over, see `tta.averaged`.

    Returns:
      `loss` (its sums), `confusion` int32 [C, C] and `boundary` (its counts), all of the global
      batch, and the prediction uint8 [B, H, W] at the label's resolution.
    """
    label = batch["label"]
    shape = label.shape[1:]
    logits = averaged(partial(model.apply, variables, train=False), tta)(batch["image"])
    if stretched:
        logits = jax.vmap(partial(at_size, shape=shape))(logits, batch["size"])
    else:
        logits = logits[:, : shape[0], : shape[1]]
    prediction = logits.argmax(-1)
    sums = {
        "loss": loss.sums(logits, label),
        **counts(label, prediction, batch["size"], batch["widths"], model.num_classes),
    }
    return psum(sums, axis_name), prediction.astype(jnp.uint8)


def counts(
    label: jax.Array, prediction: jax.Array, size: jax.Array, widths: jax.Array, num_classes: int
) -> dict[str, Any]:
    """`confusion` and `boundary` of predictions, see `iou` and `boundary`, which take the same."""
    return {
        "confusion": confusion_matrix(label, prediction, num_classes),
        "boundary": boundary.counts(label, prediction, size, widths, num_classes),
    }
