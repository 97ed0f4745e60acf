"""Sources to batches: fitted to one shape, shuffled, batched, each a pure function of (seed, step).

A training batch holds `image` [B, H, W, channels] (see `Pixels`), `label` uint8 [B, H, W] (255 is
void), `size` int32 [B, 2], the height and width that the example really has within its padding, and
`index` int32 [B], its position in the endless stream of examples, the key of everything random
about it. Of `examples` that are all on the devices (`FixedShapeSource.stacked`) there is only `row`
int32 [B], which one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import grain
import numpy as np
from ml_collections import ConfigDict

from segjax.data.fitting import FILL, Fill, Fit, pad, padded_shape, resize_image
from segjax.data.label_table import VOID
from segjax.data.pixels import RGB
from segjax.data.refining import Refined
from segjax.data.sources import Source, Subset
from segjax.errors import ConfigError

FITS = ("resize", "pad")
MAX_LOGITS = 2**28  # of a batch of an evaluation: 1 GiB, however large the images are
Batch = dict[str, np.ndarray]


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] to size (h, w), by the nearest pixel with the image's half-pixel convention."""
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class FixedShapeSource:
    """A source whose examples all have one shape, kept in memory if they take at most `cache_gb`.

    With `config.fit` = 'resize' images are stretched to `config.size`; with 'pad' they keep their
    pixels and are padded below and at the right to `max_size`, or, to be taken `whole`, as
    `fitting.Fit` does. `native` leaves labels at their own resolution (padded to `max_size`) also
    where images are resized. With `small` an example has also the image as that fit stretches it.
    """

    def __init__(
        self,
        source: Source,
        config: ConfigDict,
        max_size: tuple[int, int],
        native: bool,
        *,
        whole: bool = False,
        cache_gb: float | None = None,
        small: Fit | None = None,
        fill: Fill = FILL,
    ) -> None:
        if config.fit not in FITS:
            raise ConfigError(f"config.data.fit is {config.fit!r}; choose one of {FITS}")
        self.source, self.config, self.native, self.small = source, config, native, small
        self.fill, self.pixels = fill, getattr(source, "pixels", RGB)
        resized = config.fit == "resize"
        self.stretched = resized and native  # images are, their labels are not
        padded = padded_shape(max_size) if whole else tuple(max_size)
        self.image_shape = tuple(config.size) if resized else padded
        self.label_shape = tuple(config.size) if resized and not native else tuple(max_size)
        channels, dtype = self.pixels.channels, self.pixels.type
        kinds = {
            "image": ((*self.image_shape, channels), dtype),
            "label": (self.label_shape, np.dtype("uint8")),
        }
        if small:
            kinds["small"] = ((*small.size, channels), dtype)
        size = sum(np.prod(shape) * dtype.itemsize for shape, dtype in kinds.values())
        self.gigabytes = len(source) * size / 1e9
        self._cache: Batch | None = None
        if self.gigabytes <= (config.cache_gb if cache_gb is None else cache_gb):
            self._cache = {
                name: np.empty((len(source), *shape), dtype)
                for name, (shape, dtype) in kinds.items()
            } | {"size": np.empty((len(source), 2), np.int32)}
            with ThreadPoolExecutor(config.num_threads) as pool:
                list(pool.map(self._keep, range(len(source))))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Batch:
        if self._cache is None:
            return self._fit(i)
        return {key: array[i] for key, array in self._cache.items()}

    @property
    def is_kept(self) -> bool:
        """Whether the examples are in memory."""
        return self._cache is not None

    def stacked(self, at_most_gb: float) -> Batch | None:
        """All examples, [N, ...]; None if they are not kept in memory, or take more than that."""
        return self._cache if self.gigabytes <= at_most_gb else None

    def _keep(self, i: int) -> None:
        for key, value in self._fit(i).items():
            self._cache[key][i] = value

    def _fit(self, i: int) -> Batch:
        example = self.source[i]
        image, label = example["image"], example["label"]
        small = {"small": self.small.input(image)} if self.small else {}
        if self.config.fit == "resize":
            image = resize_image(image, self.image_shape)
            label = label if self.native else resize_label(label, self.label_shape)
        return {
            "image": pad(image, self.image_shape, self.fill),
            "label": pad(label, self.label_shape, VOID),
            "size": np.array(label.shape, np.int32),
            **small,
        }


class EvalSplit:
    """A split as it is scored: `groups` of one shape each, and `large` images, one at a time.

    Args:
      sizes: height and width of every example.
      native: scores are counted at the labels' own resolution.
      about: which data they are, for the report.
      fit: how an image meets the network, if not as `config` says.
    """

    def __init__(
        self,
        source: Source,
        sizes: Sequence[tuple[int, int]],
        config: ConfigDict,
        native: bool = True,
        about: dict[str, Any] | None = None,
        fit: Fit | Refined | None = None,
    ) -> None:
        self.table, self.native, self.about = source.table, native, about or {}
        self.fit = fit or Fit(tuple(config.size), config.fit == "resize")
        parts: dict[Any, list[int]] = {}
        for i, size in enumerate(sizes):
            parts.setdefault(self._part(size), []).append(i)
        large = parts.pop("large", [])
        self.num_tiled = sum(self.fit.is_tiled(sizes[i]) for i in large)
        self.large = _only(source, large)
        self.groups, cache_gb = [], config.cache_gb
        for part in parts.values():
            max_size = tuple(max(sizes[i][axis] for i in part) for axis in (0, 1))
            group = FixedShapeSource(
                _only(source, part),
                config,
                max_size,
                native,
                whole=True,
                cache_gb=cache_gb,
                fill=getattr(self.fit, "fill", FILL),  # a refiner's images are all large
            )
            self.groups.append(group)
            cache_gb -= group.gigabytes if group.is_kept else 0

    def __len__(self) -> int:
        return sum(map(len, self.groups)) + len(self.large)

    def _part(self, size: tuple[int, int]) -> Any:
        """What examples that go through the network together have in common."""
        if isinstance(self.fit, Refined):
            return "large"
        if self.fit.resizes and not self.native:
            return "resized"
        if self.fit.is_tiled(size) or np.prod(size) * len(self.table.names) > MAX_LOGITS:
            return "large"
        return "resized" if self.fit.resizes else padded_shape(size)


def _only(source: Source, indices: Sequence[int]) -> Subset:
    return Subset(source, set(range(len(source))) - set(indices))


def train_batches(
    examples: FixedShapeSource | Sequence[Batch],
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
    examples: FixedShapeSource, batch_size: int, process: tuple[int, int] = (0, 1)
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
