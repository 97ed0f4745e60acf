"""Results that lie on the map where their images lie."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import imwrite

from segjax.data.formats.geotiff import TYPES, Georeference
from segjax.data.label_table import VOID, LabelTable
from segjax.errors import ConfigError

GDAL_NODATA = 42113
SOFTWARE = "segjax.predict"
HINT = "--vector needs rasterio: pip install 'segjax[geo]' (in a clone: pip install rasterio)"


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
    if place.epsg is None:
        return {}
    name = f"urn:ogc:def:crs:EPSG::{place.epsg}"
    return {"crs": {"type": "name", "properties": {"name": name}}}
