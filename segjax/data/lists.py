"""Images and masks as a file lists them: config.data.list.

A CSV has a header with the columns image and mask and, as it likes, split and group; any other file
has an image and its mask in every line. Paths are absolute, or of config.data.root.
"""

import csv
from collections.abc import Collection, Iterator
from os.path import abspath
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from segjax.errors import DataError
from segjax.runtime.files import read_text

COLUMNS = ("image", "mask", "split", "group")


class Row(NamedTuple):
    """A line: paths as they are written; split and group are None where there is no such column."""

    line: int
    image: str
    mask: str
    split: str | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """The image's, as in folders without the suffix."""
        return Path(self.image).with_suffix("").as_posix()


class Listed(NamedTuple):
    """rows: what can be used; faults: FILE:LINE: WHAT of the rest; is_split: by a column."""

    rows: list[Row]
    faults: list[str]
    is_split: bool


def read(config: ConfigDict) -> Listed:
    """The rows of config.data.list; DataError where it holds none, or not the columns."""
    root, background = Path(config.root), config.missing_mask == "background"
    path, splits = root / config.list, [*config.splits.values()]
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; config.data.list is an absolute path, or one below "
            f"config.data.root, {root}"
        )
    rows, faults, first_lines = [], [], {}
    for row in (_csv if path.suffix.lower() == ".csv" else _lines)(path):
        fault = _fault(row, root, splits, background) if isinstance(row, Row) else row
        if not fault:
            line = first_lines.setdefault(abspath((root / row.image).with_suffix("")), row.line)
            fault = "" if line == row.line else f"{row.line}: {row.image} is in line {line} already"
        if fault:
            faults.append(f"{path}:{fault}")
        else:
            rows.append(row)
    if not rows and not faults:
        raise DataError(f"{path}: holds no line; write an image and its mask in each")
    return Listed(rows, faults, any(row.split is not None for row in rows))


def _csv(path: Path) -> Iterator[Row | str]:
    """Every row, or LINE: WHAT of one that cannot be one."""
    reader = csv.reader(read_text(path).splitlines(), skipinitialspace=True)
    header = [name.strip() for name in next(reader, [])]
    wanted = [header.count(name) for name in COLUMNS]
    if wanted[:2] != [1, 1] or max(wanted) > 1:
        raise DataError(
            f"{path}:1: the columns are {header}; the first line must name image and mask, and may "
            "name split and group, separated by commas"
        )
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) != len(header):
            yield f"{reader.line_num}: {len(cells)} cells of {len(header)} columns; quote commas"
            continue
        named = dict(zip(header, map(str.strip, cells), strict=True))
        yield Row(reader.line_num, **{name: named[name] for name in COLUMNS if name in named})


def _lines(path: Path) -> Iterator[Row | str]:
    """The same of a plain file, whose lines that begin with # are comments."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split()
        if not cells or line.startswith("#"):
            continue
        if len(cells) > 2:
            yield f"{number}: {len(cells)} words; write two paths, or a CSV for paths with spaces"
            continue
        yield Row(number, cells[0], cells[1] if len(cells) == 2 else "")


def _fault(row: Row, root: Path, splits: Collection[str], background: bool) -> str:
    """What is wrong with a row, as LINE: WHAT; '' if nothing is."""
    if not row.image:
        return f"{row.line}: no image; name its file"
    if not (row.mask or background):
        return (
            f"{row.line}: {row.image} has no mask; name its file, or set "
            "config.data.missing_mask=background"
        )
    missing = [name for name in (row.image, row.mask) if name and not (root / name).is_file()]
    if missing:
        return f"{row.line}: {' and '.join(missing)}: no such file; paths are absolute or of {root}"
    if row.split is not None and row.split not in splits:
        return f"{row.line}: split {row.split!r}; write one of {', '.join(splits)}"
    if row.group == "":
        return f"{row.line}: {row.image} has no group; write a name"
    return ""
