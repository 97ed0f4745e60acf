"""How well outlines fit: Boundary IoU and a boundary F-score, from sums over the whole split.

Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021): the IoU of the pixels of a class that lie
within d of its edge. The edge of a class is where its binary mask ends: at another class or at the
image's border, as in the paper's code, `mask - erode(pad(mask, 1), 3×3, iterations=d)`. Void is
left out on both sides: it is in no mask, and next to void there is no edge.

Boundary F-score: the harmonic mean of precision and recall of outline pixels, those with a pixel of
another class among their eight neighbours. One counts as found if the other side has an outline
pixel of the same class within the tolerance, a Chebyshev distance. The tolerance of 0.75 % of the
diagonal is that of Csurka et al., BMVC 2013, who average over images where this sums over them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.evaluation.iou import mean, ratio

RATIOS = (0.02, 0.005)  # of the image's diagonal: as for COCO, and as for Cityscapes
TOLERANCE = 0.0075
NAMES = tuple(f"boundary_iou_{r}" for r in RATIOS)
F_NAME = f"boundary_f_{TOLERANCE}"


def widths(size: np.ndarray) -> np.ndarray:
    """int32 [B, 3]: RATIOS and TOLERANCE in pixels, at least 1, for images of sizes [B, 2]."""
    diagonal = np.hypot(size[:, 0], size[:, 1])
    return np.maximum(1, np.rint(np.outer(diagonal, (*RATIOS, TOLERANCE)))).astype(np.int32)


def _over_3x3(x: jax.Array, reduce: Any) -> jax.Array:
    """`reduce` (an associative function of two arrays) over the 3×3 pixels around each."""
    # Slices are three times as fast as lax.reduce_window on a CPU.
    for axis in (1, 2):
        size = x.shape[axis]
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
        before = jnp.concatenate([first, lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        x = reduce(x, reduce(before, after))
    return x


def _distance(classes: jax.Array, outside: jax.Array, limit: jax.Array) -> jax.Array:
    """Chebyshev distance of a pixel to the next one of another class or outside, at most limit + 1.

    A pixel is inside its class's mask eroded n times where the smallest and the largest class
    within n pixels are the same: one pass for all classes, and what their binary masks would give.

    Args:
      classes: int16 [B, H, W], class ids from 0, -1 at void.
      outside: bool [B, H, W], beyond the image.
      limit: int32 scalar.
    """
    edge = ((0, 0), (1, 1), (1, 1))
    low = jnp.where(classes < 0, jnp.iinfo(jnp.int16).max, classes)
    low = jnp.pad(jnp.where(outside, -2, low), edge, constant_values=-2)
    high = jnp.pad(jnp.where(outside, -2, classes), edge, constant_values=-2)

    def erode(_: int, carry: tuple) -> tuple:
        low, high, distance = carry
        low, high = _over_3x3(low, jnp.minimum), _over_3x3(high, jnp.maximum)
        return low, high, distance + (low == high)

    start = (low.astype(jnp.int16), high.astype(jnp.int16), jnp.ones(low.shape, jnp.int16))
    distance = lax.fori_loop(0, limit, erode, start)[2]
    return distance[:, 1:-1, 1:-1]


def _outline(classes: jax.Array) -> jax.Array:
    """Pixels with a pixel of another class (not void) around them: bool [B, H, W]."""
    low = _over_3x3(jnp.where(classes < 0, jnp.iinfo(jnp.int16).max, classes), jnp.minimum)
    return (classes >= 0) & (low != _over_3x3(classes, jnp.maximum))


def _found(
    classes: jax.Array,
    outline: jax.Array,
    other: jax.Array,
    other_outline: jax.Array,
    tolerance: jax.Array,
    num_classes: int,
) -> jax.Array:
    """Outline pixels that have one of their class in `other` within the tolerance [B]."""
    # One bit per class: a single bitwise or grows the outlines of 32 classes.
    word = jnp.arange(-(-num_classes // 32))[None, None, None]
    bit = jnp.uint32(1) << (other % 32).astype(jnp.uint32)
    is_here = other_outline[..., None] & (other[..., None] // 32 == word)
    bits = jnp.where(is_here, bit[..., None], jnp.uint32(0))

    def grow(i: int, bits: jax.Array) -> jax.Array:
        active = (i < tolerance)[:, None, None, None]
        return jnp.where(active, _over_3x3(bits, jnp.bitwise_or), bits)

    bits = lax.fori_loop(0, tolerance.max(), grow, bits)
    own = jnp.take_along_axis(bits, jnp.maximum(classes, 0)[..., None] // 32, axis=-1)[..., 0]
    found = (own >> (classes % 32).astype(jnp.uint32)) & 1
    return outline & (found == 1)


def counts(
    label: jax.Array,
    prediction: jax.Array,
    size: jax.Array,
    widths: jax.Array,
    num_classes: int,
) -> dict[str, jax.Array]:
    """Counts the pixels of a batch that the scores are made of; sum them over a split in int64.

    Args:
      label: integers [B, H, W]; a value that is no class is void.
      prediction: integers [B, H, W], 0 … C-1.
      size: int32 [B, 2], height and width of the image within its padding.
      widths: int32 [B, 3], see `widths`.

    Returns:
      band: int32 [2, 3, C], for each of RATIOS the pixels within the width of an edge of their
        class: in both, in the label, in the prediction.
      outline: int32 [4, C], outline pixels of the prediction, those found in the label, and the
        other way round.
    """
    void = label >= num_classes
    truth = jnp.where(void, -1, label.astype(jnp.int16)).astype(jnp.int16)
    guess = jnp.where(void, -1, prediction.astype(jnp.int16)).astype(jnp.int16)
    outside, limit = _is_outside(label.shape, size), widths[:, : len(RATIOS)].max()
    distances = [_distance(classes, outside, limit) for classes in (truth, guess)]
    bands = [[d <= widths[:, i, None, None] for d in distances] for i in range(len(RATIOS))]
    outlines = _outline(truth), _outline(guess)
    tolerance = widths[:, -1]
    found = _found(truth, outlines[0], guess, outlines[1], tolerance, num_classes)
    right = _found(guess, outlines[1], truth, outlines[0], tolerance, num_classes)
    same = jnp.where(truth == guess, truth, -1)
    both = _tally(same, [near & guess_near for near, guess_near in bands], num_classes)
    label = _tally(truth, [*(near for near, _ in bands), outlines[0], found], num_classes)
    guess = _tally(guess, [*(near for _, near in bands), outlines[1], right], num_classes)
    split = len(RATIOS)
    return {
        "band": jnp.stack([both, label[:split], guess[:split]], axis=1),
        "outline": jnp.concatenate([guess[split:], label[split:]]),
    }


def _is_outside(shape: tuple[int, ...], size: jax.Array) -> jax.Array:
    """bool [B, H, W], True in the padding of images of `size` [B, 2]."""
    rows = jnp.arange(shape[1])[None, :, None]
    columns = jnp.arange(shape[2])[None, None]
    return (rows >= size[:, 0, None, None]) | (columns >= size[:, 1, None, None])


def _tally(classes: jax.Array, flags: list[jax.Array], num_classes: int) -> jax.Array:
    """For every flag, bool [B, H, W], how many pixels of each class have it: int32 [F, C]."""
    # One histogram over class and all flags together: on a CPU it is what takes the time.
    code = sum(flag.astype(jnp.int32) << i for i, flag in enumerate(flags))
    num_codes = 2 ** len(flags)
    cell = jnp.where(classes < 0, num_classes, classes).astype(jnp.int32) * num_codes + code
    pixels = jnp.bincount(cell.ravel(), length=(num_classes + 1) * num_codes)
    pixels = pixels.reshape(num_classes + 1, num_codes)[:-1]
    has_flag = (jnp.arange(num_codes)[None] >> jnp.arange(len(flags))[:, None]) & 1
    return jnp.where(has_flag[:, None], pixels[None], 0).sum(-1).astype(jnp.int32)


def metrics(counts: dict[str, np.ndarray]) -> dict[str, float | np.ndarray]:
    """Turns the counts of a whole split into scores in [0, 1], float64.

    Returns:
      boundary_iou_0.02, boundary_iou_0.005, boundary_f_0.0075: float64 [C], NaN where a class has
        an edge neither in the labels nor in the predictions.
      mean_boundary_iou_0.02, …: their means over the other classes.

    Example:
      A square of 32×32 pixels, predicted two pixels too far to the right:

      >>> import jax.numpy as jnp, numpy as np
      >>> from segjax.evaluation import boundary
      >>> label = jnp.zeros((1, 64, 64), jnp.uint8).at[:, 16:48, 16:48].set(1)
      >>> size = np.array([[64, 64]])
      >>> counts = boundary.counts(
      ...     label, jnp.roll(label, 2, axis=2), size, boundary.widths(size), num_classes=2
      ... )
      >>> scores = boundary.metrics({name: np.asarray(x) for name, x in counts.items()})
      >>> scores["boundary_iou_0.02"].round(3).tolist()
      [0.699, 0.333]
    """
    per_class = {}
    for name, (both, label, prediction) in zip(NAMES, counts["band"], strict=True):
        per_class[name] = ratio(both, label + prediction - both)
    guessed, right, labelled, found = counts["outline"]
    precision, recall = right / np.maximum(guessed, 1), found / np.maximum(labelled, 1)
    f = 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)
    per_class[F_NAME] = np.where(guessed + labelled > 0, f, np.nan)
    return per_class | {f"mean_{name}": mean(values) for name, values in per_class.items()}
