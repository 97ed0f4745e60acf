"""How an image of any size meets the network, and how logits get the image's size again.

Written once, for validation, evaluation, prediction, video and export, so that the network scored
is the network used. All depends on the image's own size and on the run's data.fit and data.size:

- resize: the image is stretched to `data.size`, its logits back, bilinearly.
- pad: the image keeps its pixels and is padded with FILL, below and at the right, to the next size
  that `padded_shape` knows. Where that has more than MAX_PIXELS the network gets tiles of TILE
  pixels, blended where they overlap (Gaussian weights as in nnU-Net: Isensee et al., Nature Methods
  2021). A network of one size (ONNX) gets that size, or tiles of it.
- whole: the image as it is. An exported refiner does the rest itself.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from segjax.data import tiles

FILL = (124, 116, 104)  # the mean colour of ImageNet: close to 0 after normalisation, for RGB
Fill = tuple[float, ...]  # of every channel; what are no colours get their mean
MAX_PIXELS = 2**22  # of a padded image that the network takes whole: 2048×2048
TILE = 1024  # height and width of tiles, at most
OVERLAP = 0.5  # of neighbouring tiles
BATCH = 4  # tiles at once
MAX_BAND = 2**26  # logits of a band of rows of a stretched image

Shape = tuple[int, int]
Logits = Callable[[Any], Any]  # images [B, h, w, channels] to float32 [B, h, w, C]
Finish = Callable[[jax.Array], Any]  # logits [h, w, C] to what is wanted of them, [h, w, ...]


def padded_shape(shape: Shape) -> Shape:
    """The next height and width that programs are compiled for.

    Multiples of 32 up to 512, and of 128 above, or a folder of many sizes would mean as many
    programs. The network itself pads to its own stride.
    """
    return tuple(-(-n // step) * step for n in shape for step in [32 if n <= 512 else 128])


def pad(array: np.ndarray, shape: Shape, value: int | Fill) -> np.ndarray:
    """An array [H, W, ...], with `value` below and at the right up to `shape`."""
    if array.shape[:2] == tuple(shape):
        return array
    if array.ndim == 3 and array.shape[2] != 3:  # OpenCV has four values at most
        padded = np.empty((*shape, array.shape[2]), array.dtype)
        padded[:] = value
        padded[: array.shape[0], : array.shape[1]] = array
        return padded
    below, right = shape[0] - array.shape[0], shape[1] - array.shape[1]
    return cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)


def resize_image(image: np.ndarray, size: Shape) -> np.ndarray:
    """[H, W, channels] to size (h, w), in its own type, by area means where it shrinks."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=how).reshape(*size, image.shape[2])


def at_size(
    logits: jax.Array,
    size: jax.Array,
    shape: Shape,
    top: jax.Array | int = 0,
    left: jax.Array | int = 0,
) -> jax.Array:
    """Logits [h, w, C] of a stretched image, at the image's own `size`, int32 [2]: [*shape, C].

    Bilinear, with half-pixel centres. The first row is number `top`, the first column `left`; what
    lies beyond `size` repeats the edge. A pixel is the same in every part and whatever the `shape`.
    """

    def neighbours(axis: int, first: jax.Array | int) -> tuple[jax.Array, jax.Array, jax.Array]:
        length = logits.shape[axis]
        at = (first + jnp.arange(shape[axis]) + 0.5) * (length / size[axis]) - 0.5
        at = at.clip(0, length - 1)
        low = at.astype(jnp.int32)
        return low, jnp.minimum(low + 1, length - 1), at - low

    low, high, share = neighbours(0, top)
    rows = logits[low] + share[:, None, None] * (logits[high] - logits[low])
    low, high, share = neighbours(1, left)
    return rows[:, low] + share[None, :, None] * (rows[:, high] - rows[:, low])


@partial(jax.jit, static_argnames=("finish", "shape"))
def _at_size(
    finish: Finish, logits: jax.Array, size: np.ndarray, shape: Shape, top: int
) -> Any:  # in one program, or all logits would be written to memory and read again
    return finish(at_size(logits, size, shape, top))


class Fit(NamedTuple):
    """size: height and width that the network was trained on; resizes: images are stretched to it.

    fixed_size: the network takes no other; is_whole: it takes any image as it is; fill: of padding.
    """

    size: Shape
    resizes: bool
    fixed_size: bool = False
    is_whole: bool = False
    fill: Fill = FILL

    def input(self, image: np.ndarray) -> np.ndarray:
        """An image, [H, W, channels], as the network takes it whole."""
        if self.resizes:
            return resize_image(image, self.size)
        if self.is_whole:
            return image
        return pad(
            image, self.size if self.fixed_size else padded_shape(image.shape[:2]), self.fill
        )

    def is_tiled(self, shape: Shape) -> bool:
        """Whether an image of that height and width is cut into tiles."""
        if self.resizes or self.is_whole:
            return False
        if self.fixed_size:
            return shape[0] > self.size[0] or shape[1] > self.size[1]
        height, width = padded_shape(shape)
        return height * width > MAX_PIXELS

    def bands(
        self, logits: Logits, image: np.ndarray, num_classes: int, finish: Finish
    ) -> Iterator[tuple[int, Any]]:
        """First rows, and what `finish` makes of the logits, of bands that cover an image.

        They go from top to bottom, and may go beyond the image.
        """
        shape = image.shape[:2]
        if not self.is_tiled(shape):
            yield from self.rows(logits(self.input(image)[None])[0], shape, finish)
            return
        tile = self.size if self.fixed_size else tuple(min(n, TILE) for n in padded_shape(shape))
        image = pad(image, tuple(map(max, zip(shape, tile, strict=True))), self.fill)

        def scores(corners: list[tiles.Corner]) -> Iterator[np.ndarray]:
            parts = [tiles.part(image, corner, tile) for corner in corners]
            return tiles.in_batches(logits, parts, BATCH)

        for top, band in tiles.blended(scores, image.shape[:2], tile, OVERLAP, num_classes):
            yield top, jax.jit(finish)(band)

    def rows(self, logits: Any, shape: Shape, finish: Finish) -> Iterator[tuple[int, Any]]:
        """The same, from the logits [h, w, C] of the whole `input` of an image of `shape`."""
        if not self.resizes:
            yield 0, jax.jit(finish)(logits)
            return
        height, width = padded_shape(shape)
        count = min(height, max(1, MAX_BAND // (width * logits.shape[-1])))
        for top in range(0, shape[0], count):
            yield top, _at_size(finish, logits, np.array(shape), (count, width), top)
