"""Roboflow: the export "Semantic Segmentation Masks", of NAME.jpg, NAME_mask.png, _classes.csv."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from segjax.data import decode
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import Classes, Images, Item, files, image_size, split_of
from segjax.data.label_table import LabelTable
from segjax.errors import DataError
from segjax.runtime.files import read_text

TABLE = "_classes.csv"
END = "_mask"


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """The images of all folders with a table; classes come in the order of the first table."""
    tables = files(source, TABLE)
    if not tables:
        remedy = 'export as "Semantic Segmentation Masks"'
        raise DataError(f"{source}: no {TABLE} below it; {remedy}")
    for path in tables:
        with log.faults():
            table = _table(path)
            ids = classes.ids(table.names)
            here = [image for image in images.all if image.parent == path.parent]
            masks = {image.stem: image for image in here if image.stem.endswith(END)}
            images.used.update(here)
            for image in (image for image in here if image.stem not in masks):
                with log.faults():
                    mask = masks.get(image.stem + END)
                    item = Item(image, str(mask), split_of(image, source), image_size(image))
                    if mask is not None:
                        values = decode.decode_mask(mask.read_bytes(), str(mask), False)
                        item = item._replace(ids=ids[table.encode(values, str(mask))])
                    yield item


def _table(path: Path) -> LabelTable:
    return table_of([*csv.reader(read_text(path).splitlines())][1:], str(path))


def table_of(rows: Iterable[Sequence[str]], where: str) -> LabelTable:
    """A table of VALUE, NAME, in which 0 is background if it has no name."""
    names: dict[str, list[int]] = {}
    for row in ([cell.strip() for cell in row] for row in rows):
        if len(row) != 2 or not row[0].isdecimal():
            raise Fault(where, "line of another form", row, "a line is VALUE, NAME")
        names.setdefault(row[1], []).append(int(row[0]))
    if [0] not in names.values():
        names = {"background": [0], **names}
    spec = {"classes": [*names], "values": [*names.values()]}
    return LabelTable.from_json(json.dumps(spec), where)
