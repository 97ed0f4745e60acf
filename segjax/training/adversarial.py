"""The adversarial part of training: what the discriminator sees, objectives, and their weight."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from segjax.models import patchgan
from segjax.runtime.devices import global_sum
from segjax.training.losses import is_near_edge

# The discriminator's loss where it cannot tell real from fake.
CHANCE = {"vanilla": 0.693, "lsgan": 0.25, "hinge": 1.0}
WON = 0.05  # of CHANCE: below, its gradient tells the segmenter little


class Adversary(NamedTuple):
    """What a step needs of the discriminator beside its state.

    weight: λ of segmentation loss + λ · adversarial loss, a function of the updates done;
    objective, softening: see `discriminator_loss` and `soften`;
    feature_matching: its weight over that of the adversarial loss;
    r1: γ of γ/2 · `gradient_penalty`; boundary_only: see `on_edges`.
    """

    discriminator: nn.Module
    optimizer: optax.GradientTransformation
    objective: str
    softening: float
    weight: Callable[[jax.Array], jax.Array]
    feature_matching: float
    r1: float
    boundary_only: bool

    def counted(self, label: jax.Array, num_classes: int) -> jax.Array | None:
        """Which scores [B, h, w] count, 1 or 0; None: all."""
        if not self.boundary_only:
            return None
        return on_edges(label, num_classes, len(self.discriminator.channels))


def build(config: ConfigDict, discriminator: nn.Module, steps_per_epoch: int) -> Adversary:
    """From `config.gan`; the optimiser is Adam with a constant learning rate, as in Pix2Pix."""
    optimizer = optax.adam(config.learning_rate, b1=config.momentum)
    weight = build_weight(config, steps_per_epoch)
    return Adversary(
        discriminator,
        optimizer,
        config.objective,
        config.softening,
        weight,
        config.feature_matching,
        config.r1,
        config.boundary_only,
    )


def build_weight(config: ConfigDict, steps_per_epoch: int) -> Callable[[jax.Array], jax.Array]:
    """λ as a function of the updates done: 0 up to the start, then a linear ramp to its value."""
    start, weight = config.start_epoch * steps_per_epoch, config.weight
    ramp = max(1, round(config.ramp_epochs * steps_per_epoch))
    return lambda step: weight * jnp.clip((step - start + 1) / ramp, 0.0, 1.0)


def has_won(objective: str, discriminator_loss: float) -> bool:
    """True where the discriminator is so good that the segmenter cannot learn from it."""
    return discriminator_loss < WON * CHANCE[objective]


def mask_void(probabilities: jax.Array, label: jax.Array) -> jax.Array:
    """Probabilities [B, H, W, C] with zeros at void, where the real ones have zeros as well."""
    return probabilities * (label < probabilities.shape[-1])[..., None]


def soften(label: jax.Array, probabilities: jax.Array, amount: float) -> jax.Array:
    """One-hot labels that are no more certain than the segmenter could be; zeros at void.

    The labelled class gets `amount`, or its probability where that is higher; the other classes
    share the rest as the segmenter divides it. So an exact 0 or 1 gives nothing away. Luc et al.,
    "Semantic Segmentation using Adversarial Networks", 2016, section 3.2 ("scaling"). An `amount`
    of 1 gives plain one-hot labels.

    Args:
      label: integers [B, H, W].
      probabilities: [B, H, W, C], the segmenter's.
    """
    target = jax.nn.one_hot(label, probabilities.shape[-1])
    own = (probabilities * target).sum(-1, keepdims=True)
    certain = jnp.maximum(own, amount)
    others = probabilities * (1 - target)
    rest = others * (1 - certain) / jnp.maximum(others.sum(-1, keepdims=True), 1e-6)
    return mask_void(target * certain + rest, label)


binary_cross_entropy = optax.sigmoid_binary_cross_entropy


def _mean(x: jax.Array, axis_name: str | None, counted: jax.Array | None = None) -> jax.Array:
    """Of all x in the global batch, or those where `counted`, of its shape, is 1; of none, 0."""
    if counted is None:
        return global_sum(x.sum(), axis_name) / global_sum(jnp.float32(x.size), axis_name)
    total, number = global_sum(((x * counted).sum(), counted.sum()), axis_name)
    return total / jnp.maximum(number, 1)


def on_edges(label: jax.Array, num_classes: int, num_channels: int) -> jax.Array:
    """Which scores of a discriminator sit on an edge between classes: float32 [B, h, w], 0 or 1.

    A score sits on the middle of its patch, `patchgan.stride` pixels high and wide; near an edge is
    what counts in the boundary loss.
    """
    side = patchgan.stride(num_channels)
    rows, columns = (patchgan.num_patches(n, num_channels) for n in label.shape[1:])
    near = is_near_edge(label, num_classes)
    near = near[:, side : side * (rows + 1), side : side * (columns + 1)]
    return near.reshape(-1, rows, side, columns, side).any((2, 4)).astype(jnp.float32)


def discriminator_loss(
    objective: str,
    real: jax.Array,
    fake: jax.Array,
    axis_name: str | None = None,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Mean over the patches of the global batch, half for real and half for fake ones.

    vanilla: Goodfellow et al. 2014; lsgan: Mao et al., ICCV 2017; hinge: Miyato et al., ICLR 2018.

    Args:
      real, fake: scores of any shape; counted: of their shape, 1 for those that count, else 0.
    """
    both = {
        "vanilla": lambda: (binary_cross_entropy(real, 1), binary_cross_entropy(fake, 0)),
        "lsgan": lambda: ((real - 1) ** 2, fake**2),
        "hinge": lambda: (jax.nn.relu(1 - real), jax.nn.relu(1 + fake)),
    }[objective]()
    return 0.5 * sum(_mean(x, axis_name, counted) for x in both)


def segmenter_loss(
    objective: str,
    fake: jax.Array,
    axis_name: str | None = None,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Low where the discriminator takes the segmenter's patches for real ones.

    For vanilla the form that does not saturate, -log D; for lsgan without the paper's factor ½.
    """
    each = {
        "vanilla": lambda: binary_cross_entropy(fake, 1),
        "lsgan": lambda: (fake - 1) ** 2,
        "hinge": lambda: -fake,
    }[objective]()
    return _mean(each, axis_name, counted)


def feature_matching(
    features: Sequence[jax.Array], wanted: Sequence[jax.Array], axis_name: str | None = None
) -> jax.Array:
    """Mean absolute difference of what the discriminator's layers make of predictions and labels.

    The mean of the layers' means over the global batch. Wang et al., "High-Resolution Image
    Synthesis and Semantic Manipulation with Conditional GANs" (pix2pixHD), CVPR 2018, equation 3.

    Args:
      features, wanted: of every layer, arrays of any shape.
    """
    layers = []
    for one, other in zip(features, wanted, strict=True):
        difference = one.astype(jnp.float32) - other.astype(jnp.float32)
        # Not jnp.abs, whose gradient at 0 is 1: where both are equal nothing is to be changed.
        layers.append(_mean(jnp.maximum(difference, -difference), axis_name))
    return sum(layers) / len(layers)


def gradient_penalty(
    scores_of: Callable[[jax.Array], jax.Array],
    real: jax.Array,
    axis_name: str | None = None,
    counted: jax.Array | None = None,
) -> jax.Array:
    """R1: the squared norm of the scores' gradient at real examples, over the number of scores.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018, equation
    9, without γ/2. The scores of an image are added up; so with patches that do not overlap it is
    the mean of what the paper has for one score.

    Args:
      scores_of: of arrays like `real`, [B, H, W, C], to scores; counted: see `discriminator_loss`.
    """

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = scores_of(x)
        each = jnp.ones_like(scores) if counted is None else counted
        return (scores * each).sum(), each.sum()

    gradient, number = jax.grad(total, has_aux=True)(real)
    squares, number = global_sum(((gradient**2).sum(), number), axis_name)
    return squares / jnp.maximum(number, 1)


def verdict(
    objective: str,
    scores: jax.Array,
    axis_name: str | None = None,
    counted: jax.Array | None = None,
) -> jax.Array:
    """The mean D(·) of scores: a probability for vanilla, the score itself for the others."""
    each = jax.nn.sigmoid(scores) if objective == "vanilla" else scores
    return _mean(each, axis_name, counted)
