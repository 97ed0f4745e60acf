"""Splits that a dataset gives as text files of names."""

from pathlib import Path

from segjax.data.folders import Pair
from segjax.errors import DataError
from segjax.runtime.files import read_text


def read_names(path: Path, structure: str) -> list[str]:
    """The names in a list, one a line, in its order; DataError tells of the expected `structure`.

    Of a line such as `/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png` or `NAME 1 1 1` only
    NAME is read; lines that begin with # are comments.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected --source to be a folder of {structure}")
    lines = [line.split() for line in read_text(path).splitlines()]
    names = [Path(line[0]).stem for line in lines if line and not line[0].startswith("#")]
    if not names:
        raise DataError(f"{path}: holds no name; restore it from the dataset's archive")
    return names


def listed_pairs(names: list[str], images: Path, masks: Path) -> list[Pair]:
    """IMAGES/NAME.jpg and MASKS/NAME.png of every name; DataError names the files that lack."""
    pairs = [(images / f"{name}.jpg", masks / f"{name}.png") for name in names]
    missing = [str(path) for pair in pairs for path in pair if not path.is_file()]
    if missing:
        shown = "\n  ".join(missing[:20])
        raise DataError(
            f"{len(missing)} files of the lists are missing; unpack the dataset again:\n  {shown}"
        )
    return pairs
