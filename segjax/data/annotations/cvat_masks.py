"""CVAT: "Segmentation mask 1.1", of masks in colours and a labelmap.txt."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segjax.data import decode
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import (
    SPLITS,
    Classes,
    Images,
    Item,
    files,
    image_size,
    split_of,
)
from segjax.data.label_table import LabelTable
from segjax.runtime.files import read_text

LABELMAP = "labelmap.txt"
LISTS = "ImageSets/Segmentation"
BLACK = (0, 0, 0)


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images that the lists of all labelmaps name; classes in the order of the labelmap.

    Black is background, if no label has it. A list called train, val or test is a split.
    """
    # A list holds names without suffixes, which may lie in folders.
    by_name = {image.with_suffix(""): image for image in images.all}
    for path in files(source, LABELMAP):
        masks = [path.parent / f"Segmentation{kind}" for kind in ("Class", "Object")]
        images.used.update(images.apart(masks)[1].all)
        with log.faults():
            table = _table(path)
            ids = classes.ids(table.names)
            for listing, name in _listed(path):
                with log.faults():
                    item = _read_image(path.parent, listing, name, images, by_name)
                    mask = by_name.get(masks[0] / name)
                    yield item._replace(ids=ids[_encoded(mask, table, item.where)])


def _table(path: Path) -> LabelTable:
    colors: dict[str, tuple[int, ...]] = {}
    for line in read_text(path).splitlines():
        if line.strip() and not line.startswith("#"):
            name, color, *_ = [*line.rsplit(":", 3), ""]
            try:
                colors[name] = tuple(int(value) for value in color.split(","))
            except ValueError as error:
                remedy = "a line is NAME:R,G,B:PARTS:ACTIONS"
                raise Fault(str(path), "line of another form", line, remedy) from error
    if BLACK not in colors.values():
        colors = {"background": BLACK, **colors}
    spec = {"classes": [*colors], "colors": [[*color] for color in colors.values()]}
    return LabelTable.from_json(json.dumps(spec), str(path))


def _listed(path: Path) -> list[tuple[Path, str]]:
    """The lists beside a labelmap and the names in them: only splits, where there are such."""
    listings = sorted((path.parent / LISTS).glob("*.txt"))
    if not listings:
        raise Fault(str(path), "no lists beside it", f"{LISTS}/*.txt", "export again")
    used = [listing for listing in listings if listing.stem.lower() in SPLITS] or listings
    lines = [(listing, line.strip()) for listing in used for line in read_text(listing).split("\n")]
    return [(listing, name) for listing, name in lines if name]


def _read_image(
    root: Path, listing: Path, name: str, images: Images, by_name: dict[Path, Path]
) -> Item:
    where = f"{listing}, {name}"
    image = by_name.get(root / "JPEGImages" / name)
    if image is None:
        raise Fault(where, "image that is missing", name, f"put it into {root / 'JPEGImages'}")
    images.used.add(image)
    split = SPLITS.get(listing.stem.lower(), "") or split_of(listing, images.source)
    return Item(image, where, split, image_size(image))


def _encoded(mask: Path | None, table: LabelTable, where: str) -> np.ndarray:
    if mask is None:
        raise Fault(where, "mask that is missing", "SegmentationClass", "export again")
    return table.encode(decode.decode_mask(mask.read_bytes(), str(mask), True), str(mask))
