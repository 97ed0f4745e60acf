"""What an image is to the network: which bands of a file, of which type, and where it has no data.

`rgb` is red, green and blue with 8 bits, made of whatever the file has. Otherwise bands come as
they are stored: the network carries them in the files' own type, and normalises them itself.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from segjax.data.formats.raster import Raster
from segjax.errors import ConfigError, DataError

MAX_CHANNELS = 32
DTYPES = ("uint8", "uint16", "int16", "float32")
PAGES = ("refuse", "channels")
LARGEST = 1e38  # the lowest and the largest float stand for no data in many files
PERCENTILES = (0.5, 99.5)  # of a channel of an image, which become 0 and 1


class Pixels(NamedTuple):
    """What every image is, [H, W, channels] of `dtype`.

    bands: rgb, stored (all as they are), or the numbers of those that are taken, from 1: "4,3,2".
    value_range: with rgb the stored values that become 0 and 255; () for those of the type.
    per_image: every channel is scaled by its own PERCENTILES.
    pages: channels, where a file's pages are taken as its bands; refuse.
    """

    bands: str = "rgb"
    channels: int = 3
    dtype: str = "uint8"
    value_range: tuple[float, ...] = ()
    per_image: bool = False
    pages: str = "refuse"

    @property
    def is_rgb(self) -> bool:
        return self.bands == "rgb"

    @property
    def type(self) -> np.dtype:
        """Of an image as the network takes it."""
        return np.dtype("float32" if self.per_image else self.dtype)

    def describe(self) -> str:
        """'uint8 [H, W, 3] RGB', or 'uint16 [H, W, 4]'."""
        return f"{self.type} [H, W, {self.channels}]{' RGB' if self.is_rgb else ''}"


RGB = Pixels()


def of(config: ConfigDict) -> Pixels:
    """What `config`, a resolved data section, says; what is open, or not there, is as in RGB."""
    bands = config.get("bands", "rgb")
    return Pixels(
        "rgb" if bands == "auto" else bands,
        config.get("channels") or 3,
        config.get("dtype") or "uint8",
        tuple(config.get("value_range", ())),
        config.get("normalize") == "image",
        config.get("pages", "refuse"),
    )


def numbers(bands: str) -> tuple[int, ...]:
    """The bands that "4,3,2" names, from 1; () for words. ConfigError for anything else."""
    if bands in ("auto", "rgb", "stored"):
        return ()
    try:
        found = tuple(int(number) for number in bands.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(
            f"config.data.bands is {bands!r}; choose auto, rgb, stored, or bands by their numbers "
            "from 1, such as 4,3,2"
        )
    return found


def resolve(config: ConfigDict, sample: Iterable[Raster]) -> dict[str, object]:
    """The fields bands, channels and dtype of `config`; those left open are as in `sample`.

    auto is rgb where there are 8-bit colours (or a value range), and stored elsewhere. Of a sample
    that is mixed the most frequent kind decides; the check names the files that differ.
    """
    kinds = Counter((raster.samples.shape[-1], dtype_of(raster)) for raster in sample)
    bands, chosen = config.bands, numbers(config.bands)
    if bands == "auto":
        is_plain = {dtype for _, dtype in kinds} <= {"uint8"} and {n for n, _ in kinds} <= {1, 3}
        has_colors = not kinds or any(count == 3 for count, _ in kinds)
        bands = "rgb" if config.value_range or (is_plain and has_colors) else "stored"
    if bands == "rgb":
        return {"bands": bands, "channels": 3, "dtype": "uint8"}
    ((count, dtype), _), *_ = kinds.most_common(1) or [((3, "uint8"), 0)]
    channels = config.channels or len(chosen) or count
    if channels > MAX_CHANNELS:
        raise ConfigError(
            f"config.data.bands: images have {channels} bands, and at most {MAX_CHANNELS} are "
            "taken; name those that matter, such as config.data.bands=4,3,2"
        )
    return {"bands": bands, "channels": channels, "dtype": config.dtype or dtype}


def dtype_of(image: Raster) -> str:
    """The type of DTYPES that holds the samples: float32 for all that no other holds."""
    kind, size = image.samples.dtype.kind, image.samples.dtype.itemsize
    if kind == "u" and size <= 2:
        return "uint8" if size == 1 else "uint16"
    return "int16" if kind == "i" and size <= 2 else "float32"


def to_image(image: Raster, where: str, pixels: Pixels) -> tuple[np.ndarray, np.ndarray | None]:
    """The image of a file, turned as it says, without alpha, and where it has no data.

    Returns:
      [H, W, channels], and bool [H, W], None if every pixel has data. Those without hold the mean
      of the others.

    DataError, beginning with `where`, for bands, a type or values that do not fit.
    """
    if image.pages > 1 and pixels.pages == "refuse":
        raise DataError(
            f"{where}: {image.kind}; save each as a file, or set config.data.pages=channels"
        )
    if not pixels.is_rgb:
        image = _with_bands(image, where, pixels)  # gaps in other bands are of no interest
    samples, missing = _filled(image)
    make = _rgb if pixels.is_rgb else _stored
    found = turn(make(image, samples, where, pixels), image.orientation)
    missing = None if missing is None else turn(missing, image.orientation)
    if pixels.per_image:
        found = _scaled_by_percentiles(found, missing)
    return np.ascontiguousarray(found), missing


def lacking(image: Raster) -> np.ndarray | None:
    """bool like the samples, True where there are no data; None if there are data everywhere.

    NaN, infinity and what is no measurement (LARGEST) by themselves; the file's no-data value where
    all bands have it, for of a dark pixel one band may well hold the same number.
    """
    samples, found = image.samples, None
    if samples.dtype.kind == "f":
        found = ~(np.abs(samples) < LARGEST)
    if image.nodata is not None and not np.isnan(image.nodata):
        outside = np.broadcast_to((samples == image.nodata).all(-1, keepdims=True), samples.shape)
        found = outside if found is None else found | outside
    return found if found is not None and found.any() else None


def _filled(image: Raster) -> tuple[np.ndarray, np.ndarray | None]:
    """The samples, with the mean of the others where one lacks, and where a pixel lacks any."""
    samples, gaps = image.samples, lacking(image)
    if gaps is None:
        return samples, None
    counts = np.maximum((~gaps).sum((0, 1)), 1)
    means = np.where(gaps, 0, samples).sum((0, 1), np.float64) / counts
    if samples.dtype.kind != "f":
        means = np.rint(means)
    return np.where(gaps, means.astype(samples.dtype), samples), gaps.any(-1)


def _with_bands(image: Raster, where: str, pixels: Pixels) -> Raster:
    """The bands that are wanted."""
    samples = image.samples
    count = samples.shape[-1]
    chosen = numbers(pixels.bands) or range(1, pixels.channels + 1)
    if max(chosen) > count or (pixels.bands == "stored" and count != pixels.channels):
        wanted = pixels.bands if numbers(pixels.bands) else f"all {pixels.channels}"
        raise DataError(
            f"{where}: {image.kind}, and of other images bands {wanted} are taken; remove it, save "
            "it like them, or name bands that all have in config.data.bands (rgb repeats grey)"
        )
    if numbers(pixels.bands):
        samples = samples[..., [number - 1 for number in chosen]]
    return replace(image, pixels=samples, palette=None, alpha=False, largest=image.white)


def _stored(image: Raster, samples: np.ndarray, where: str, pixels: Pixels) -> np.ndarray:
    """The samples in the type that the network takes."""
    found = dtype_of(image)
    if found != pixels.dtype and pixels.dtype != "float32":
        raise DataError(
            f"{where}: values of {found}, and those of other images are {pixels.dtype}; save it "
            "like the others, or set config.data.dtype=float32 if the values mean the same"
        )
    if image.inverted and image.white is None:
        raise DataError(f"{where}: {image.kind}, of which 0 is white (MINISWHITE); save MINISBLACK")
    if image.inverted:
        samples = image.white - samples
    if found == "uint8" and image.white not in (None, 255):  # 1 and 4 bits beside 8
        samples = _scale(samples, 0, image.white)
    return samples.astype(pixels.dtype)


def _scaled_by_percentiles(image: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """float32, PERCENTILES of the pixels that have data at 0 and 1, with clipping."""
    valid = image.reshape(-1, image.shape[-1]) if missing is None else image[~missing]
    if not len(valid):
        return np.zeros(image.shape, np.float32)
    low, high = np.percentile(valid, PERCENTILES, axis=0)
    scaled = (image - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return scaled.clip(0, 1).astype(np.float32)


def _rgb(image: Raster, samples: np.ndarray, where: str, pixels: Pixels) -> np.ndarray:
    """Red, green and blue with 8 bits."""
    limits = pixels.value_range
    if samples.shape[-1] not in (1, 3):
        raise DataError(
            f"{where}: an image of {samples.shape[-1]} bands; set config.data.bands=stored, or "
            "name three, such as config.data.bands=4,3,2"
        )
    if not limits and image.white is None:
        raise DataError(
            f"{where}: {image.kind}, with values from {samples.min()} to {samples.max()}; set "
            "config.data.value_range to those that are to become black and white, or "
            "config.data.bands=stored"
        )
    if limits and image.white and limits[1] > 2 * image.white:
        raise DataError(
            f"{where}: {image.kind}, and config.data.value_range = {tuple(limits)} is meant "
            "for files of larger values: it would be dark; multiply its values, or leave it out"
        )
    scaled = _scale(samples, *(limits or (0, image.white)))
    if image.inverted:
        scaled = 255 - scaled
    return np.repeat(scaled, 3, axis=2) if scaled.shape[-1] == 1 else scaled


def _scale(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from low to high to uint8 from 0 to 255, rounded; what lies beyond is clipped."""
    if samples.dtype == np.uint8 and (low, high) == (0, 255):
        return samples

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.rint(((values - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)

    if samples.dtype in (np.uint8, np.uint16):  # a table of all values takes a tenth of the time
        return scaled(np.arange(np.iinfo(samples.dtype).max + 1.0))[samples]
    return scaled(samples.astype(np.float64))


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """The array [H, W, …] as EXIF wants it shown, by a value from 1 (as it is) to 8."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return array[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def shown(image: np.ndarray) -> np.ndarray:
    """An image of any kind as uint8 [H, W, 3], for people.

    The first three channels, or the first in grey, each from its 2nd to its 98th percentile; what
    is uint8 RGB stays as it is.
    """
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return image
    bands = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    low, high = np.percentile(bands.reshape(-1, bands.shape[-1]), (2, 98), axis=0)
    scaled = (bands - low) / np.maximum(high - low, 1e-6) * 255
    return np.repeat(scaled.clip(0, 255).astype(np.uint8), 3 // bands.shape[-1], axis=2)
