"""GeoJSON (RFC 7946): polygons with their holes, and the classes that their properties name."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segjax.data.annotations import fields
from segjax.data.annotations.log import Fault, Log

PROPERTIES = ("class", "label", "name", "classification.name")
OTHER_TYPES = ("Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection")
LARGEST = 1e9  # of a coordinate, in any unit of a map: what lies farther out is damage
ONLY_CLASS = "object"  # where no feature names one


class Polygon(NamedTuple):
    """rings: float [N, 2] of x, y; the first is the outline, and the others are its holes."""

    rings: list[np.ndarray]
    properties: Any
    where: str
    name: str = ""


class Layer(NamedTuple):
    """The polygons of a file. crs: EPSG:CODE or WKT; nothing for pixels."""

    path: Path
    crs: str
    polygons: list[Polygon]


def is_collection(content: Any) -> bool:
    """Whether a file's content is a collection of features, or a list of them."""
    is_list = isinstance(content, list)
    parts = content if is_list else [content]
    kinds = {str(part.get("type")) if isinstance(part, dict) else "" for part in parts}
    return kinds == {"Feature"} or (kinds == {"FeatureCollection"} and not is_list)


def of_collection(content: Any, where: str) -> list[dict[str, Any]]:
    """The features of a file's content; Fault if it holds none."""
    if not is_collection(content):
        found = content.get("type") if isinstance(content, dict) else type(content).__name__
        raise Fault(where, "no FeatureCollection", found, "export as GeoJSON")
    if isinstance(content, list):
        return content
    is_one = content["type"] == "Feature"
    return [content] if is_one else fields.objects(content, "features", where)


def polygons(features: Sequence[dict[str, Any]], where: str, log: Log) -> list[Polygon]:
    """The polygons of features, one by one; other geometries are dropped."""
    found = []
    for number, feature in enumerate(features, 1):
        place = f"{where}, feature {number}"
        with log.faults():
            parts = [*_parts(feature.get("geometry"), place, log)]
            found += [Polygon(rings, feature.get("properties"), place) for rings in parts]
    return found


def _parts(geometry: Any, where: str, log: Log) -> Iterator[list[np.ndarray]]:
    kind = "null" if geometry is None else fields.field(geometry, "type", str, where)
    if kind in ("null", *OTHER_TYPES):
        log.drop(f"geometries that are no polygons ({kind})", where)
        return
    if kind not in ("Polygon", "MultiPolygon"):
        raise Fault(where, "unknown type of geometry", kind, "remove it, or draw a polygon")
    coordinates = fields.field(geometry, "coordinates", list, where)
    for part in coordinates if kind == "MultiPolygon" else [coordinates]:
        if not isinstance(part, list):
            raise Fault(where, "polygon that is no list of rings", part, "export again")
        rings = [_ring(ring, where) for ring in part]
        if not rings or len(rings[0]) < 3:
            log.drop("polygons of fewer than 3 points", where)
        else:
            yield [ring for ring in rings if len(ring) >= 3]


def _ring(positions: Any, where: str) -> np.ndarray:
    """A ring without the repetition of its first position, and without heights."""
    if positions == []:
        return np.zeros((0, 2))
    try:
        array = np.array(positions, float)
    except (ValueError, TypeError, OverflowError) as error:
        raise Fault(where, "positions that are no numbers", positions, "draw it again") from error
    if array.ndim != 2 or array.shape[1] < 2:
        raise Fault(where, "positions that are not x, y", positions, "draw it again")
    array = array[:, :2]
    far = array[~(np.abs(array) <= LARGEST).all(axis=1)]
    if len(far):
        raise Fault(where, "coordinate that is NaN or infinite", far[0], "draw it again")
    return array[:-1] if (array[0] == array[-1]).all() else array


def classified(
    layers: Sequence[Layer], names: Sequence[str], log: Log, remedy: str, required: bool = False
) -> list[Layer]:
    """The layers with the names of classes; what has none, while others have one, is a fault.

    names: the properties that name a class; of them, the first that a file has. required: a class
    is missed even if no feature has one; without, all are then of ONLY_CLASS.
    """
    layers = [_named(layer, names) for layer in layers]
    if not required and not any(polygon.name for layer in layers for polygon in layer.polygons):
        return [_with(x, [p._replace(name=ONLY_CLASS) for p in x.polygons]) for x in layers]
    for polygon in (polygon for layer in layers for polygon in layer.polygons):
        if not polygon.name:
            has = [*polygon.properties] if isinstance(polygon.properties, dict) else []
            value = f"no {' or '.join(names)} among {has}"
            log.fault(Fault(polygon.where, "feature without a class", value, remedy))
    return [_with(layer, [p for p in layer.polygons if p.name]) for layer in layers]


def _named(layer: Layer, names: Sequence[str]) -> Layer:
    # One property for a file: another of the list may mean something else, as the name of a street.
    for name in names:
        values = [_value(polygon.properties, name) for polygon in layer.polygons]
        if any(values):
            pairs = zip(layer.polygons, values, strict=True)
            return _with(layer, [polygon._replace(name=value) for polygon, value in pairs])
    return layer


def _with(layer: Layer, found: list[Polygon]) -> Layer:
    return layer._replace(polygons=found)


def _value(properties: Any, name: str) -> str:
    """A property as text; "" if there is none, or nothing in it. A.B is B in the object A."""
    if not isinstance(properties, dict):
        return ""
    first, _, rest = name.partition(".")
    if name not in properties and rest:
        return _value(_unpacked(properties.get(first)), rest)
    value = properties.get(name)
    return str(value).strip() if type(value) in (str, int) else ""


def _unpacked(value: Any) -> Any:
    """GDAL writes an object inside of properties as text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
