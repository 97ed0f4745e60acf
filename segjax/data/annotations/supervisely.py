"""Supervisely: a project of meta.json and DATASET/{img,ann} (https://docs.supervisely.com).

Its coordinates are pixels, not corners of pixels: outlines belong to polygons, the last row and
column to rectangles, as the tool's own library draws them.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segjax.data.annotations import fields
from segjax.data.annotations.labelme import decode_mask, unpacked
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    Classes,
    Drawing,
    Images,
    Item,
    checked_size,
    files,
    split_of,
)
from segjax.data.annotations.regions import Patch, Size, place
from segjax.errors import DataError

WITHOUT_AREA = ("point", "line", "graph", "cuboid", "any")
LARGEST_MASK = 2**28  # bytes of a bitmap: a PNG packs less than a pixel a byte


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images of all datasets of all projects; classes come in the order of meta.json."""
    projects = files(source, "meta.json")
    if not projects:
        raise DataError(f"{source}: no meta.json below it; --source is a project of Supervisely")
    for path in projects:
        with log.faults():
            entries = fields.objects(fields.load(path), "classes", str(path))
            names = [fields.field(entry, "title", str, str(path)) for entry in entries]
            for name in names:
                classes.id(name)
            for annotation in files(path.parent, "ann/*.json"):
                with log.faults():
                    yield _read_file(annotation, names, images, classes, log)


def _read_file(path: Path, names: list[str], images: Images, classes: Classes, log: Log) -> Item:
    where = str(path)
    content = fields.load(path)
    objects = fields.objects(content, "objects", where)
    image = images.find(path.stem, path.parents[1] / "img", where)  # of NAME.png.json
    size = fields.field(content, "size", dict, where)
    sides = (fields.field(size, side, int, where) for side in ("height", "width"))
    drawing = Drawing(checked_size(image, *sides, where), log, classes)
    for number, entry in enumerate(objects, 1):
        with log.faults():
            place_of = f"{where}, object {number}"
            name = fields.field(entry, "classTitle", str, place_of)
            if name not in names:
                remedy = "add it to meta.json, or remove the object"
                raise Fault(place_of, "unknown classTitle", name, remedy)
            _draw(name, entry, drawing, place_of, log)
    return drawing.item(image, where, split_of(path, images.source))


def _draw(name: str, entry: dict[str, Any], drawing: Drawing, where: str, log: Log) -> None:
    kind = entry.get("geometryType")
    if kind == "bitmap":
        bitmap = fields.field(entry, "bitmap", dict, where)
        origin = fields.points([bitmap.get("origin")], where)
        (x, y) = origin[0].astype(int).tolist()
        mask = decode_mask(_inflated(unpacked(bitmap, "data", where), where), None, where)
        drawing.add(name, place(mask, y, x, drawing.size), where)
    elif kind in ("polygon", "rectangle"):
        points = fields.field(entry, "points", dict, where)
        exterior = fields.points(points.get("exterior"), where)
        if kind == "rectangle" and len(exterior) == 2:
            (x, y), (right, bottom) = exterior
            exterior = np.array([[x, y], [right, y], [right, bottom], [x, bottom]])
        interior = fields.field({"interior": [], **points}, "interior", list, where)
        holes = [fields.points(hole, where) for hole in interior]
        if len(exterior) < 3:
            log.drop("polygons of fewer than 3 points", where)
        else:
            drawing.add(name, _filled(exterior, holes, drawing.size), where)
    elif kind in WITHOUT_AREA:
        log.drop(f"shapes without area ({kind})", where)
    else:
        raise Fault(where, "unknown geometryType", kind, "remove it, or draw a polygon")


def _filled(exterior: np.ndarray, holes: list[np.ndarray], size: Size) -> Patch:
    """A polygon of pixels, float [N, 2], with its outline and without its holes and theirs."""
    height, width = size
    # OpenCV draws outside of its array, too, but not far: in its window all is near.
    left, top = np.floor(exterior.min(0).clip(0, size[::-1])).astype(int).tolist()
    right, bottom = np.floor(exterior.max(0).clip(-1, (width - 1, height - 1))).astype(int).tolist()
    mask = np.zeros((max(0, bottom - top + 1), max(0, right - left + 1)), np.uint8)
    if mask.size:
        for ring, value in ((exterior, 1), *((hole, 0) for hole in holes if len(hole) >= 3)):
            corners = np.floor(ring).astype(np.int32) - (left, top)
            cv2.fillPoly(mask, [corners.astype(np.int32)], value)
    beyond = exterior.min() < 0 or (exterior > (width - 1, height - 1)).any()
    return Patch(top, left, mask > 0, bool(beyond))


def _inflated(data: bytes, where: str) -> bytes:
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, LARGEST_MASK)
    except zlib.error as error:
        raise Fault(where, "bitmap that is not zlib, or cut off", error, "export again") from error
    if not stream.eof:
        raise Fault(where, "bitmap that is cut off, or too large", len(content), "export again")
    return content
