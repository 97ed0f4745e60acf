"""COCO panoptic: PNG of segment ids R + 256 G + 65536 B, and the segments' categories in JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import decode
from segjax.data.annotations import coco, fields
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    Classes,
    Images,
    Item,
    checked_size,
    split_of,
    split_of_name,
)
from segjax.data.label_table import VOID


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images of all files; classes in the order of their ids.

    Void are crowds, and what has the segment id 0: the format says that nothing is known there.
    """
    loaded = coco.load_all(source, "panoptic_*.json", log)
    # An image may have the name of its PNG, which lies in a folder that is called like the JSON.
    images, masks = images.apart(path.with_suffix("") for path, _ in loaded)
    for path, content in loaded:
        with log.faults():
            yield from _read_file(path, content, images, masks, classes, log)


def _read_file(
    path: Path, content: Any, images: Images, masks: Images, classes: Classes, log: Log
) -> Iterator[Item]:
    where = str(path)
    segments = {}
    for entry in fields.objects(content, "annotations", where):
        segments[fields.field(entry, "image_id", int, where)] = entry
        fields.objects(entry, "segments_info", where)
    used = [info for entry in segments.values() for info in entry["segments_info"]]
    names = coco.categories({**content, "annotations": used}, where, classes)
    split = split_of(path, images.source) or split_of_name(path.stem)
    for entry in fields.objects(content, "images", where):
        with log.faults():
            name = fields.field(entry, "file_name", str, where)
            place = f"{path}, {name}"
            image = images.find(name, path.parent, place, split)
            sides = (fields.field(entry, side, int, place) for side in coco.SIDES)
            size = checked_size(image, *sides, place)
            item = Item(image, place, split or split_of(image, images.source), size)
            annotation = segments.get(fields.field(entry, "id", int, place))
            if annotation is not None:
                png_name = fields.field(annotation, "file_name", str, place)
                pngs = masks if masks.all else images
                png = pngs.find(png_name, path.with_suffix(""), place, split)
                ids = _class_ids(png, annotation["segments_info"], names, classes, place)
                item = item._replace(ids=ids)
            yield item


def _class_ids(
    png: Path, segments: list[dict[str, Any]], names: dict[int, str], classes: Classes, where: str
) -> np.ndarray:
    colors = decode.decode_mask(png.read_bytes(), str(png), as_colors=True)
    colors = colors if colors.ndim == 3 else np.stack([colors] * 3, axis=-1)
    packed = colors.astype(np.int64) @ np.array([1, 256, 65536])
    known = {0: VOID}
    for segment in segments:
        label = classes.id(coco.category_name(segment, names, where))
        known[fields.field(segment, "id", int, where)] = VOID if segment.get("iscrowd") else label
    values, places = np.unique(packed, return_inverse=True)
    unknown = [value for value in values.tolist() if value not in known]
    if unknown:
        remedy = "add them to segments_info, or export again"
        raise Fault(str(png), "unknown segment ids", unknown[:8], remedy)
    ids = np.array([known[value] for value in values.tolist()], np.int64)
    return ids[places.reshape(packed.shape)].astype(np.uint8)
