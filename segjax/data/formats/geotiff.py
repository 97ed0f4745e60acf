"""Where on the earth a TIFF lies: GeoTIFF 1.1, OGC 19-008r4."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tifffile import TiffFile

SCALE, TIEPOINTS, MATRIX, KEYS, DOUBLES, TEXT = 33550, 33922, 34264, 34735, 34736, 34737
TYPES = {SCALE: "d", TIEPOINTS: "d", MATRIX: "d", KEYS: "H", DOUBLES: "d", TEXT: "s"}
RASTER_TYPE, GEOGRAPHIC, PROJECTED, LINEAR_UNITS = 1025, 2048, 3072, 3076  # of the keys
PIXEL_IS_POINT = 2
UNNAMED = (None, 0, 32767)  # of GEOGRAPHIC and PROJECTED: undefined, or defined by other keys
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # metre, foot, US survey foot
SUFFIXES = (".tif", ".tiff")


class Georeference(NamedTuple):
    """Of a TIFF: tags of TYPES by number.

    transform: a, b, c, d, e, f of x = a · column + b · row + c and y = d · column + e · row + f, on
      the map, of the corners of pixels, which begin at 0.
    unit: what the map's unit has in metres; None where the file does not say it.
    """

    tags: dict[int, Any]
    transform: tuple[float, ...]
    unit: float | None

    @property
    def pixel_area(self) -> float | None:
        """In m²; None where the unit is unknown, or degrees."""
        a, b, _, d, e, _ = self.transform
        return None if self.unit is None else abs(a * e - b * d) * self.unit**2

    @property
    def epsg(self) -> int | None:
        """The code of the coordinates; None where the file names none."""
        keys = _keys(self.tags)
        code = keys.get(PROJECTED, keys.get(GEOGRAPHIC))
        return None if code in UNNAMED else code

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Columns and rows, float [N, 2], in the coordinates of the map."""
        a, b, c, d, e, f = self.transform
        return points @ np.array([[a, d], [b, e]]) + (c, f)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """The same, back."""
        a, b, c, d, e, f = self.transform
        return (points - (c, f)) @ np.linalg.inv([[a, d], [b, e]])


def read(path: Path) -> Georeference | None:
    """Of a file; None where it is no TIFF, or does not say where it lies."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    try:
        with TiffFile(path) as file:
            found = {code: file.pages[0].tags.valueof(code) for code in TYPES}
    except Exception:  # tifffile raises many; what reads its pixels says what is wrong
        return None
    tags = {code: value for code, value in found.items() if value is not None}
    by_number = _keys(tags)
    shift = 0.5 if by_number.get(RASTER_TYPE) == PIXEL_IS_POINT else 0.0
    transform = _transform(tags, shift)
    return transform and Georeference(tags, transform, METRES.get(by_number.get(LINEAR_UNITS)))


def _keys(tags: dict[int, Any]) -> dict[int, int]:
    keys = np.array(tags.get(KEYS, ()), int).reshape(-1, 4)[1:]
    return {number: value for number, place, _, value in keys.tolist() if place == 0}


def _transform(tags: dict[int, Any], shift: float) -> tuple[float, ...] | None:
    if MATRIX in tags:
        a, b, _, c, d, e, _, f = tags[MATRIX][:8]
    elif SCALE in tags and TIEPOINTS in tags:
        column, row, _, x, y = tags[TIEPOINTS][:5]
        a, b, d, e = tags[SCALE][0], 0.0, 0.0, -tags[SCALE][1]
        c, f = x - a * column, y - e * row
    else:
        return None
    if not abs(a * e - b * d) > 0:
        return None  # all pixels would lie on one line
    return (a, b, c - shift * (a + b), d, e, f - shift * (d + e))
