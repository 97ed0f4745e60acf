"""Images that are larger than memory, read in windows by rasterio (GDAL)."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data.fitting import Fit
from segjax.data.formats import geotiff
from segjax.data.formats.raster import Raster, full_scale
from segjax.data.pixels import Pixels, to_image
from segjax.errors import DataError

MIN_PIXELS = 2**26  # 8192×8192; smaller images are read whole


class Scene:
    """An image [H, W, channels] in a file; what is cut out of it by two slices is read.

    missing: bool [H, W], where what was read so far has no data; None if it has data everywhere.
      It holds the mean of its window's other pixels.
    """

    ndim = 3

    def __init__(self, file: Any, bands: list[int], where: str, pixels: Pixels) -> None:
        self._file, self._bands, self._where, self._pixels = file, bands, where, pixels
        self.shape = (file.height, file.width, pixels.channels)
        self.dtype = pixels.type
        self.missing: np.ndarray | None = None

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(length) for part, length in zip(key, self.shape[:2], strict=True)
        )
        try:
            array = self._file.read(self._bands, window=((top, bottom), (left, right)))
        except Exception as error:  # of GDAL, of many types
            raise DataError(f"{self._where}: damaged TIFF: {error}; restore it") from error
        bits = 8 * array.dtype.itemsize
        stored = Raster(
            np.moveaxis(array, 0, 2),
            "TIFF",
            bits,
            full_scale(array.dtype, bits),
            nodata=self._file.nodata,
        )
        image, missing = to_image(stored, self._where, self._pixels)
        if missing is not None:
            if self.missing is None:
                self.missing = np.zeros(self.shape[:2], bool)
            self.missing[top:bottom, left:right] |= missing
        return image


@contextmanager
def opened(path: Path, fit: Fit, pixels: Pixels) -> Iterator[Scene | None]:
    """A large TIFF as a Scene; None for what is read whole, and where rasterio is missing."""
    whole = path.suffix.lower() not in geotiff.SUFFIXES or not isinstance(fit, Fit)
    if whole or pixels.per_image:  # whose percentiles are of all pixels
        yield None
        return
    try:
        import rasterio
        from rasterio.enums import ColorInterp
    except ImportError:
        yield None
        return
    try:
        with warnings.catch_warnings():  # an image need not lie on a map
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = rasterio.open(path)
    except rasterio.errors.RasterioIOError:  # what reads it whole says what is wrong
        yield None
        return
    with file:
        colors = file.colorinterp
        bands = [i for i, c in zip(file.indexes, colors, strict=True) if c != ColorInterp.alpha]
        is_large = file.height * file.width >= MIN_PIXELS and fit.is_tiled(file.shape)
        fits = is_large and ColorInterp.palette not in colors
        yield Scene(file, bands, str(path), pixels) if fits else None
