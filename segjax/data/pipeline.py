"""Sources to batches: fitted to one shape, shuffled, batched, each a pure function of (seed, step).

A training batch holds `image` uint8 [B, H, W, 3], `label` uint8 [B, H, W] (255 is void), `size`
int32 [B, 2], the height and width that the example really has within its padding, and `index` int32
[B], its position in the endless stream of examples, the key of everything random about it. Of
`examples` that are all on the devices (`Fitted.stacked`) there is only `row` int32 [B], which one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import grain
import numpy as np
from ml_collections import ConfigDict

from segjax.data.datasets import VOID
from segjax.data.sources import Source
from segjax.errors import ConfigError

FITS = ("resize", "pad")
FILL = (124, 116, 104)  # the mean colour of ImageNet: close to 0 after normalisation
Batch = dict[str, np.ndarray]


def _pad(array: np.ndarray, shape: tuple[int, int], value: int | tuple[int, ...]) -> np.ndarray:
    below, right = shape[0] - array.shape[0], shape[1] - array.shape[1]
    return cv2.copyMakeBorder(array, 0, below, 0, right, cv2.BORDER_CONSTANT, value=value)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] to size (h, w), by area means where it shrinks."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    return cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] to size (h, w), by the nearest pixel with the image's half-pixel convention."""
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class Fitted:
    """A source whose examples all have one shape, kept in memory if they take at most `cache_gb`.

    With `config.fit` = 'resize' images are stretched to `config.size`; with 'pad' they keep their
    pixels and are padded below and at the right to `max_size`. `native` leaves labels at their own
    resolution (padded to `max_size`) also where images are resized.
    """

    def __init__(
        self, source: Source, config: ConfigDict, max_size: tuple[int, int], native: bool
    ) -> None:
        if config.fit not in FITS:
            raise ConfigError(f"config.data.fit is {config.fit!r}; choose one of {FITS}")
        self.source, self.config, self.native = source, config, native
        resized = config.fit == "resize"
        self.stretched = resized and native  # images are, their labels are not
        self.image_shape = tuple(config.size) if resized else tuple(max_size)
        self.label_shape = tuple(config.size) if resized and not native else tuple(max_size)
        pixels = 3 * np.prod(self.image_shape) + np.prod(self.label_shape)
        self.gigabytes = len(source) * pixels / 1e9
        self._cache: Batch | None = None
        if self.gigabytes <= config.cache_gb:
            self._cache = {
                "image": np.empty((len(source), *self.image_shape, 3), np.uint8),
                "label": np.empty((len(source), *self.label_shape), np.uint8),
                "size": np.empty((len(source), 2), np.int32),
            }
            with ThreadPoolExecutor(config.num_threads) as pool:
                list(pool.map(self._keep, range(len(source))))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Batch:
        if self._cache is None:
            return self._fit(i)
        return {key: array[i] for key, array in self._cache.items()}

    def stacked(self, at_most_gb: float) -> Batch | None:
        """All examples, [N, ...]; None if they are not kept in memory, or take more than that."""
        return self._cache if self.gigabytes <= at_most_gb else None

    def _keep(self, i: int) -> None:
        for key, value in self._fit(i).items():
            self._cache[key][i] = value

    def _fit(self, i: int) -> Batch:
        example = self.source[i]
        image, label = example["image"], example["label"]
        if self.config.fit == "resize":
            image = resize_image(image, self.image_shape)
            label = label if self.native else resize_label(label, self.label_shape)
        return {
            "image": _pad(image, self.image_shape, FILL),
            "label": _pad(label, self.label_shape, VOID),
            "size": np.array(label.shape, np.int32),
        }


def train_batches(
    examples: Fitted | Sequence[Batch],
    config: ConfigDict,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches start_step, start_step + 1, … without end, newly shuffled every epoch.

    `batch_size` is global; `process` = (index, count) says which share of every batch to return: a
    row of neighbours, so that one after the other they are the batch of one process.
    """
    index, count = process
    stream = (
        grain.MapDataset.source(examples)
        .seed(seed)
        .shuffle()
        .repeat()
        .map_with_index(lambda i, example: {**example, "index": np.int32(i)})
        # Without drop_remainder Grain rounds the endless length to a float, and overflows at 1.
        .batch(batch_size // count, drop_remainder=True)
        .slice(slice(index, None, count))
    )
    options = grain.ReadOptions(config.num_threads, prefetch_buffer_size=2 * config.num_threads)
    return iter(stream[start_step:].to_iter_dataset(options))


def eval_batches(
    examples: Fitted, batch_size: int, process: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, Batch]]:
    """Every example once, in order; the last batch is filled up with images that are all void.

    Yields the number of a batch's first example and the batch: of `process` = (index, count) its
    share, a row of neighbours.
    """
    index, count = process
    share = batch_size // count
    filler = examples[0] | {"label": np.full(examples.label_shape, VOID, np.uint8)}
    for start in range(index * share, index * share + len(examples), batch_size):
        rows = [examples[i] if i < len(examples) else filler for i in range(start, start + share)]
        yield start, {key: np.stack([row[key] for row in rows]) for key in filler}
