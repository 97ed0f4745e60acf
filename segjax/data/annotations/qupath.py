"""QuPath and ImageJ: label images, and QuPath's GeoJSON in pixels (https://qupath.github.io)."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segjax.data import decode
from segjax.data.annotations import features, fields
from segjax.data.annotations.features import Layer, Polygon
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    IGNORE,
    Classes,
    Drawing,
    Images,
    Item,
    files,
    image_size,
    split_of,
)
from segjax.data.annotations.regions import Size, polygons
from segjax.data.annotations.roboflow import table_of
from segjax.data.label_table import VOID, LabelTable
from segjax.errors import DataError
from segjax.runtime.files import read_text

LABELS = re.compile(r"(.+)[-_](?:labell?ed|labels?|masks?)", re.IGNORECASE)
TABLES = ("classes.json", "labels.csv", "labels.txt")
CLASS = "classification.name"
IGNORED = "Ignore*"
# A tile and a core say where to look, not what there is.
WITHOUT_CLASS = ("tile", "tma_core", "root")


class Files(NamedTuple):
    """Images by stem, and label images with the stem of their image."""

    images: dict[str, list[Path]]
    labels: dict[Path, str]


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images that have a label image NAME-labelled.*, NAME-mask.* …, or a NAME.geojson.

    Classes come by the table of ids, where there is one, and then in the order of appearance.
    """
    found = _files(images)
    table = _table(source)
    ids = None if table is None else classes.ids(table.names)
    layers = features.classified([*_layers(source, log)], [CLASS], log, "give it a class in QuPath")
    if not (layers or found.labels or log.problems):
        remedy = "export label images NAME-labelled.png, or NAME.geojson"
        raise DataError(f"{source}: no labels and no GeoJSON below it; {remedy}")
    images.used.update(found.labels)
    for path, stem in found.labels.items():
        with log.faults():
            image = _image(path, stem, found, images)
            item = Item(image, str(path), split_of(image, source), image_size(image))
            values = decode.decode_mask(path.read_bytes(), str(path), False)
            if table is None or ids is None:
                yield item._replace(ids=_numbered(values, classes, str(path)))
            else:
                yield item._replace(ids=ids[table.encode(values, str(path))])
    for layer in layers:
        with log.faults():
            image = _image(layer.path, layer.path.stem, found, images)
            drawing = _drawing(layer, image_size(image), classes, log)
            yield drawing.item(image, str(layer.path), split_of(image, source))
    for image in images.all:
        if image not in images.used:
            images.used.add(image)
            with log.faults():
                yield Item(image, str(image), split_of(image, source), image_size(image))


def _files(images: Images) -> Files:
    """A label image is known by the end of its name."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    labels = {}
    for path in images.all:
        match = LABELS.fullmatch(path.stem)
        if match:
            labels[path] = match[1]
        else:
            by_stem[path.stem].append(path)
    return Files(by_stem, labels)


def _image(path: Path, stem: str, found: Files, images: Images) -> Path:
    """The image of a label image, or of a GeoJSON; that in its own folder, if there are several."""
    named = found.images.get(stem, [])
    near = [image for image in named if image.parent == path.parent]
    chosen = near or named
    if len(chosen) != 1:
        reason = "name of several images" if chosen else "image that is missing"
        raise Fault(str(path), reason, f"{stem}.*", f"put it below {images.source}, once")
    images.used.add(chosen[0])
    return chosen[0]


def _table(source: Path) -> LabelTable | None:
    """What the ids of label images mean; None where DIR has none of TABLES."""
    for path in (source / name for name in TABLES):
        if path.is_file() and path.suffix == ".json":
            return LabelTable.from_json(read_text(path), str(path))
        if path.is_file():
            lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
            rows = [re.split(r"\s*[,;\t]\s*|\s+", line, maxsplit=1) for line in lines]
            has_heading = bool(rows) and not rows[0][0].isdecimal()
            return table_of(rows[has_heading:], str(path))
    return None


def _numbered(values: np.ndarray, classes: Classes, where: str) -> np.ndarray:
    """Ids without a table: N is "class N"."""
    if values.ndim != 2:
        raise Fault(where, "labels in colours", values.shape, "export ids in one band")
    largest = int(values.max())
    if largest >= VOID or values.min() < 0:
        value = largest if largest >= VOID else int(values.min())
        remedy = "say what the ids mean in labels.csv, lines of ID, NAME"
        raise Fault(where, f"ids beyond 0 … {VOID - 1}, without names", value, remedy)
    ids = [classes.id(f"class {number}") for number in range(1, largest + 1)]
    return np.array([0, *ids], np.uint8)[values]


def _layers(source: Path, log: Log) -> Iterator[Layer]:
    for path in sorted([*files(source, "*.geojson"), *files(source, "*.json")]):
        where = str(path)
        with log.faults():
            if path.name in TABLES:
                continue
            content = fields.load(path)
            if path.suffix == ".json" and not features.is_collection(content):
                log.drop("files that are no FeatureCollection", where)
                continue
            if isinstance(content, dict) and content.get("crs") is not None:
                value = json.dumps(content["crs"])
                raise Fault(where, "map coordinates", value, "convert it with the format geojson")
            found = features.polygons(features.of_collection(content, where), where, log)
            yield Layer(path, "", [*_annotations(found, log)])


def _annotations(found: Sequence[Polygon], log: Log) -> Iterator[Polygon]:
    """The objects that can have a class; of a name in parts ("names") the parts as one."""
    for polygon in found:
        properties = polygon.properties if isinstance(polygon.properties, dict) else {}
        kind = properties.get("objectType")
        given = properties.get("classification")
        names = given.get("names") if isinstance(given, dict) else None
        if kind in WITHOUT_CLASS:
            log.drop(f"objects that are no annotation ({kind})", polygon.where)
        elif isinstance(names, list) and names:
            joined = {"classification": {"name": ": ".join(map(str, names))}}
            yield polygon._replace(properties={**properties, **joined})
        else:
            yield polygon


def _drawing(layer: Layer, size: Size, classes: Classes, log: Log) -> Drawing:
    drawing = Drawing(size, log, classes)
    for polygon in layer.polygons:
        label = IGNORE if polygon.name == IGNORED else polygon.name
        patch = polygons(polygon.rings, drawing.size, even_odd=True)
        drawing.add(label, patch, polygon.where)
    return drawing
