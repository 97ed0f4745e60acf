"""NIfTI volumes as stacks of 2-D slices, and class ids of the slices as a NIfTI volume.

A volume is turned to the nearest of the axes right, anterior, superior (RAS+), and cut across one
of them: by default across the one with the largest voxels, the last of equals. Rows of a slice go
down along the second of the other axes, reversed, and columns along the first: of an axial slice
anterior is up and left is left.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segjax.errors import ConfigError, DataError

SUFFIXES = (".nii", ".nii.gz")
HINT = "to read NIfTI files, pip install 'segjax[medical]' (in a clone: pip install nibabel)"


def is_volume(path: Path) -> bool:
    """Whether a file is a volume, by its name."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """A volume's name without .nii.gz."""
    return path.name[: path.name.lower().rindex(".nii")]


class Volume(NamedTuple):
    """array: [X, Y, Z] along RAS+; axis: across which it is cut; file: nibabel's image."""

    array: np.ndarray
    axis: int
    file: Any

    def __len__(self) -> int:
        return self.array.shape[self.axis]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of voxels along RAS+, in mm."""
        return tuple(float(size) for size in _canonical(self.file).header.get_zooms()[:3])

    def slice(self, i: int) -> np.ndarray:
        """Slice number i, [H, W]."""
        return self.array.take(i, self.axis).T[::-1]

    def around(self, i: int, channels: int) -> np.ndarray:
        """[H, W, channels]: the slice and its neighbours on both sides; the ends are repeated."""
        places = np.arange(i - channels // 2, i + channels // 2 + 1).clip(0, len(self) - 1)
        return np.stack([self.slice(place) for place in places], axis=-1)

    def write(self, path: Path, labels: Iterator[np.ndarray]) -> np.ndarray:
        """Class ids of every slice, uint8 [H, W], as a label map of the same affine; returns it."""
        import nibabel

        turned = np.stack([label[::-1].T for label in labels], axis=self.axis)
        ours = nibabel.orientations.io_orientation(_canonical(self.file).affine)
        theirs = nibabel.orientations.io_orientation(self.file.affine)
        back = nibabel.orientations.ornt_transform(ours, theirs)
        array = nibabel.orientations.apply_orientation(turned, back).astype(np.uint8)
        out = nibabel.Nifti1Image(array, self.file.affine)
        for kind in ("qform", "sform"):
            matrix, code = getattr(self.file, f"get_{kind}")(coded=True)
            getattr(out, f"set_{kind}")(matrix, int(code))
        out.header.set_xyzt_units(*self.file.header.get_xyzt_units())
        nibabel.save(out, path)
        return array


def read(path: Path, axis: int | None = None) -> Volume:
    """A volume of three axes; its numbers are the file's, scaled as its header says.

    Raises DataError, beginning with the path, for what is none or is damaged, ConfigError where
    nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(HINT) from error
    try:
        file = nibabel.load(path)
        if len(file.shape) != 3 or 0 in file.shape:
            raise DataError(f"{path}: a volume of shape {[*file.shape]}; save one of three axes")
        turned = _canonical(file)
        slope, inter = file.dataobj.slope, file.dataobj.inter
        is_scaled = (slope, inter) != (1, 0)
        array = np.asanyarray(turned.dataobj)
    except (
        OSError,
        EOFError,
        ValueError,
        gzip.BadGzipFile,
        nibabel.filebasedimages.ImageFileError,
    ) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: no NIfTI volume, or damaged: {reason}") from error
    array = array.astype(array.dtype.newbyteorder("="))
    if is_scaled:
        array = array.astype(np.float32)
    if axis is None:
        sizes = np.array(turned.header.get_zooms()[:3])
        axis = int(np.flatnonzero(np.isclose(sizes, sizes.max(), rtol=1e-3))[-1])
    return Volume(array, axis, file)


def _canonical(file: Any) -> Any:
    import nibabel

    return nibabel.as_closest_canonical(file)
