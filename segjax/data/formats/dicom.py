"""DICOM, as the numbers that its tags say: of a CT, Hounsfield units."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from segjax.data.formats.raster import Raster, Refused, check_size, full_scale
from segjax.errors import ConfigError

HINT = "to read DICOM files, pip install 'segjax[medical]' (in a clone: pydicom)"


def read_dicom(data: bytes) -> Raster:
    """Grey or RGB; frames of grey are pages.

    Rescale slope and intercept are applied: to int16 where that is exact, else to float32. Of
    MONOCHROME1 the brightest is black, as in MONOCHROME2. Pixel padding has no data.
    """
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError as error:
        raise ConfigError(HINT) from error
    file = pydicom.dcmread(io.BytesIO(data))
    if "Rows" not in file or "PixelData" not in file:
        raise Refused("without pixels (a report, a plan, a directory); remove it")
    frames, color = int(file.get("NumberOfFrames", 1) or 1), file.PhotometricInterpretation
    check_size(file.Rows, file.Columns)
    bands = file.SamplesPerPixel
    if (bands, frames > 1) not in ((1, False), (1, True), (3, False)):
        raise Refused(f"of {frames} frames of {bands} bands; save each as a file")
    try:
        pixels = pixel_array(file)  # colours become RGB
    except (RuntimeError, NotImplementedError) as error:  # of a compression that is not installed
        name = file.file_meta.TransferSyntaxUID.name
        raise Refused(f"compressed as {name} ({error}); decompress it") from error
    if bands == 1:
        pixels = np.moveaxis(pixels.reshape(frames, file.Rows, file.Columns), 0, 2)
    nodata = file.get("PixelPaddingValue")
    if color == "MONOCHROME1":
        pixels, nodata = sum(_limits(file)) - pixels.astype(np.int32), None
    dtype, rescale = _rescale(file)
    if dtype:
        pixels = rescale(pixels.astype(np.float64)).astype(dtype)
    elif color == "MONOCHROME1":
        pixels = pixels.astype(np.int16 if file.PixelRepresentation else np.uint16)
    bits = 8 * dtype.itemsize if dtype else file.BitsStored
    return Raster(
        pixels,
        "DICOM",
        bits,
        full_scale(pixels.dtype, bits) if pixels.dtype.kind == "u" else None,
        nodata=None if nodata is None else float(rescale(nodata)),
        loss="lossy compression" if file.get("LossyImageCompression") == "01" else "",
        pages=frames,
    )


def _limits(file: Any) -> tuple[int, int]:
    """The lowest and the highest value that can be stored."""
    bits = file.BitsStored
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if file.PixelRepresentation else (0, 2**bits - 1)
    )


def _rescale(file: Any) -> tuple[np.dtype | None, Callable[[Any], Any]]:
    """The type of rescaled values, None where nothing is rescaled, and the function that does it.

    By what could be stored and not by what is, so that the slices of a series have one type.
    """
    if "ModalityLUTSequence" in file:
        raise Refused("with a table of values (Modality LUT); export it with slope and intercept")
    slope = float(file.get("RescaleSlope", 1) or 1)
    intercept = float(file.get("RescaleIntercept", 0) or 0)
    if (slope, intercept) == (1, 0):
        return None, lambda values: values
    low, high = sorted(value * slope + intercept for value in _limits(file))
    fits = slope.is_integer() and intercept.is_integer() and low >= -(2**15) and high < 2**15
    return np.dtype("int16" if fits else "float32"), lambda values: values * slope + intercept
