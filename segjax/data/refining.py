"""How an image meets a segmenter and then, at its own resolution, a refiner.

The segmenter sees the image as `fitting` has it, the refiner the image's own pixels beside the
segmenter's log-probabilities at them: whole, or in windows that are blended where they overlap.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data import tiles
from segjax.data.fitting import FILL, Finish, Fit, Logits, Shape, at_size, pad, padded_shape

FLOOR = 1e-3  # of coarse probabilities: no class is so unlikely that it could not come back
CERTAINTY = 0.9  # of the class in a mask, as probability
MAX_PIXELS = 2**20  # of a padded image that the refiner takes whole: 1024×1024
WINDOW = 512  # height and width of windows of larger images
UNCERTAIN_WINDOW = 160  # and of all images where only some are refined
MARGIN = 0.8  # between the two most likely classes; below, the segmenter is uncertain
OVERLAP = 0.25  # of neighbouring windows
BATCH = 4  # windows at once


def coarse_of_logits(logits: jax.Array) -> jax.Array:
    """Log-probabilities float32 [..., C], at least log(FLOOR), as a refiner takes them."""
    return jnp.maximum(jax.nn.log_softmax(logits.astype(jnp.float32)), jnp.log(FLOOR))


def coarse_of_label(label: jax.Array, num_classes: int) -> jax.Array:
    """The same of class ids, integers [...]; where one is no class, all are equally likely."""
    certain = CERTAINTY * jax.nn.one_hot(label, num_classes)
    rest = 1 - certain.sum(-1, keepdims=True)
    return coarse_of_logits(jnp.log(certain + rest / num_classes))


class TwoStage(NamedTuple):
    """A segmenter and a refiner as functions.

    coarse: of images as the segmenter takes them, see `fitting.Logits`.
    refine: float32 [B, h, w, 3 + C], pixels beside what `coarse_of_logits` gives, to logits
      float32 [B, h, w, C].
    """

    coarse: Logits
    refine: Callable[[Any], Any]


class Coarse(NamedTuple):
    """scores: [h, w, C], of an image as the segmenter saw it, or class ids [H, W] of its pixels.

    size: int32 [2], height and width of the image.
    """

    scores: Any
    size: np.ndarray
    num_classes: int

    def beside(self, pixels: np.ndarray, corner: tiles.Corner = (0, 0)) -> jax.Array:
        """What the refiner takes of the pixels [h, w, 3] that begin at `corner`."""
        if self.scores.ndim == 3:
            return _with_scores(pixels, self.scores, self.size, *corner)
        label = tiles.part(self.scores, corner, pixels.shape[:2])
        return _with_label(pixels, pad(label, pixels.shape[:2], 255), self.num_classes)

    def is_uncertain(self, corner: tiles.Corner, tile: Shape) -> bool:
        """Whether a window has an edge between classes, or a pixel that could be of two."""
        first, last = np.array(corner), np.array(corner) + tile
        grid = np.array(self.scores.shape[:2])
        low = np.maximum(first * grid // self.size - 1, 0)
        high = -(-last * grid // self.size) + 1
        part = np.asarray(self.scores[low[0] : high[0], low[1] : high[1]])
        if part.ndim == 2:
            return bool(np.ptp(part) > 0)
        ordered = np.sort(jax.nn.softmax(part), axis=-1)
        label = part.argmax(-1)
        return bool(np.ptp(label) > 0 or (ordered[..., -1] - ordered[..., -2] < MARGIN).any())


@jax.jit
def _with_scores(
    pixels: jax.Array, scores: jax.Array, size: jax.Array, top: int, left: int
) -> jax.Array:
    coarse = coarse_of_logits(at_size(scores, size, pixels.shape[:2], top, left))
    return jnp.concatenate([pixels.astype(jnp.float32), coarse], axis=-1)


@partial(jax.jit, static_argnames="num_classes")
def _with_label(pixels: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    coarse = coarse_of_label(label, num_classes)
    return jnp.concatenate([pixels.astype(jnp.float32), coarse], axis=-1)


class Refined(NamedTuple):
    """fit: the segmenter's.

    only_uncertain: the refiner sees windows with an edge or an uncertain pixel alone; the others
      stay as the segmenter has them.
    """

    fit: Fit
    only_uncertain: bool = False

    @property
    def size(self) -> Shape:
        """Height and width that the segmenter was trained on."""
        return self.fit.size

    def is_tiled(self, shape: Shape) -> bool:
        """Whether the refiner sees an image of that height and width in windows."""
        height, width = padded_shape(shape)
        return self.only_uncertain or height * width > MAX_PIXELS

    def bands(
        self,
        logits: TwoStage,
        image: np.ndarray,
        num_classes: int,
        finish: Finish,
        mask: np.ndarray | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """As `Fit.bands`; mask: class ids [H, W], refined in place of the segmenter's result."""
        scores = logits.coarse(self.fit.input(image)[None])[0] if mask is None else mask
        coarse = Coarse(scores, np.array(image.shape[:2], np.int32), num_classes)
        shape = padded_shape(image.shape[:2])
        if not self.is_tiled(image.shape[:2]):
            whole = coarse.beside(pad(image, shape, FILL))
            yield 0, jax.jit(finish)(logits.refine(whole[None])[0])
            return
        side = UNCERTAIN_WINDOW if self.only_uncertain else WINDOW
        tile = tuple(min(n, side) for n in shape)
        image = pad(image, tuple(map(max, zip(image.shape[:2], tile, strict=True))), FILL)
        scores = partial(self._windows, logits.refine, image, coarse, tile)
        for top, band in tiles.blended(scores, image.shape[:2], tile, OVERLAP, num_classes):
            yield top, jax.jit(finish)(band)

    def _windows(
        self,
        refine: Callable[[Any], Any],
        image: np.ndarray,
        coarse: Coarse,
        tile: Shape,
        corners: list[tiles.Corner],
    ) -> Iterator[np.ndarray]:
        """Logits [h, w, C] of windows, refined or, where nothing is uncertain, as they were."""
        parts = [coarse.beside(tiles.part(image, c, tile), c) for c in corners]
        is_refined = [not self.only_uncertain or coarse.is_uncertain(c, tile) for c in corners]
        chosen = [part for part, wanted in zip(parts, is_refined, strict=True) if wanted]
        refined = tiles.in_batches(refine, chosen, BATCH)
        for part, wanted in zip(parts, is_refined, strict=True):
            yield next(refined) if wanted else np.asarray(part[..., 3:])
