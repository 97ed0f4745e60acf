"""Polygons in map coordinates over GeoTIFFs: GeoJSON, and shapefiles."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data.annotations import features, fields, projection, shapefiles
from segjax.data.annotations.features import Layer
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    Classes,
    Drawing,
    Images,
    Item,
    files,
    image_size,
    split_of,
)
from segjax.data.annotations.regions import polygons
from segjax.data.formats import geotiff
from segjax.data.formats.geotiff import Georeference
from segjax.errors import DataError

PATTERNS = ("*.geojson", "*.json", "*.shp")
OUTSIDE, WITHOUT_PIXEL, DRAWN = range(3)
REASONS = ("polygons outside of every image", "regions without the centre of a pixel")


class Overlay:
    """A layer over images. fates: what became of each polygon, the best of all images."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.fates = np.zeros(len(layer.polygons), int)
        self._in: dict[str, tuple[list[list[np.ndarray]], np.ndarray]] = {}

    def draw(self, place: Georeference, crs: str, drawing: Drawing) -> None:
        """Adds the polygons that lie on an image."""
        rings, bounds = self._projected(crs)
        height, width = drawing.size
        corners = place.to_map(np.array([[0, 0], [width, 0], [width, height], [0, height]]))
        near = (bounds[:, 0] <= corners.max(0)) & (bounds[:, 1] >= corners.min(0))
        for i in np.flatnonzero(near.all(axis=1)).tolist():
            pixels = [place.to_pixels(ring) for ring in rings[i]]
            patch = polygons(pixels, drawing.size, even_odd=True)
            if patch.mask.any():
                polygon = self.layer.polygons[i]
                drawing.add(polygon.name, patch, polygon.where)
                self.fates[i] = DRAWN
            elif not patch.clipped:
                self.fates[i] = max(self.fates[i], WITHOUT_PIXEL)

    def _projected(self, crs: str) -> tuple[list[list[np.ndarray]], np.ndarray]:
        """The rings in the coordinates of an image, and their least and largest, [N, 2, 2]."""
        if crs not in self._in:
            rings = [polygon.rings for polygon in self.layer.polygons]
            rings = projection.convert(rings, self.layer.crs, crs, str(self.layer.path))
            bounds = [(outer.min(axis=0), outer.max(axis=0)) for outer, *_ in rings]
            self._in[crs] = rings, np.array(bounds).reshape(-1, 2, 2)
        return self._in[crs]

    def count(self, log: Log) -> None:
        """Counts the polygons that are in no mask."""
        for polygon, fate in zip(self.layer.polygons, self.fates.tolist(), strict=True):
            if fate != DRAWN:
                log.drop(REASONS[fate], polygon.where)


def read(
    source: Path, images: Images, classes: Classes, log: Log, property: str = ""
) -> Iterator[Item]:
    """All GeoTIFFs, with the layers of all files; of a file with an image's name only this image.

    Classes come in the order in which they appear, by files' names. property: what names them.
    """
    names = (property,) if property else features.PROPERTIES
    remedy = "add it, or name another property with --property"
    layers = [*_layers(source, log)]
    layers = features.classified(layers, names, log, remedy, required=bool(property))
    if not layers and not log.problems:
        raise DataError(
            f"{source}: no {', '.join(PATTERNS)} with features below it; export GeoJSON"
        )
    for layer in layers:
        for polygon in layer.polygons:
            classes.id(polygon.name)
    tiffs = [image for image in images.all if image.suffix.lower() in geotiff.SUFFIXES]
    images.used.update(tiffs)
    stems = {image.stem for image in tiffs}
    overlays = [Overlay(layer) for layer in layers]
    for image in tiffs:
        with log.faults():
            place, crs = _place(image)
            drawing = Drawing(image_size(image), log, classes)
            for overlay in overlays:
                if overlay.layer.path.stem not in stems - {image.stem}:
                    with log.faults():
                        overlay.draw(place, crs, drawing)
            yield drawing.item(image, str(image), split_of(image, source))
    for overlay in overlays:
        overlay.count(log)


def _place(image: Path) -> tuple[Georeference, str]:
    place = geotiff.read(image)
    if place is None or place.epsg is None:
        value, more = ("no transform", " -a_ullr …") if place is None else ("no EPSG code", "")
        remedy = f"write it into the file, as with gdal_edit.py -a_srs EPSG:CODE{more}"
        raise Fault(str(image), "missing CRS", value, remedy)
    return place, f"EPSG:{place.epsg}"


def _layers(source: Path, log: Log) -> Iterator[Layer]:
    for path in sorted(path for pattern in PATTERNS for path in files(source, pattern)):
        where = str(path)
        with log.faults():
            if path.suffix == ".shp":
                content, crs = shapefiles.read(path)
            else:
                content = fields.load(path)
                if path.suffix == ".json" and not features.is_collection(content):
                    log.drop("files that are no FeatureCollection", where)
                    continue
                crs = _crs(content, where)
            found = features.polygons(features.of_collection(content, where), where, log)
            if crs == projection.WGS84:
                projection.require_degrees(found)
            yield Layer(path, crs, found)


def _crs(content: Any, where: str) -> str:
    """EPSG:CODE by the member "crs" of early GeoJSON, else RFC 7946's longitude and latitude."""
    member = content.get("crs") if isinstance(content, dict) else None
    if member is None:
        return projection.WGS84
    name = fields.field(fields.field(member, "properties", dict, where), "name", str, where)
    if name.endswith("CRS84"):
        return projection.WGS84
    code = re.search(r"(?:EPSG:(?:[\d.]*:)?|/EPSG/[\d.]+/)(\d+)$", name, re.IGNORECASE)
    if code is None:
        remedy = "name its EPSG code, as in urn:ogc:def:crs:EPSG::32632"
        raise Fault(where, "crs that is not known", name, remedy)
    return f"EPSG:{int(code[1])}"
