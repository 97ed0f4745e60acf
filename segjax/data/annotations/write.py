"""Masks of class ids as annotations of other tools: a region for each connected part."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.data import decode
from segjax.data.annotations.outlines import components, joined, outlines
from segjax.data.annotations.reading import image_size
from segjax.data.annotations.regions import Patch, Size, to_runs
from segjax.data.folders import name_of, pair_folders
from segjax.data.label_table import TABLES, VOID, LabelTable, load_table
from segjax.errors import DataError
from segjax.runtime.files import make_parent


class Annotated(NamedTuple):
    """An image, its name below the folder of images, and its mask, uint8 [H, W]."""

    image: Path
    name: str
    ids: np.ndarray


def write(
    tool: str, images: str, masks: str, classes: str, output: str, tolerance: float = 0
) -> dict[str, int]:
    """Writes annotations for `tool`, coco or labelme; returns how many images and regions.

    Of the class that is called background, and of VOID, there are no regions.

    Args:
      images, masks: folders of files with the same names.
      classes: a classes.json, of which the names count: masks hold ids 0 … C-1, not its values.
      output: a file for coco, a folder for labelme, new.
      tolerance: of polygons: how far an outline may be off, in pixels; 0 for exact ones.
    """
    if classes not in TABLES and not Path(classes).is_file():
        raise DataError(f"--classes {classes}: no such file; give the classes.json of the masks")
    table, out = load_table(classes, ""), Path(output)
    if out.exists() and (out.is_file() or tool == "coco" or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it, or name another --output")
    pairs = pair_folders(Path(images), Path(masks)).pairs
    for image, mask in pairs:  # all faults that there are come before anything is written
        _read(image, mask, Path(images), table, classes)
    found = (_read(image, mask, Path(images), table, classes) for image, mask in pairs)
    if tool == "coco":
        return _write_coco(found, table, out)
    return _write_labelme(found, table, out, tolerance)


def _read(image: Path, mask: Path, folder: Path, table: LabelTable, classes: str) -> Annotated:
    ids = decode.decode_mask(mask.read_bytes(), str(mask), as_colors=False)
    if ids.ndim == 3:
        raise DataError(f"{mask}: a mask of 3 bands; give masks of class ids, in one band")
    unknown = np.setdiff1d(ids, [*range(len(table.names)), VOID])
    if len(unknown):
        raise DataError(
            f"{mask}: ids {unknown[:8].tolist()} are no class of {classes}; --masks hold ids from "
            f"0 to {len(table.names) - 1}, and {VOID} for void"
        )
    if ids.shape != image_size(image):
        sizes = "{}×{}, its image {} is {}×{}".format(*ids.shape, image, *image_size(image))
        raise DataError(f"{mask}: the mask is {sizes}; give masks of the images' sizes")
    return Annotated(image, name_of(image, folder), ids.astype(np.uint8))


def _regions(ids: np.ndarray, table: LabelTable) -> Iterator[tuple[int, Patch]]:
    for class_id in np.unique(ids).tolist():
        if class_id not in (table.background, VOID):
            yield from ((class_id, patch) for patch in components(ids == class_id))


def _write_coco(found: Iterable[Annotated], table: LabelTable, out: Path) -> dict[str, int]:
    """RLE that is not compressed, which keeps holes, and category ids from 1."""
    named = [i for i in range(len(table.names)) if i != table.background]
    category = {class_id: number for number, class_id in enumerate(named, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (image, name, ids) in enumerate(found, 1):
        (height, width), file_name = ids.shape, f"{name}{image.suffix}"
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for class_id, patch in _regions(ids, table):
            rows, columns = patch.mask.shape
            region = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category[class_id],
                "segmentation": {"size": [height, width], "counts": _runs(patch, ids.shape)},
                "area": int(patch.mask.sum()),
                "bbox": [patch.left, patch.top, columns, rows],
                "iscrowd": 0,
            }
            annotations.append(region)
    categories = [
        {"id": category[i], "name": table.names[i], "supercategory": "none"} for i in named
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    make_parent(out).write_text(json.dumps(content) + "\n")
    return {"images": len(images), "regions": len(annotations)}


def _runs(patch: Patch, size: Size) -> list[int]:
    """The runs of an image [H, W], down its columns, from those of the region's columns."""
    height, width = size
    rows, columns = patch.mask.shape
    strip = np.zeros((columns, height), bool)
    strip[:, patch.top : patch.top + rows] = patch.mask.T
    before, *runs = to_runs(strip)
    after = height * (width - patch.left - columns)
    if len(runs) % 2:
        runs.append(0)
    runs[-1] += after
    return [before + height * patch.left, *(runs if runs[-1] else runs[:-1])]


def _write_labelme(
    found: Iterable[Annotated], table: LabelTable, out: Path, tolerance: float
) -> dict[str, int]:
    """Polygons, in which a cut leads to every hole; the image stays where it is."""
    counts = []
    for image, name, ids in found:
        path = make_parent(out / f"{name}.json")
        shapes = [
            {
                "label": table.names[class_id],
                "points": _polygon(patch, tolerance).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for class_id, patch in _regions(ids, table)
        ]
        height, width = ids.shape
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(os.path.relpath(image.resolve(), path.parent.resolve())).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        path.write_text(json.dumps(content) + "\n")
        counts.append(len(shapes))
    return {"images": len(counts), "regions": sum(counts)}


def _polygon(patch: Patch, tolerance: float) -> np.ndarray:
    rings = outlines(patch)
    if tolerance:
        shorter = [cv2.approxPolyDP(ring.astype(np.int32), tolerance, True)[:, 0] for ring in rings]
        rings = [ring for ring in shorter if len(ring) >= 3] or rings[:1]
    return joined(rings).astype(float)
