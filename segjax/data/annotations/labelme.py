"""LabelMe: a JSON file for each image (https://github.com/wkentaro/labelme)."""

import base64
import glob
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import decode
from segjax.data.annotations import fields
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    Classes,
    Drawing,
    Images,
    Item,
    checked_size,
    files,
    image_size,
    size_of,
    split_of,
)
from segjax.data.annotations.regions import Size, ellipse, place, rectangle
from segjax.errors import DataError

WITHOUT_AREA = ("line", "linestrip", "point", "points")


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """An image for each file; classes come in the order in which they appear, by files' names.

    An image that no file names has no annotation: LabelMe writes none without a shape.
    """
    found = files(source, "*.json")
    if not found:
        raise DataError(f"{source}: no .json below it; --source is where LabelMe saved its files")
    for path in found:
        with log.faults():
            images.used.update(path.parent.glob(f"{glob.escape(path.stem)}.*"))
            content = fields.load(path)
            if not isinstance(content, dict) or "shapes" not in content:
                log.drop("files without shapes", str(path))
                continue
            yield _read_file(path, content, images, classes, log)
    for image in images.all:
        if image not in images.used:
            images.used.add(image)
            with log.faults():
                yield Item(image, str(image), split_of(image, source), image_size(image))


def _read_file(path: Path, content: Any, images: Images, classes: Classes, log: Log) -> Item:
    where = str(path)
    shapes = fields.objects(content, "shapes", where)
    name = fields.field(content, "imagePath", str, where)
    data = None
    try:
        image = images.find(name, path.parent, where)
        size = image_size(image)
    except Fault:
        if not content.get("imageData") or ".." in name:
            raise
        data = unpacked(content, "imageData", where)
        suffix = Path(name).suffix.lower()
        image = path.with_suffix(suffix if suffix in decode.SUFFIXES else ".png")
        size = size_of(data, f"{where}, imageData")
    given = [content.get("imageHeight") or size[0], content.get("imageWidth") or size[1]]
    if data is None:
        size = checked_size(image, *given, where)
    elif size != tuple(given):
        raise Fault(where, "size that is not that of imageData", given, "save it again")
    drawing = Drawing(size, log, classes)
    for number, shape in enumerate(shapes, 1):
        with log.faults():
            _draw(shape, drawing, f"{where}, shape {number}", log)
    return drawing.item(image, where, split_of(path, images.source), data)


def _draw(shape: dict[str, Any], drawing: Drawing, where: str, log: Log) -> None:
    label = fields.field(shape, "label", str, where)
    kind = shape.get("shape_type") or "polygon"  # of early versions, which knew no other
    if kind in WITHOUT_AREA:
        log.drop(f"shapes without area ({kind})", where)
        return
    points = fields.points(shape.get("points"), where)
    if kind == "polygon":
        drawing.add_polygons(label, [points], where)
        return
    if kind not in ("rectangle", "circle", "mask"):
        raise Fault(where, "unknown shape_type", kind, "remove it, or draw a polygon")
    if len(points) != 2:
        raise Fault(where, f"{kind} that has not 2 points", len(points), "draw it again")
    (x, y), (right, bottom) = points.tolist()
    if kind == "rectangle":
        drawing.add_polygons(label, [rectangle(x, y, right - x, bottom - y)], where)
    elif kind == "circle":
        radius = math.hypot(right - x, bottom - y)
        drawing.add(label, ellipse(x, y, (radius, radius), 0, drawing.size), where)
    else:
        # Both corners are pixels of the mask.
        size = (round(bottom) - round(y) + 1, round(right) - round(x) + 1)
        mask = decode_mask(unpacked(shape, "mask", where), size, f"{where}, mask")
        drawing.add(label, place(mask, round(y), round(x), drawing.size), where)


def unpacked(entry: Any, name: str, where: str) -> bytes:
    """A field of base64; Fault if it is none."""
    text = fields.field(entry, name, str, where)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Fault(where, f"{name} is not base64, or cut off", error, "export again") from error


def decode_mask(data: bytes, size: Size | None, where: str) -> np.ndarray:
    """An image file as bool [H, W]: where it is opaque, or not 0 if it has no alpha.

    Fault if it has not the size that it should have.
    """
    raster = decode.read(data, where)
    mask = raster.pixels[..., -1] > 0
    if size and mask.shape != size:
        value = f"{mask.shape[0]}×{mask.shape[1]}, not {size[0]}×{size[1]} (height×width)"
        raise Fault(where, "mask of another size", value, "export again")
    return mask
