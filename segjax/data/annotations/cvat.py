"""CVAT: "CVAT for images 1.1", in XML (https://docs.cvat.ai/docs/dataset_management/formats/)."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segjax.data.annotations import cvat_masks, fields
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    SPLITS,
    Classes,
    Drawing,
    Images,
    Item,
    checked_size,
    files,
    split_of,
)
from segjax.data.annotations.regions import ellipse, of_runs, place, rectangle
from segjax.errors import DataError

WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
NOT_SHAPES = ("tag", "attribute")


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images of all XML files, or of the export of masks, which has a labelmap.txt.

    Classes come in the order of the labels in the task or the labelmap.
    """
    if files(source, cvat_masks.LABELMAP):
        yield from cvat_masks.read(source, images, classes, log)
        return
    found = files(source, "*.xml")
    if not found:
        raise DataError(f"{source}: neither .xml nor {cvat_masks.LABELMAP} below it; export again")
    for path in found:
        with log.faults():
            root = _parse(path)
            for label in root.findall("meta//label/name"):
                classes.id((label.text or "").strip())
            for image in root.iter("image"):
                with log.faults():
                    yield _read_image(path, image, images, classes, log)


def _parse(path: Path) -> ET.Element:
    data = path.read_bytes()
    try:
        # Entities are what an XML file could grow by, or read other files with; CVAT writes none.
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ET.ParseError("it declares a document type")
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise Fault(str(path), "not XML, or cut off", error, "export it again") from error
    if root.tag != "annotations" or root.find("track") is not None:
        remedy = 'export as "CVAT for images 1.1"'
        raise Fault(str(path), "not CVAT's images", f"<{root.tag}>", remedy)
    return root


def _read_image(path: Path, entry: ET.Element, images: Images, classes: Classes, log: Log) -> Item:
    name = entry.get("name", "")
    where = f"{path}, {name}"
    split = SPLITS.get(entry.get("subset", "").lower(), "")
    image = images.find(name, path.parent, where, split)
    height, width = (int(number(entry, side, where)) for side in ("height", "width"))
    drawing = Drawing(checked_size(image, height, width, where), log, classes)
    for number_of, shape in enumerate(entry, 1):
        if shape.tag in WITHOUT_AREA:
            log.drop(f"shapes without area ({shape.tag})", where)
        elif shape.tag not in NOT_SHAPES:
            with log.faults():
                _draw(shape, drawing, f"{where}, shape {number_of}")
    return drawing.item(image, where, split or split_of(image, images.source))


def _draw(shape: ET.Element, drawing: Drawing, where: str) -> None:
    label = shape.get("label", "")
    if not label:
        raise Fault(where, "label missing", shape.tag, "export again")
    z = number(shape, "z_order", where, 0)
    turned = number(shape, "rotation", where, 0)
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        ring = fields.points([value for pair in pairs for value in pair], where)
        drawing.add_polygons(label, [ring], where, z)
    elif shape.tag == "box":
        x, y, right, bottom = (number(shape, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
        # A box turns around its middle.
        ring = rectangle(0, 0, right - x, bottom - y, turned)
        ring += (np.array([x + right, y + bottom]) - (ring.min(0) + ring.max(0))) / 2
        drawing.add_polygons(label, [ring], where, z)
    elif shape.tag == "ellipse":
        x, y, *radii = (number(shape, name, where) for name in ("cx", "cy", "rx", "ry"))
        drawing.add(label, ellipse(x, y, (radii[0], radii[1]), turned, drawing.size), where, z)
    elif shape.tag == "mask":
        size = tuple(int(number(shape, side, where)) for side in ("height", "width"))
        if size[0] > drawing.size[0] or size[1] > drawing.size[1]:
            raise Fault(where, "mask larger than its image", size, "export again")
        runs = [int(run) for run in re.findall(r"-?\d+", shape.get("rle", ""))]
        mask = of_runs(runs, (size[0], size[1]), where)
        top, left = (int(number(shape, side, where)) for side in ("top", "left"))
        drawing.add(label, place(mask, top, left, drawing.size), where, z)
    else:
        raise Fault(where, "unknown shape", shape.tag, "remove it, or draw a polygon")


def number(entry: ET.Element, name: str, where: str, default: float | None = None) -> float:
    """An attribute that is a finite number; Fault if it is none."""
    text = entry.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not fields.is_a(value, float):
        raise Fault(where, f"{name} missing, or no number", text, "export again")
    return value
