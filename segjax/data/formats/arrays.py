"""NumPy's files: .npy, and .npz with one array. Nothing in them is executed (no pickle)."""

import io
import zipfile

import numpy as np
from numpy.lib import format as npy

from segjax.data.formats import raster
from segjax.data.formats.raster import MAX_BANDS, MAX_PIXELS, Raster, Refused


def read_npy(data: bytes) -> Raster:
    """Numbers [H, W], or [H, W, bands]."""
    _check(io.BytesIO(data))
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return raster.of_array(array.astype(array.dtype.newbyteorder("="), copy=False), "NumPy")


def read_npz(data: bytes) -> Raster:
    """The same, in an archive that holds nothing else."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = file.namelist()
        if len(names) != 1 or not names[0].endswith(".npy"):
            raise Refused(f"of {names[:5]}; save one array in each file")
        with file.open(names[0]) as member:  # of a few bytes gigabytes may be made
            _check(member)
        return read_npy(file.read(names[0]))


def _check(file: io.BufferedIOBase) -> None:
    """Raises for what is no image, before its pixels are read."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version[0] == 1 else npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise Refused("of Python objects, which are not read; save numbers")
    if np.prod(shape, dtype=float) > MAX_PIXELS * (shape[2] if len(shape) == 3 else 1):
        raise Refused(f"of shape {list(shape)}, and at most 2^30 pixels are read")
    if len(shape) == 3 and shape[2] > MAX_BANDS:
        raise Refused(f"of shape {list(shape)}; save [height, width, bands]")
