"""ESRI shapefiles as features, by pyshp, and their coordinates by the file .prj beside them."""

from pathlib import Path
from typing import Any

from segjax.data.annotations.log import Fault
from segjax.data.annotations.projection import HINT
from segjax.errors import ConfigError
from segjax.runtime.files import read_text


def read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The features of a .shp, and EPSG:CODE or WKT."""
    try:
        import rasterio  # noqa: F401
        import shapefile
    except ImportError as error:
        raise ConfigError(f"{path}: shapefiles need rasterio and pyshp: {HINT}") from error
    try:
        with shapefile.Reader(str(path)) as file:
            found = [record.__geo_interface__ for record in file.iterShapeRecords()]
    except Exception as error:  # pyshp raises a dozen types over damaged files
        remedy = "export it again, with .dbf and .shx"
        raise Fault(str(path), "shapefile that cannot be read", error, remedy) from error
    return found, _crs(path.with_suffix(".prj"))


def _crs(path: Path) -> str:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    if not path.is_file():
        raise Fault(str(path), "missing CRS", "no such file", "export the shapefile with its .prj")
    try:
        crs = CRS.from_wkt(read_text(path))
        return f"EPSG:{code}" if (code := crs.to_epsg()) else crs.to_wkt()
    except CRSError as error:
        raise Fault(str(path), "unknown CRS", error, "export the shapefile again") from error
