"""Losses of logits [B, H, W, C] against labels [B, H, W]; void pixels count for nothing.

Every loss is made of sums over the global batch (`parallel.global_sum`), so that it means the same
on any number of devices. All arithmetic is float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.parallel import global_sum

Loss = Callable[[jax.Array, jax.Array, str | None], jax.Array]


def _one_hot(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One-hot labels [B, H, W, C], all zero at void, and the mask of labelled pixels [B, H, W]."""
    num_classes = logits.shape[-1]
    return jax.nn.one_hot(label, num_classes), label < num_classes


def cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    axis_name: str | None = None,
    *,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> jax.Array:
    """Mean of -w_c (1 - p_c)^γ log p_c over labelled pixels, divided by the sum of the w_c.

    γ = 0 is cross entropy; γ > 0 the focal loss (Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017, equation 5). Label smoothing shares a part of every label among all
    classes.
    """
    target, mask = _one_hot(logits, label)
    log_p = jax.nn.log_softmax(logits)
    weight = mask.astype(jnp.float32)
    if class_weights is not None:
        weight = target @ class_weights
    smooth = optax.smooth_labels(target, label_smoothing) if label_smoothing else target
    if gamma:
        # Not 0: where p is 1, a power below 1 has an infinite slope.
        smooth = smooth * jnp.maximum(1 - jnp.exp(log_p), 1e-6) ** gamma
    loss = -(smooth * log_p).sum(-1)
    total = global_sum((loss * weight).sum(), axis_name)
    return total / jnp.maximum(global_sum(weight.sum(), axis_name), 1e-6)


def dice(logits: jax.Array, label: jax.Array, axis_name: str | None = None) -> jax.Array:
    """1 - mean over classes present of 2 Σ p·t / (Σ p + Σ t), sums over the global batch.

    Milletari et al., "V-Net", 3DV 2016, per class, without squares.
    """
    target, mask = _one_hot(logits, label)
    p = jax.nn.softmax(logits) * mask[..., None]
    pixels = (0, 1, 2)
    overlap = global_sum((p * target).sum(pixels), axis_name)
    sizes = global_sum(p.sum(pixels) + target.sum(pixels), axis_name)
    present = jax.lax.stop_gradient(global_sum(target.sum(pixels), axis_name) > 0)
    score = 2 * overlap / jnp.maximum(sizes, 1e-6)
    return jnp.sum((1 - score) * present) / jnp.maximum(present.sum(), 1)


def lovasz(logits: jax.Array, label: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Lovász-softmax, per image, mean over the classes present in it, then over images.

    Berman et al., "The Lovász-Softmax loss", CVPR 2018, equations 8 and 9 (`per_image=True`).
    """
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
    total = global_sum(per_image.sum(), axis_name)
    return total / jnp.maximum(global_sum((classes > 0).sum().astype(jnp.float32), axis_name), 1)


def median_frequency_weights(pixel_counts: jax.Array, cap: float = 10.0) -> jax.Array:
    """Class weights median(f) / f_c, at most `cap`; 0 for a class without a pixel.

    Eigen and Fergus, ICCV 2015, section 6.3.2, with frequencies over the whole training split.
    """
    counts = jnp.asarray(pixel_counts, jnp.float32)
    median = jnp.nanmedian(jnp.where(counts > 0, counts, jnp.nan))
    return jnp.where(counts > 0, jnp.minimum(median / jnp.maximum(counts, 1), cap), 0.0)


def build(config: ConfigDict, pixel_counts: jax.Array) -> Loss:
    """The weighted sum of losses of `config.loss`: a function of (logits, label, axis_name)."""
    if config.class_weights not in ("none", "auto"):
        raise ConfigError(
            f"config.loss.class_weights is {config.class_weights!r}; choose 'none' or 'auto'"
        )
    if not 0 <= config.label_smoothing < 1:
        raise ConfigError(
            f"config.loss.label_smoothing is {config.label_smoothing}; it must be in [0, 1)"
        )
    if config.focal_gamma < 0:
        raise ConfigError(f"config.loss.focal_gamma is {config.focal_gamma}; it must be at least 0")
    weights = median_frequency_weights(pixel_counts) if config.class_weights == "auto" else None
    smoothing = config.label_smoothing
    shared = dict(class_weights=weights, label_smoothing=smoothing)
    terms = {
        "cross_entropy": lambda *a: cross_entropy(*a, **shared),
        "focal": lambda *a: cross_entropy(*a, **shared, gamma=config.focal_gamma),
        "dice": dice,
        "lovasz": lovasz,
    }
    used = {name: config[name] for name in terms if config[name]}
    if not used or min(used.values()) < 0:
        raise ConfigError(f"config.loss needs a positive weight for one or more of {tuple(terms)}")

    def loss(logits: jax.Array, label: jax.Array, axis_name: str | None = None) -> jax.Array:
        logits = logits.astype(jnp.float32)
        return sum(w * terms[name](logits, label, axis_name) for name, w in used.items())

    return loss
