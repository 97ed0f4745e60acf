"""Large images in tiles, and what a network says of these blended where they overlap.

Gaussian weights as in nnU-Net: Isensee et al., Nature Methods 2021.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

SIGMA = 0.125  # of the blending weights, over the tile's size

Shape = tuple[int, int]
Corner = tuple[int, int]  # top and left of a tile


def blended(
    scores: Callable[[list[Corner]], Iterable[Any]],
    shape: Shape,
    tile: Shape,
    overlap: float,
    num_channels: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """First row and scores [n, W, C] of bands of an image; one row of tiles is kept at a time.

    Args:
      scores: of tiles at these corners, which have one row, [h, w, C] each.
      shape: of the image, at least that of the tile; overlap: of neighbours, a share of the tile.
    """
    height, width = tile
    tops, lefts = (_starts(n, m, overlap) for n, m in zip(shape, tile, strict=True))
    weight = _bell(height)[:, None, None] * _bell(width)[:, None]
    band = np.zeros((height, shape[1], num_channels), np.float32)
    total = np.zeros((height, shape[1], 1), np.float32)
    for top, next_top in zip(tops, [*tops[1:], shape[0]], strict=True):
        for left, part in zip(lefts, scores([(top, left) for left in lefts]), strict=True):
            band[:, left : left + width] += weight * part
            total[:, left : left + width] += weight
        done = next_top - top
        yield top, band[:done] / total[:done]
        # What the next row of tiles adds to moves up.
        for kept in (band, total):
            kept[: height - done] = kept[done:]
            kept[height - done :] = 0


def part(array: np.ndarray, corner: Corner, tile: Shape) -> np.ndarray:
    """The tile of an array [H, W, ...] at a corner."""
    top, left = corner
    return array[top : top + tile[0], left : left + tile[1]]


def in_batches(
    function: Callable[[np.ndarray], Any], parts: list[np.ndarray], size: int
) -> Iterator[np.ndarray]:
    """The function of each of some arrays, `size` at a time; the last batch is filled up."""
    for first in range(0, len(parts), size):
        batch = parts[first : first + size]
        filled = np.stack(batch + batch[:1] * (size - len(batch)))
        yield from np.asarray(function(filled))[: len(batch)]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of tiles that cover a length with at least `overlap` between neighbours."""
    step = max(1, int(tile * (1 - overlap)))
    return [*range(0, length - tile, step), length - tile]


def _bell(length: int) -> np.ndarray:
    """Weights float32 [length], 1 in the middle; never so small that their sum vanishes."""
    x = (np.arange(length) + 0.5) / length - 0.5
    return np.maximum(np.exp(-0.5 * (x / SIGMA) ** 2), 1e-3).astype(np.float32)
