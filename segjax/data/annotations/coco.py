"""COCO: instances, of polygons or RLE (https://cocodataset.org/#format-data)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segjax.data.annotations import fields
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    Classes,
    Drawing,
    Images,
    Item,
    checked_size,
    files,
    split_of,
    split_of_name,
)
from segjax.data.annotations.regions import crop, of_runs, runs_of_text
from segjax.data.label_table import VOID
from segjax.errors import DataError

PARTS = ("images", "annotations", "categories")


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images of all files; of instances_*.json only these, where there are such.

    Classes come in the order of their ids, file by file. A crowd is void, under everything else.
    """
    for path, content in load_all(source, "instances_*.json", log):
        with log.faults():
            yield from _read_file(path, content, images, classes, log)


def load_all(source: Path, preferred: str, log: Log) -> list[tuple[Path, Any]]:
    """The files that are COCO's, with their contents. DataError if there are none."""
    found = files(source, "*.json")
    chosen = [path for path in found if path.match(preferred)] or found
    for path in set(found) - set(chosen):
        log.drop(f"files that are not {preferred}", str(path))
    loaded = []
    for path in chosen:
        with log.faults():
            content = fields.load(path)
            if isinstance(content, dict) and all(part in content for part in PARTS):
                loaded.append((path, content))
            else:
                log.drop(f"files without {', '.join(PARTS)}", str(path))
    if not loaded and not log.problems:
        raise DataError(f"{source}: no .json below it holds {', '.join(PARTS)}; export as COCO")
    return loaded


def categories(content: Any, where: str, classes: Classes) -> dict[int, str]:
    """Names by id, registered in the order of their ids.

    Roboflow's heading, the supercategory of the others that nothing belongs to, is left out.
    """
    entries = fields.objects(content, "categories", where)
    names = {
        fields.field(e, "id", int, where): fields.field(e, "name", str, where) for e in entries
    }
    if len(names) < len(entries):
        raise Fault(where, "category id given twice", sorted(names), "number them again")
    used = [annotation.get("category_id") for annotation in content["annotations"]]
    used = {category for category in used if isinstance(category, int)}
    above = [entry.get("supercategory") for entry in entries]
    for entry in sorted(entries, key=lambda entry: entry["id"]):
        is_heading = entry.get("supercategory") == "none" and entry["name"] in above
        if entry["id"] in used or not is_heading:
            classes.id(entry["name"])
    return names


def _read_file(
    path: Path, content: Any, images: Images, classes: Classes, log: Log
) -> Iterator[Item]:
    where, source = str(path), images.source
    annotations = fields.objects(content, "annotations", where)
    names = categories(content, where, classes)
    split = split_of(path, source) or split_of_name(path.stem)
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for entry in fields.objects(content, "images", where):
        of_image[fields.field(entry, "id", int, where)] = []
    for annotation in annotations:
        with log.faults():
            image_id = fields.field(annotation, "image_id", int, _place(path, annotation))
            if image_id not in of_image:
                remedy = "add it to images, or remove the annotation"
                raise Fault(_place(path, annotation), "unknown image_id", image_id, remedy)
            of_image[image_id].append(annotation)
    for entry in content["images"]:
        with log.faults():
            name = fields.field(entry, "file_name", str, where)
            image = images.find(name, path.parent, where, split)
            sides = (fields.field(entry, side, int, f"{path}, {name}") for side in SIDES)
            size = checked_size(image, *sides, f"{path}, {name}")
            drawing = Drawing(size, log, classes)
            for annotation in of_image[entry["id"]]:
                with log.faults():
                    _draw(annotation, names, drawing, _place(path, annotation), log)
            yield drawing.item(image, f"{path}, {name}", split or split_of(image, source))


SIDES = ("height", "width")


def _place(path: Path, annotation: dict[str, Any]) -> str:
    return f"{path}, annotation {annotation.get('id')}"


def category_name(entry: dict[str, Any], names: dict[int, str], where: str) -> str:
    """The name of an annotation's category; Fault if the id is in no category."""
    category = fields.field(entry, "category_id", int, where)
    if category not in names:
        remedy = "add it to categories, or remove the annotation"
        raise Fault(where, "unknown category_id", category, remedy)
    return names[category]


def _draw(
    annotation: dict[str, Any], names: dict[int, str], drawing: Drawing, where: str, log: Log
) -> None:
    name = category_name(annotation, names, where)
    is_crowd = bool(annotation.get("iscrowd"))
    label, z = (VOID, -1) if is_crowd else (name, 0)
    shape = annotation.get("segmentation")
    if not shape:
        log.drop("annotations with a bounding box only", where)
    elif isinstance(shape, list):
        rings = shape if isinstance(shape[0], list) else [shape]
        drawing.add_polygons(label, [fields.points(ring, where) for ring in rings], where, z)
    elif fields.field(shape, "size", list, where) != [*drawing.size]:
        value = f"{shape['size']}, of an image of {[*drawing.size]}"
        raise Fault(where, "RLE of another size", value, "export again")
    else:
        counts = shape.get("counts")
        runs = runs_of_text(counts, where) if isinstance(counts, str) else counts
        if not isinstance(runs, list):
            raise Fault(where, "RLE without counts", runs, "export again")
        # COCO counts down the columns.
        drawing.add(label, crop(of_runs(runs, drawing.size[::-1], where).T), where, z)
