"""Map coordinates from one reference system to another, by rasterio, which is PROJ."""

from collections.abc import Callable, Sequence

import numpy as np

from segjax.data.annotations.features import Polygon
from segjax.data.annotations.log import Fault
from segjax.errors import ConfigError

WGS84 = "EPSG:4326"  # longitude first, as in all of GeoJSON, and in the coordinates of a GeoTIFF
HINT = "pip install 'segjax[geo]' (in a clone: pip install rasterio pyshp)"


def require_degrees(polygons: Sequence[Polygon]) -> None:
    """Fault for coordinates that are no longitude and latitude."""
    for polygon in polygons:
        x, y = np.abs(np.concatenate(polygon.rings)).max(axis=0)
        if x > 360 or y > 90:  # longitudes may go on beyond the antimeridian
            value = f"{x:g}, {y:g}"
            remedy = 'name the EPSG code of the coordinates in a member "crs"'
            raise Fault(polygon.where, "no longitude and latitude", value, remedy)


def convert(
    rings: Sequence[Sequence[np.ndarray]], crs: str, target: str, where: str
) -> list[list[np.ndarray]]:
    """Rings of polygons, float [N, 2]; NaN for polygons that the target does not reach."""
    if crs == target or not rings:
        return [[*polygon] for polygon in rings]
    convert_points = _between(crs, target, where)
    parts = [ring for polygon in rings for ring in polygon]
    try:
        points = convert_points(np.concatenate(parts))
        flat = iter(np.split(points, np.cumsum([len(part) for part in parts])[:-1]))
        return [[next(flat) for _ in polygon] for polygon in rings]
    except Exception:  # PROJ refuses all for one point that is too far away; its errors are private
        return [_converted(polygon, convert_points) for polygon in rings]


def _converted(
    rings: Sequence[np.ndarray], convert_points: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    try:
        return [convert_points(ring) for ring in rings]
    except Exception:
        return [np.full_like(ring, np.nan) for ring in rings]


def _between(crs: str, target: str, where: str) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
        from rasterio.warp import transform
    except ImportError as error:
        raise ConfigError(f"{where}: from {crs} to {target} needs rasterio: {HINT}") from error
    try:
        source, destination = CRS.from_user_input(crs), CRS.from_user_input(target)
    except CRSError as error:
        raise Fault(where, "unknown CRS", error, "name another EPSG code") from error

    def convert_points(points: np.ndarray) -> np.ndarray:
        return np.stack(transform(source, destination, *points.T)[:2], axis=1)

    return convert_points
