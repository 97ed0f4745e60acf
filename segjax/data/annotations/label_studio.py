"""Label Studio: the export called JSON (https://labelstud.io/guide/export)."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np

from segjax.data.annotations import fields
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import Classes, Drawing, Images, Item, files, image_size
from segjax.data.annotations.reading import split_of as split_of_path
from segjax.data.annotations.regions import Size, crop, ellipse, rectangle
from segjax.data.decode import SUFFIXES
from segjax.errors import DataError

UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an upload


def read(source: Path, images: Images, classes: Classes, log: Log) -> Iterator[Item]:
    """An image for each task; classes come in the order in which they appear.

    Of several annotations of a task the first counts that was not cancelled.
    """
    found = files(source, "*.json")
    if not found:
        raise DataError(f"{source}: no .json below it; export from Label Studio as JSON")
    for path in found:
        with log.faults():
            tasks = fields.load(path)
            tasks = tasks if isinstance(tasks, list) else [tasks]
            if not all(isinstance(task, dict) and "annotations" in task for task in tasks):
                raise Fault(str(path), "no list of tasks", "annotations", 'export as "JSON"')
            for number, task in enumerate(tasks, 1):
                with log.faults():
                    yield _read_task(path, number, task, images, classes, log)


def _read_task(
    path: Path, number: int, task: Any, images: Images, classes: Classes, log: Log
) -> Item:
    where = f"{path}, task {task.get('id', number)}"
    image = _find(fields.field(task, "data", dict, where), images, path.parent, where)
    drawing = Drawing(image_size(image), log, classes)
    annotations = fields.objects(task, "annotations", where)
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    for _ in kept[1:]:
        log.note("further annotations of a task", where)
    for result in fields.objects(kept[0], "result", where) if kept else []:
        with log.faults():
            _draw(result, drawing, f"{where}, region {result.get('id')}", log)
    return drawing.item(image, where, split_of_path(image, images.source))


def _find(data: dict[str, Any], images: Images, beside: Path, where: str) -> Path:
    texts = [data.get("image"), *data.values()]
    # A link to local files ends on ?d=PATH; one to a cloud's may go on with a signature.
    names = [unquote(t.rpartition("?d=")[2]).partition("?")[0] for t in texts if is_text(t)]
    name = next((n for n in names if PurePosixPath(n).suffix.lower() in SUFFIXES), None)
    if name is None:
        raise Fault(where, "no image in data", sorted(data), "export tasks of images")
    try:
        return images.find(name, beside, where)
    except Fault:
        folder, _, last = name.rpartition("/")
        if not UPLOADED.match(last):
            raise
        return images.find(f"{folder}/{last[9:]}", beside, where)


def is_text(value: Any) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


def _draw(result: dict[str, Any], drawing: Drawing, where: str, log: Log) -> None:
    value, kind = result.get("value"), str(result.get("type"))
    has_area = isinstance(value, dict) and {"points", "rle", "radiusX", "width"} & value.keys()
    if not has_area or kind.startswith("keypoint"):
        log.drop(f"results without area ({kind})", where)
        return
    labels = value.get(kind, value.get("labels"))
    if not isinstance(labels, list) or not labels or not is_text(labels[0]):
        log.drop("regions without a label", where)
        return
    given = tuple(fields.field(result, f"original_{side}", int, where) for side in SIDES)
    if given != drawing.size:
        shown = f"{given[0]}×{given[1]}, not {drawing.size[0]}×{drawing.size[1]} (height×width)"
        raise Fault(where, "size that is not the image's", shown, "put the original image there")
    if "rle" in value:
        drawing.add(labels[0], crop(decode_rle(value["rle"], drawing.size, where)), where)
        return
    per_cent = np.array(drawing.size[::-1]) / 100
    if "points" in value:
        points = fields.points(value["points"], where) * per_cent
        drawing.add_polygons(labels[0], [points], where)
        return
    names = ("radiusX", "radiusY") if "radiusX" in value else ("width", "height")
    x, y, a, b = (fields.field(value, name, float, where) for name in ("x", "y", *names))
    (x, y), (a, b) = (x, y) * per_cent, (a, b) * per_cent
    turned = fields.field({"rotation": 0, **value}, "rotation", float, where)
    if "radiusX" in value:
        drawing.add(labels[0], ellipse(x, y, (a, b), turned, drawing.size), where)
    else:
        drawing.add_polygons(labels[0], [rectangle(x, y, a, b, turned)], where)


SIDES = ("height", "width")


def decode_rle(values: Any, size: Size, where: str) -> np.ndarray:
    """Bytes of a brush as bool [H, W]: the opacity of pixels in RGBA, in @thi.ng/rle-pack's bits.

    A head of 32 bits (how many words), 5 (bits a word, less 1) and four times 4 (bits of a length,
    less 1); then runs: a bit, whether one word is repeated, 2 bits, which of the four lengths, and
    the length less 1, and the word, or the words.
    """
    good = isinstance(values, list) and all(type(v) is int and 0 <= v < 256 for v in values)
    if not good:
        raise Fault(where, "rle that is no list of bytes", values, "export again")
    bits = (np.unpackbits(np.array(values, np.uint8)) + ord("0")).tobytes()
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise Fault(where, "RLE that is cut off", f"{len(values)} bytes", "export again")
        return int(bits[at - count : at], 2)

    total, word, lengths = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * 4 or word != 8:
        value = f"{total} words of {word} bits, not {size[0]}×{size[1]}×4 of 8"
        raise Fault(where, "RLE that does not fit its size", value, "export again")
    out, done = np.zeros(total, np.uint8), 0
    while done < total:
        repeats, end = take(1), done + take(lengths[take(2)]) + 1
        if end > total:
            raise Fault(where, "RLE that does not fit its size", end, "export again")
        out[done:end] = take(word) if repeats else [take(word) for _ in range(done, end)]
        done = end
    return out.reshape(*size, 4)[..., 3] > 0
