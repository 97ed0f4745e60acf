"""Losses of logits [B, H, W, C] against labels [B, H, W]; void pixels count for nothing.

Every loss is a function of sums over pixels or images. The sums add up, over the devices of a
training step (`devices.global_sum`) and over the batches of an evaluation, and are divided once:
so a loss means the same on any number of devices and, of a split, in batches of any size. All
arithmetic is float32.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from segjax.data.label_table import VOID
from segjax.evaluation.loss import Loss

TERMS = ("cross_entropy", "focal", "dice", "lovasz", "boundary")
NEAR = 3  # pixels from an edge that count in the boundary loss
CLASS_WEIGHTS = ("none", "auto")


def _one_hot(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One-hot labels [B, H, W, C], all zero at void, and the mask of labelled pixels [B, H, W]."""
    num_classes = logits.shape[-1]
    return jax.nn.one_hot(label, num_classes), label < num_classes


def cross_entropy(
    class_weights: jax.Array | None = None, label_smoothing: float = 0.0, gamma: float = 0.0
) -> Loss:
    """Mean of -w_c (1 - p_c)^γ log p_c over labelled pixels, divided by the sum of the w_c.

    γ = 0 is cross entropy; γ > 0 the focal loss (Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017, equation 5). Label smoothing shares a part of each label among all.

    Args:
      class_weights: float32 [C], the w_c; None: 1 for every class.
      label_smoothing: in [0, 1); gamma: γ, at least 0.

    Returns:
      A function of logits float [B, H, W, C] and labels uint8 [B, H, W]; its value is float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from segjax.training import losses
      >>> logits = jnp.zeros((1, 1, 2, 4))
      >>> label = jnp.array([[[3, 255]]], jnp.uint8)
      >>> round(float(losses.cross_entropy()(logits, label)), 4)  # log(4)
      1.3863
    """

    def sums(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        target, mask = _one_hot(logits, label)
        log_p = jax.nn.log_softmax(logits)
        weight = mask.astype(jnp.float32) if class_weights is None else target @ class_weights
        smooth = optax.smooth_labels(target, label_smoothing) if label_smoothing else target
        if gamma:
            # Not 0: where p is 1, a power below 1 has an infinite gradient.
            smooth = smooth * jnp.maximum(1 - jnp.exp(log_p), 1e-6) ** gamma
        loss = -(smooth * log_p).sum(-1)
        return {"loss": (loss * weight).sum(), "weight": weight.sum()}

    def value(sums: dict[str, jax.Array]) -> jax.Array:
        return sums["loss"] / jnp.maximum(sums["weight"], 1e-6)

    return Loss(sums, value)


def boundary(class_weights: jax.Array | None = None, label_smoothing: float = 0.0) -> Loss:
    """`cross_entropy` of the labelled pixels within NEAR pixels of an edge between two classes.

    The border of the image and the edge of a void region are none.
    """
    near = cross_entropy(class_weights, label_smoothing)

    def sums(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
        return near.sums(logits, jnp.where(is_near_edge(label, logits.shape[-1]), label, VOID))

    return Loss(sums, near.value)


def is_near_edge(label: jax.Array, num_classes: int) -> jax.Array:
    """bool [B, H, W], True within NEAR pixels (Chebyshev) of a pixel of another class."""
    window, void = (1, 2 * NEAR + 1, 2 * NEAR + 1), label >= num_classes
    label = label.astype(jnp.int32)
    reduce = partial(
        jax.lax.reduce_window, window_dimensions=window, window_strides=(1, 1, 1), padding="SAME"
    )
    largest = reduce(jnp.where(void, -1, label), -1, jax.lax.max)
    smallest = reduce(jnp.where(void, num_classes, label), num_classes, jax.lax.min)
    return smallest < largest


def _dice_sums(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    target, mask = _one_hot(logits, label)
    p = jax.nn.softmax(logits) * mask[..., None]
    each = {"overlap": p * target, "predicted": p, "labelled": target}
    return {name: x.sum((0, 1, 2)) for name, x in each.items()}


def _dice_value(sums: dict[str, jax.Array]) -> jax.Array:
    present = sums["labelled"] > 0
    sizes = sums["predicted"] + sums["labelled"]
    score = 2 * sums["overlap"] / jnp.maximum(sizes, 1e-6)
    return jnp.sum((1 - score) * present) / jnp.maximum(present.sum(), 1)


def dice() -> Loss:
    """1 - mean over classes present of 2 Σ p·t / (Σ p + Σ t), sums over the global batch or split.

    Here p are the softmax's probabilities and t the one-hot labels of the labelled pixels.
    Milletari et al., "V-Net", 3DV 2016, per class, without squares.

    Returns:
      A function of logits float [B, H, W, C] and labels uint8 [B, H, W]; its value is in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from segjax.training import losses
      >>> logits = jnp.zeros((1, 1, 2, 2))
      >>> label = jnp.array([[[0, 1]]], jnp.uint8)
      >>> round(float(losses.dice()(logits, label)), 4)
      0.5
    """
    return Loss(_dice_sums, _dice_value)


def _lovasz_sums(logits: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    target, mask = _one_hot(logits, label)
    batch, num_classes = logits.shape[0], logits.shape[-1]
    errors = jnp.abs(target - jax.nn.softmax(logits)) * mask[..., None]
    flat = [x.reshape(batch, -1, num_classes).swapaxes(1, 2) for x in (errors, target)]

    def one_class(error: jax.Array, truth: jax.Array) -> jax.Array:
        # Void pixels have error 0 and truth 0: they sort last and add nothing.
        order = jnp.argsort(-jax.lax.stop_gradient(error))
        truth = truth[order]
        intersection = truth.sum() - jnp.cumsum(truth)
        union = truth.sum() + jnp.cumsum(1 - truth)
        jaccard = 1 - intersection / union
        return error[order] @ jnp.diff(jaccard, prepend=0.0)

    loss = jax.vmap(jax.vmap(one_class))(*flat)  # [B, C]
    present = flat[1].any(-1)
    classes = present.sum(-1)
    per_image = (loss * present).sum(-1) / jnp.maximum(classes, 1)
    return {"loss": per_image.sum(), "images": (classes > 0).sum().astype(jnp.float32)}


def _lovasz_value(sums: dict[str, jax.Array]) -> jax.Array:
    return sums["loss"] / jnp.maximum(sums["images"], 1)


def lovasz() -> Loss:
    """Lovász-softmax, per image, mean over the classes present in it, then over images.

    Berman et al., "The Lovász-Softmax loss", CVPR 2018, equations 8 and 9 (`per_image=True`).

    Returns:
      A function of logits float [B, H, W, C] and labels uint8 [B, H, W]; its value is in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from segjax.training import losses
      >>> label = jnp.array([[[0, 1]]], jnp.uint8)
      >>> wrong = jnp.array([[[[0.0, 50.0], [50.0, 0.0]]]])
      >>> [round(float(losses.lovasz()(logits, label)), 4) for logits in (wrong, -wrong)]
      [1.0, 0.0]
    """
    return Loss(_lovasz_sums, _lovasz_value)


def median_frequency_weights(pixel_counts: jax.Array, cap: float = 10.0) -> jax.Array:
    """Class weights median(f) / f_c, at most `cap`; 0 for a class without a pixel.

    Eigen and Fergus, ICCV 2015, section 6.3.2, with frequencies over the whole training split.
    """
    counts = jnp.asarray(pixel_counts, jnp.float32)
    median = jnp.nanmedian(jnp.where(counts > 0, counts, jnp.nan))
    return jnp.where(counts > 0, jnp.minimum(median / jnp.maximum(counts, 1), cap), 0.0)


def build(config: ConfigDict, pixel_counts: jax.Array) -> Loss:
    """The weighted sum of the losses of `config.loss`.

    pixel_counts: [C], of the training split, for `config.loss.class_weights`.
    """
    class_weights = None
    if config.class_weights == "auto":
        class_weights = median_frequency_weights(pixel_counts)
    terms = {
        "cross_entropy": cross_entropy(class_weights, config.label_smoothing),
        "focal": cross_entropy(class_weights, config.label_smoothing, config.focal_gamma),
        "dice": dice(),
        "lovasz": lovasz(),
        "boundary": boundary(class_weights, config.label_smoothing),
    }
    used = {name: config[name] for name in TERMS if config[name]}

    def sums(logits: jax.Array, label: jax.Array) -> dict[str, Any]:
        logits = logits.astype(jnp.float32)
        return {name: terms[name].sums(logits, label) for name in used}

    def value(sums: dict[str, Any]) -> jax.Array:
        return sum(weight * terms[name].value(sums[name]) for name, weight in used.items())

    return Loss(sums, value)
