"""What an image file holds, as it was written: its own samples, and what the file says of them."""

from dataclasses import dataclass

import numpy as np

MAX_PIXELS = 2**30
MAX_BANDS = 1024


class Refused(Exception):
    """A file whose samples have no one meaning here. The text goes on after the format's name."""


@dataclass(frozen=True)
class Raster:
    """The samples of a file, neither scaled nor turned nor converted.

    pixels: [H, W, C] of the file's own type, or indices [H, W, 1] into `palette`, uint8 [N, 3].
    largest: the sample that means full brightness; None where the type has none (floats).
    alpha: the last band is opacity. inverted: 0 is white. orientation: of EXIF, 1 to 8.
    loss: what may have changed samples when they were written, such as 'JPEG compression'.
    renumbered: writers of this format put palettes into an order of their own.
    nodata: the sample that means that a pixel has no data, where the file names one.
    pages: how many images of one band stand behind each other in the file, as bands here.
    """

    pixels: np.ndarray
    format: str
    bits: int
    largest: int | None
    palette: np.ndarray | None = None
    alpha: bool = False
    inverted: bool = False
    orientation: int = 1
    loss: str = ""
    renumbered: bool = False
    nodata: float | None = None
    pages: int = 1

    @property
    def opaque(self) -> np.ndarray:
        """[H, W, C] without alpha."""
        return self.pixels[..., :-1] if self.alpha else self.pixels

    @property
    def samples(self) -> np.ndarray:
        """[H, W, C] without alpha, and with colours in place of indices."""
        return self.opaque if self.palette is None else self.palette[self.pixels[..., 0]]

    @property
    def white(self) -> int | None:
        """The value of `samples` that means full brightness; None where the type has none."""
        return self.largest if self.palette is None else 255

    @property
    def kind(self) -> str:
        """Format, bands and type, for people: 'PNG, 3 bands of 8 bits'."""
        bands = self.pixels.shape[-1] - self.alpha
        count = f"{bands} band{'s' * (bands != 1)}{' and alpha' * self.alpha}"
        if self.palette is not None:
            count = "palette"
        if self.pages > 1:
            count = f"{self.pages} pages"
        sign = {"f": "float ", "i": "signed "}.get(self.pixels.dtype.kind, "")
        return f"{self.format}, {count} of {sign}{self.bits} bit{'s' * (self.bits > 1)}"


def of_array(array: np.ndarray, format: str = "array") -> Raster:
    """Samples [H, W] or [H, W, C]; Refused if they are no such thing."""
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "buif":
        raise Refused(f"of {array.dtype} {list(array.shape)}; give numbers [H, W] or [H, W, C]")
    pixels = array[..., None] if array.ndim == 2 else array
    if array.dtype == bool:
        return Raster(pixels.astype(np.uint8), format, 1, 1)
    if pixels.shape[-1] > MAX_BANDS:
        raise Refused(f"of shape {list(array.shape)}; save [height, width, bands], at most 1024")
    bits = 8 * array.dtype.itemsize
    return Raster(pixels, format, bits, full_scale(array.dtype, bits))


def full_scale(dtype: np.dtype, bits: int) -> int | None:
    """The sample that means full brightness, where the type says it: integers up to 16 bits."""
    return 2**bits - 1 if dtype.kind in "bu" and bits <= 16 else None


def check_size(height: int, width: int) -> None:
    """Raises for what has no pixels, and for more than any reader takes."""
    if height < 1 or width < 1:
        raise ValueError(f"{height}×{width} pixels")
    if height * width > MAX_PIXELS:
        raise Refused(f"of {height}×{width} pixels, and at most 2^30 are read; cut it into tiles")
