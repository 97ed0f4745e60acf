"""A trained network, applied: an image of any size in, its class ids out, at the image's own size.

    model = predictor.load("runs/camvid-cpu")
    label = model.label(image)  # image: uint8 [H, W, 3] RGB, or what it was trained on
    picture = model.overlay(image, label)

Files become such images as in training by `model.read(path)`.

What the network sees of an image is the evaluator's (`segjax.data.fitting`). Scores are kept of a
band of rows at a time, so that an image may be far larger than all its scores would allow.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from segjax.data import decode
from segjax.data.fitting import Finish
from segjax.data.label_table import VOID
from segjax.data.pixels import shown, to_image
from segjax.data.refining import Refined
from segjax.errors import ConfigError
from segjax.inference import networks
from segjax.inference.networks import Network
from segjax.inference.scenes import Scene
from segjax.runtime.files import expand
from segjax.weights import downloaded, runs


def load(
    path: str | Path,
    checkpoint: str = "best",
    tta: Sequence[str] = (),
    refine: str | Path | None = None,
) -> "Predictor":
    """The network of a work directory, of a file that segjax.export wrote, or of another library.

    Args:
      path: the last is a file of weights, or a folder with them: see `downloaded.restore`.
      checkpoint: best (by validation mIoU) or latest, of a work directory; the refiner's if there
        is one.
      tta: what scores are averaged over, see `tta.averaged`: ("flip", "0.75").
      refine: the work directory of a refiner of the run, see `runs.with_refiner`.
    """
    path = Path(expand(str(path)))
    if downloaded.holds_weights(path):
        downloaded.require_alone(path, checkpoint, refine)
        network = networks.of(downloaded.restore(path))
    elif path.is_file():
        if refine:
            raise ConfigError(f"--refine is for --workdir; {path} is a file, and stays as it is")
        network, _ = networks.read_file(path)
    else:
        network = networks.of(runs.restore(runs.with_refiner(path, refine), checkpoint))
    return Predictor(networks.averaged(network, tta) if tta else network)


def classes(logits: jax.Array) -> jax.Array:
    """Class ids, uint8 [H, W], of logits [H, W, C]."""
    return logits.argmax(-1).astype(jnp.uint8)


def _classes_and_probabilities(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    return classes(logits), jax.nn.softmax(logits).astype(jnp.float16)


class Predictor:
    """A network that takes images of any size."""

    def __init__(self, network: Network) -> None:
        self.network, self.table = network, network.table
        self.fit = network.fit

    @property
    def refines(self) -> bool:
        """Whether there is a refiner, which takes masks."""
        return isinstance(self.fit, Refined)

    def label(self, image: np.ndarray | Scene, mask: np.ndarray | None = None) -> np.ndarray:
        """Class ids, uint8 [H, W], of an image: see `Network.pixels`.

        mask: class ids, integers [H, W], to be refined in place of what the segmenter gives; values
          that are no class are for the refiner to decide. ValueError without a refiner.
        """
        label = np.empty(self._shape(image), np.uint8)
        return joined(self._bands(image, classes, mask), label)

    def probabilities(self, image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities, float16 [H, W, C], of an image."""
        return self.label_and_probabilities(image, mask)[1]

    def label_and_probabilities(
        self, image: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both, of one pass through the network."""
        label = np.empty(self._shape(image), np.uint8)
        probabilities = np.empty((*label.shape, len(self.table.names)), np.float16)
        out = label, probabilities
        return joined(self._bands(image, _classes_and_probabilities, mask), out)

    def overlay(
        self, image: np.ndarray, label: np.ndarray, opacity: float = 0.5, contours: bool = False
    ) -> np.ndarray:
        """The image with its classes' colours laid over it, uint8 [H, W, 3].

        The background (`LabelTable.background`) stays as it is.

        Args:
          opacity: of the colours, 0 to 1.
          contours: also outline the classes, in their full colours.
        """
        image, colors = shown(image), self.table.palette[label]
        picture = cv2.addWeighted(image, 1 - opacity, colors, opacity, 0)
        is_shown = label != self.table.background  # everywhere, if that is None
        if contours:
            width = 1 + 2 * max(1, min(label.shape) // 200)
            edges = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((width, width), np.uint8))
            picture = np.where((edges > 0)[..., None], colors, picture)
        return np.where(is_shown[..., None], picture, image)

    def _bands(
        self, image: np.ndarray, finish: Finish, mask: np.ndarray | None
    ) -> Iterator[tuple[int, Any]]:
        size = len(self.table.names)
        given = {} if mask is None else {"mask": self._as_ids(mask, image.shape[:2])}
        return self.fit.bands(self.network.logits, image, size, finish, **given)

    def read(self, path: str | Path) -> np.ndarray:
        """The image in a file, as the network takes it; DataError where it does not fit."""
        raster = decode.read(Path(path).read_bytes(), str(path))
        return to_image(raster, str(path), self.network.pixels)[0]

    def _shape(self, image: np.ndarray | Scene) -> tuple[int, int]:
        """Height and width; TypeError or ValueError for what is no image to the network."""
        wanted = self.network.pixels
        if not isinstance(image, (np.ndarray, Scene)):
            raise TypeError(f"an image is a NumPy array, {wanted.describe()}, not {type(image)}")
        fits = image.ndim == 3 and image.shape[2] == wanted.channels
        if image.dtype != wanted.type or not fits:
            raise ValueError(f"an image is {wanted.describe()}, not {image.dtype} {image.shape}")
        return image.shape[:2]

    def _as_ids(self, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """A mask as uint8, in which whatever is no class is VOID."""
        if not self.refines:
            raise ValueError("a mask needs a refiner, and this network has none")
        if mask.shape != shape or mask.dtype.kind not in "iu":
            raise ValueError(f"a mask is integers {[*shape]}, not {mask.dtype} {[*mask.shape]}")
        is_class = (mask >= 0) & (mask < len(self.table.names))
        return np.where(is_class, mask, VOID).astype(np.uint8)


def joined(bands: Iterable[tuple[int, Any]], out: Any) -> Any:
    """Writes the bands of `fitting.Fit.bands` into arrays [H, W, ...], and returns these."""

    def write(top: int, out: np.ndarray, band: jax.Array) -> None:
        rows = out[top : top + len(band)]
        rows[:] = np.asarray(band)[: len(rows), : rows.shape[1]]

    for top, band in bands:
        jax.tree.map(partial(write, top), out, band)
    return out
