"""A trained network, applied: an image of any size in, its class ids out, at the image's own size.

    model = predictor.load("runs/camvid-cpu")
    label = model.label(image)  # image: uint8 [H, W, 3] RGB
    picture = model.overlay(image, label)

Files of other kinds become such images as in training, `config.data.value_range` included, by
`decode.decode_image(path.read_bytes(), str(path), model.network.value_range)`.

One compiled function serves every image. A run that resizes its images gets the whole image at the
size it was trained on; one that keeps their pixels gets tiles of that size, blended where they
overlap (Gaussian weights as in nnU-Net: Isensee et al., Nature Methods 2021). The scores of a band
of rows are kept at a time, so that an image may be far larger than all its scores would allow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from segjax import networks
from segjax.data.pipeline import resize_image
from segjax.networks import Network

OVERLAP = 0.5  # of neighbouring tiles
SIGMA = 0.125  # of the blending weights, over the tile's size
BATCH = 4  # tiles at once
MAX_BAND = 2**26  # scores of a band of rows


def load(path: str | Path, checkpoint: str = "best", tta: Sequence[str] = ()) -> "Predictor":
    """The network of a work directory, or of a file that segjax.export wrote.

    Args:
      checkpoint: best (by validation mIoU) or latest, of a work directory.
      tta: what scores are averaged over, see `networks.averaged`: ("flip", "0.75").
    """
    if Path(path).is_file():
        network, _ = networks.read_file(path)
    else:
        network = networks.restore(path, checkpoint).network()
    return Predictor(networks.averaged(network, tta) if tta else network)


class Predictor:
    """A network that takes images of any size."""

    def __init__(self, network: Network) -> None:
        self.network, self.table = network, network.table

    def label(self, image: np.ndarray) -> np.ndarray:
        """Class ids, uint8 [H, W], of an image, uint8 [H, W, 3] RGB."""
        _require_image(image)
        out = np.empty(image.shape[:2], np.uint8)
        for top, logits in self._bands(image):
            out[top : top + len(logits)] = logits.argmax(-1)
        return out

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Class probabilities, float16 [H, W, C], of an image, uint8 [H, W, 3] RGB."""
        _require_image(image)
        out = np.empty((*image.shape[:2], len(self.table.names)), np.float16)
        for top, logits in self._bands(image):
            scores = np.exp(logits - logits.max(-1, keepdims=True))
            out[top : top + len(logits)] = scores / scores.sum(-1, keepdims=True)
        return out

    def overlay(
        self, image: np.ndarray, label: np.ndarray, opacity: float = 0.5, contours: bool = False
    ) -> np.ndarray:
        """The image with its classes' colours laid over it, uint8 [H, W, 3].

        The background (`LabelTable.background`) stays as it is.

        Args:
          opacity: of the colours, 0 to 1.
          contours: also outline the classes, in their full colours.
        """
        colors = self.table.palette[label]
        picture = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
        shown = label != self.table.background  # everywhere, if that is None
        if contours:
            width = 1 + 2 * max(1, min(label.shape) // 200)
            edges = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8))
            picture = np.where((edges > 0)[..., None], colors, picture)
        return np.where(shown[..., None], picture, image)

    def _bands(self, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """First row and logits [n, W, C] of bands of rows, from top to bottom."""
        return self._stretched(image) if self.network.resizes else self._tiled(image)

    def _stretched(self, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        logits = np.asarray(self.network.logits(resize_image(image, self.network.size)[None])[0])
        height, width = image.shape[:2]
        count = max(1, MAX_BAND // (width * logits.shape[-1]))
        for top in range(0, height, count):
            # Half-pixel centres, as the evaluator: rows by hand, columns by OpenCV.
            rows = np.arange(top, min(top + count, height)) + 0.5
            rows = (rows * len(logits) / height - 0.5).clip(0, len(logits) - 1)
            above = rows.astype(int)
            share = (rows - above)[:, None, None].astype(np.float32)
            below = np.minimum(above + 1, len(logits) - 1)
            band = (1 - share) * logits[above] + share * logits[below]
            yield top, cv2.resize(band, (width, len(band)))

    def _tiled(self, image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        shape, size = image.shape[:2], self.network.size
        height, width = size
        missing = [max(0, n - m) for n, m in zip(size, shape, strict=True)]
        if any(missing):
            image = np.pad(image, [(0, n) for n in missing] + [(0, 0)], "edge")
        tops, lefts = (_starts(n, m) for n, m in zip(image.shape[:2], size, strict=True))
        weight = _bell(height)[:, None, None] * _bell(width)[:, None]
        band = np.zeros((height, image.shape[1], len(self.table.names)), np.float32)
        total = np.zeros((height, image.shape[1], 1), np.float32)
        for top, next_top in zip(tops, [*tops[1:], image.shape[0]], strict=True):
            tiles = [image[top : top + height, left : left + width] for left in lefts]
            for left, logits in zip(lefts, self._in_batches(tiles), strict=True):
                band[:, left : left + width] += weight * logits
                total[:, left : left + width] += weight
            done = next_top - top
            rows = min(done, shape[0] - top)
            yield top, (band[:rows] / total[:rows])[:, : shape[1]]
            # What the next row of tiles adds to moves up.
            for kept in (band, total):
                kept[: height - done] = kept[done:]
                kept[height - done :] = 0

    def _in_batches(self, tiles: list[np.ndarray]) -> Iterator[np.ndarray]:
        for first in range(0, len(tiles), BATCH):
            batch = tiles[first : first + BATCH]
            filled = np.stack(batch + batch[:1] * (BATCH - len(batch)))
            yield from np.asarray(self.network.logits(filled))[: len(batch)]


def _require_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a NumPy array, uint8 [H, W, 3] RGB, not {type(image)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is uint8 [H, W, 3] RGB, not {image.dtype} {image.shape}")


def _starts(length: int, tile: int) -> list[int]:
    """First pixels of tiles that cover a length with at least OVERLAP between neighbours."""
    step = max(1, int(tile * (1 - OVERLAP)))
    return [*range(0, length - tile, step), length - tile]


def _bell(length: int) -> np.ndarray:
    """Weights float32 [length], 1 in the middle; never so small that their sum vanishes."""
    x = (np.arange(length) + 0.5) / length - 0.5
    return np.maximum(np.exp(-0.5 * (x / SIGMA) ** 2), 1e-3).astype(np.float32)
