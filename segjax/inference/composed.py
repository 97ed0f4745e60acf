"""A segmenter and its refiner as one function of images of any size, to be exported.

What `refining.Refined` does around two programs with OpenCV is inside this one, which takes an
image whole, however large.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from segjax.data.fitting import Shape, at_size
from segjax.data.refining import STEP, coarse_of_logits
from segjax.weights.runs import Trained


def of(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """The function of a refiner with its segmenter: images [B, H, W, c] to float32 [B, H, W, C]."""
    segmenter, size = trained.segmenter, trained.fit.size

    def logits(images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        below, right = -height % STEP, -width % STEP
        fill = jnp.array(segmenter.fit.fill, jnp.float32)[None, None, None]
        around = ((0, 0), (0, below), (0, right), (0, 0))
        pixels = jnp.pad(images.astype(jnp.float32) - fill, around) + fill
        scores = segmenter.logits(stretched(images, size))
        own, padded = jnp.array([height, width]), (height + below, width + right)
        scores = jax.vmap(lambda scores: at_size(scores, own, padded))(scores)
        x = jnp.concatenate([pixels, coarse_of_logits(scores)], axis=-1)
        return trained.logits(x)[:, :height, :width]

    return logits


def stretched(images: jax.Array, size: Shape) -> jax.Array:
    """[B, H, W, c] to [B, *size, c] of its type, as `fitting.resize_image` does, give or take 1."""
    lengths = images.shape[1:3]
    shrinks = [jnp.int32(length) > n for length, n in zip(lengths, size, strict=True)]
    grows = [jnp.int32(length) < n for length, n in zip(lengths, size, strict=True)]
    by_area = ~(grows[0] | grows[1])
    rows, columns = (
        jnp.where(by_area, _area(length, n), _linear(length, n, shrinks[0] | shrinks[1]))
        for length, n in zip(lengths, size, strict=True)
    )
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("hH,bHWc->bhWc", rows, images.astype(jnp.float32), precision=exact)
    x = jnp.einsum("wW,bhWc->bhwc", columns, x, precision=exact)
    if images.dtype == jnp.float32:
        return x
    return jnp.floor(x + 0.5).astype(images.dtype)  # halves go up, as OpenCV has it at scale 2


def _area(length: int, count: int) -> jax.Array:
    """Weights [count, length] of pixels by what they share with `count` equal parts of `length`."""
    low = jnp.arange(count)[:, None] * length  # in units of 1 / count of a pixel
    pixel = jnp.arange(length)[None] * count
    shared = jnp.minimum(low + length, pixel + count) - jnp.maximum(low, pixel)
    return shared.clip(0) / length


def _linear(length: int, count: int, as_area: jax.Array) -> jax.Array:
    """Weights [count, length] of the nearest two pixels, by half-pixel centres.

    as_area: bool []; OpenCV's INTER_AREA, where an image grows along an axis, has other centres.
    """
    scale, i = length / count, jnp.arange(count)
    whole = i * length // count
    share = (i + 1 - (whole + 1) / scale).clip(0)
    at = jnp.where(as_area, whole + share - jnp.floor(share), (i + 0.5) * scale - 0.5)
    at = at.clip(0, length - 1)[:, None]
    return (1 - jnp.abs(at - jnp.arange(length)[None])).clip(0)
