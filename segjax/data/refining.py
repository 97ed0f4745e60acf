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
from segjax.data.fitting import Finish, Fit, Logits, Shape, at_size, pad
from segjax.data.label_table import VOID

FLOOR = 1e-3  # of coarse probabilities: no class is so unlikely that it could not come back
CERTAINTY = 0.9  # of the class in a mask, as probability
STEP = 32  # images are padded to multiples of it
MAX_PIXELS = 2**20  # of a padded image that the refiner takes whole: 1024×1024
WINDOW = 512  # height and width of windows of larger images
UNCERTAIN_WINDOW = 160  # and of all images where only some are refined
MARGIN = 0.8  # between the two most likely classes; below, the segmenter is uncertain
OVERLAP = 0.25  # of neighbouring windows
BATCH = 4  # windows at once, where all are refined


def coarse_of_logits(logits: jax.Array) -> jax.Array:
    """Log-probabilities float32 [..., C], at least log(FLOOR), as a refiner takes them."""
    return jnp.maximum(jax.nn.log_softmax(logits.astype(jnp.float32)), jnp.log(FLOOR))


def coarse_of_label(label: jax.Array, num_classes: int) -> jax.Array:
    """The same of class ids, integers [...]; where one is no class, all are equally likely."""
    certain = CERTAINTY * jax.nn.one_hot(label, num_classes)
    rest = 1 - certain.sum(-1, keepdims=True)
    return coarse_of_logits(jnp.log(certain + rest / num_classes))


def padded(shape: Shape) -> Shape:
    """Height and width of a whole image as a refiner takes it."""
    return tuple(-(-n // STEP) * STEP for n in shape)


class TwoStage(NamedTuple):
    """A segmenter and a refiner as functions.

    coarse: of images as the segmenter takes them, see `fitting.Logits`.
    refine: float32 [B, h, w, channels + C], pixels beside what `coarse_of_logits` gives, to logits
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

    def rows(self, top: int, shape: Shape) -> jax.Array:
        """Log-probabilities float32 [*shape, C] of the pixels from row `top` on.

        Beyond the image its edge is repeated; that of a mask is void.
        """
        if self.scores.ndim == 3:
            return _of_scores(self.scores, self.size, shape, top)
        label = tiles.part(self.scores, (top, 0), shape)
        return _of_label(pad(label, shape, VOID), self.num_classes)

    def uncertain(self) -> np.ndarray:
        """bool like `scores`: True beside another class, and where a pixel could be of two."""
        if self.scores.ndim == 3:
            label, is_uncertain = map(np.array, _uncertain(self.scores))
        else:
            label, is_uncertain = self.scores, self.scores >= self.num_classes
        is_uncertain[1:] |= label[1:] != label[:-1]
        is_uncertain[:, 1:] |= label[:, 1:] != label[:, :-1]
        return is_uncertain

    def has_uncertain(self, tile: Shape) -> Callable[[tiles.Corner], bool]:
        """Whether a window of this height and width, by its corner, has such a pixel."""
        is_uncertain = self.uncertain()
        grid = np.array(is_uncertain.shape)

        def found(corner: tiles.Corner) -> bool:
            # One more on each side: pixels are interpolated from the scores around them.
            low = np.maximum(corner * grid // self.size - 1, 0)
            high = -(-(np.array(corner) + tile) * grid // self.size) + 1
            return bool(is_uncertain[low[0] : high[0], low[1] : high[1]].any())

        return found


@partial(jax.jit, static_argnames="shape")
def _of_scores(scores: jax.Array, size: jax.Array, shape: Shape, top: int) -> jax.Array:
    return coarse_of_logits(at_size(scores, size, shape, top))


@partial(jax.jit, static_argnames="num_classes")
def _of_label(label: jax.Array, num_classes: int) -> jax.Array:
    return coarse_of_label(label, num_classes)


@jax.jit
def _uncertain(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Class ids, and where the two most likely classes are close."""
    likely, _ = jax.lax.top_k(jax.nn.softmax(scores), 2)
    return scores.argmax(-1), likely[..., 0] - likely[..., 1] < MARGIN


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
        height, width = padded(shape)
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
        shape = padded(image.shape[:2])
        if not self.is_tiled(image.shape[:2]):
            pixels = jnp.float32(pad(image, shape, self.fit.fill))
            whole = jnp.concatenate([pixels, coarse.rows(0, shape)], axis=-1)
            yield 0, jax.jit(finish)(logits.refine(whole[None])[0])
            return
        # How many are uncertain differs from row to row; to fill up batches would cost the most.
        side, batch = (UNCERTAIN_WINDOW, 1) if self.only_uncertain else (WINDOW, BATCH)
        tile = tuple(min(n, side) for n in shape)
        is_wanted = coarse.has_uncertain(tile) if self.only_uncertain else lambda corner: True
        image = pad(image, tuple(map(max, zip(image.shape[:2], tile, strict=True))), self.fit.fill)

        def windows(corners: list[tiles.Corner]) -> Iterator[np.ndarray]:
            """Logits [h, w, C] of windows in a row, refined or, where not wanted, as they were."""
            row = np.asarray(coarse.rows(corners[0][0], (tile[0], shape[1])))
            parts = {corner: tiles.part(row, (0, corner[1]), tile) for corner in corners}
            wanted = [corner for corner in corners if is_wanted(corner)]
            beside = [np.concatenate([tiles.part(image, c, tile), parts[c]], -1) for c in wanted]
            refined = tiles.in_batches(logits.refine, beside, batch)
            yield from (parts | dict(zip(wanted, refined, strict=True))).values()

        for top, band in tiles.blended(windows, image.shape[:2], tile, OVERLAP, num_classes):
            yield top, jax.jit(finish)(band)
