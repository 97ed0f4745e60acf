"""Where on the earth a TIFF lies, kept for its results: GeoTIFF 1.1, OGC 19-008r4."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tifffile import TiffFile, imwrite

from segjax.data.label_table import VOID, LabelTable
from segjax.errors import ConfigError

SCALE, TIEPOINTS, MATRIX, KEYS, DOUBLES, TEXT = 33550, 33922, 34264, 34735, 34736, 34737
TYPES = {SCALE: "d", TIEPOINTS: "d", MATRIX: "d", KEYS: "H", DOUBLES: "d", TEXT: "s"}
RASTER_TYPE, LINEAR_UNITS = 1025, 3076  # of the keys
PIXEL_IS_POINT = 2
METRES = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # metre, foot, US survey foot
GDAL_NODATA = 42113
SUFFIXES = (".tif", ".tiff")
SOFTWARE = "segjax.predict"
HINT = "--vector needs rasterio: pip install 'segjax[geo]' (in a clone: pip install rasterio)"


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
    keys = np.array(tags.get(KEYS, ()), int).reshape(-1, 4)
    by_number = {number: value for number, place, _, value in keys[1:].tolist() if place == 0}
    shift = 0.5 if by_number.get(RASTER_TYPE) == PIXEL_IS_POINT else 0.0
    transform = _transform(tags, shift)
    return transform and Georeference(tags, transform, METRES.get(by_number.get(LINEAR_UNITS)))


def _transform(tags: dict[int, Any], shift: float) -> tuple[float, ...] | None:
    if MATRIX in tags:
        a, b, _, c, d, e, _, f = tags[MATRIX][:8]
    elif SCALE in tags and TIEPOINTS in tags:
        column, row, _, x, y = tags[TIEPOINTS][:5]
        a, b, d, e = tags[SCALE][0], 0.0, 0.0, -tags[SCALE][1]
        c, f = x - a * column, y - e * row
    else:
        return None
    return (a, b, c - shift * (a + b), d, e, f - shift * (d + e))


def write(path: Path, label: np.ndarray, table: LabelTable, place: Georeference) -> None:
    """Class ids, uint8 [H, W], as a GeoTIFF in the classes' colours, of which VOID has no data."""
    colors = np.zeros((256, 3), np.uint16)
    colors[: len(table.palette)] = table.palette
    extra = [
        (code, TYPES[code], len(value), value, True) for code, value in sorted(place.tags.items())
    ]
    extra.append((GDAL_NODATA, "s", 0, str(VOID), True))
    imwrite(
        path,
        label,
        photometric="palette",
        colormap=(colors * 257).T,
        compression="deflate",
        tile=(256, 256),
        software=SOFTWARE,
        metadata=None,
        extratags=extra,
    )


def areas(label: np.ndarray, table: LabelTable, place: Georeference) -> dict[str, float] | None:
    """m² of every class; None where the file does not say how large its pixels are."""
    if place.pixel_area is None:
        return None
    return dict(
        zip(table.names, (table.count(label) * place.pixel_area).round(3).tolist(), strict=True)
    )


def write_vector(path: Path, label: np.ndarray, table: LabelTable, place: Georeference) -> None:
    """The regions of every class but the background as GeoJSON polygons, in map coordinates.

    Pixels that touch at their sides are one region; edges run along pixels. Raises ConfigError
    where rasterio is not installed.
    """
    try:
        from rasterio import features
        from rasterio.transform import Affine
    except ImportError as error:
        raise ConfigError(HINT) from error
    shown = (label != VOID) & (label != table.background)  # everywhere, if that is None
    regions = features.shapes(label, mask=shown, transform=Affine(*place.transform))
    content = {"type": "FeatureCollection", **_crs(place), "features": [*_features(regions, table)]}
    path.write_text(json.dumps(content), encoding="utf-8")


def _features(regions: Iterator[tuple[Any, float]], table: LabelTable) -> Iterator[dict[str, Any]]:
    for geometry, value in regions:
        properties = {"class_id": int(value), "class": table.names[int(value)]}
        yield {"type": "Feature", "properties": properties, "geometry": geometry}


def _crs(place: Georeference) -> dict[str, Any]:
    """The member by which GDAL and QGIS know a projection; {} where the file names none."""
    keys = np.array(place.tags.get(KEYS, ()), int).reshape(-1, 4)[1:]
    codes = {number: value for number, at, _, value in keys.tolist() if at == 0}
    code = codes.get(3072, codes.get(2048))  # projected, geographic
    if code in (None, 0, 32767):
        return {}
    name = f"urn:ogc:def:crs:EPSG::{code}"
    return {"crs": {"type": "name", "properties": {"name": name}}}
