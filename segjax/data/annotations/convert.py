"""Annotations of other tools as ROOT/{images,masks}, or ROOT/{train,val,test}/{images,masks}."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segjax.data.annotations import (
    coco,
    coco_panoptic,
    cvat,
    geojson,
    label_studio,
    labelme,
    qupath,
    roboflow,
    supervisely,
)
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.reading import Classes, Images, Item
from segjax.data.annotations.regions import paint
from segjax.data.label_table import VOID
from segjax.data.listing import list_images
from segjax.errors import DataError
from segjax.runtime.files import remove, write_json

Reader = Callable[..., Iterator[Item]]  # of the source, its images, the classes, the log, options
READERS: dict[str, Reader] = {
    "coco": coco.read,
    "coco-panoptic": coco_panoptic.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "label_studio": label_studio.read,
    "roboflow": roboflow.read,
    "supervisely": supervisely.read,
    "geojson": geojson.read,
    "qupath": qupath.read,
}
MASKS = ".masks"  # where masks lie until all names are known
REPORT = "prepared.json"


class Tally:
    """Images, regions and pixels by class id."""

    def __init__(self) -> None:
        self.images: Counter[int] = Counter()
        self.regions: Counter[int] = Counter()
        self.pixels: Counter[int] = Counter()

    def add(self, item: Item, ids: np.ndarray) -> None:
        """Counts an image."""
        values, counts = np.unique(ids, return_counts=True)
        self.images.update(values.tolist())
        self.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self.regions.update(region.class_id for region in item.regions)

    def of(self, class_id: int) -> dict[str, int]:
        """What a class has."""
        counters = (("images", self.images), ("regions", self.regions), ("pixels", self.pixels))
        return {name: counter[class_id] for name, counter in counters}


def convert(
    tool: str,
    source: str,
    output: str,
    empty: str = "drop",
    on_error: str = "raise",
    **options: str,
) -> tuple[Path, dict[str, Any]]:
    """Converts the export of a tool; returns the folder, and what stands in its prepared.json.

    Writes OUTPUT and nothing else; images are links. After an error OUTPUT is as it was.

    Args:
      tool: one of READERS.
      empty: of images without annotations: drop, or background, their whole mask.
      on_error: raise one DataError that names all faults, or skip what is at fault.
      options: of the tool alone: of geojson the property that names the class.
    """
    root, out = Path(source).resolve(), Path(output).resolve()
    if not root.is_dir():
        raise DataError(f"--source {source}: no such folder")
    existed = out.exists()
    if existed and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it, or name another folder as --output")
    try:
        report = _write(tool, root, out, empty, Log(on_error == "skip"), options)
    except BaseException as error:
        if out.exists():
            for path in [*out.iterdir()] if existed else [out]:
                remove(path)
        if isinstance(error, OSError):
            raise DataError(f"{error.filename or out}: {error.strerror}; see to it") from error
        raise
    return out, report


def _write(
    tool: str, root: Path, out: Path, empty: str, log: Log, options: dict[str, str]
) -> dict[str, Any]:
    classes, tally = Classes(), Tally()
    images = Images(root, list_images(root).images)
    items = []
    for item in READERS[tool](root, images, classes, log, **options):
        if (ids := _ids(item, empty, log)) is not None:
            tally.add(item, ids)
            _save(ids, out / MASKS / f"{len(items)}.png")
            items.append(item._replace(regions=(), ids=None))
    _require_images(items, classes, root, log)
    items = _with_splits(items, log)
    names = _names(items, root, log)
    log.problems.raise_if_any()
    for number, (item, name) in enumerate(zip(items, names, strict=True)):
        _place(item, name, out / MASKS / f"{number}.png", out)
    (out / MASKS).rmdir()
    for path in images.all:
        if path not in images.used:
            log.drop("image files that no annotation names", str(path))
    report = _report(tool, root, items, classes, tally, log)
    (out / "classes.json").write_text(json.dumps({"classes": classes.names}) + "\n")
    write_json(out / REPORT, report)
    return report


def _ids(item: Item, empty: str, log: Log) -> np.ndarray | None:
    """The mask of an image; None if it is not used."""
    with log.faults():
        if item.ids is not None:
            if item.ids.shape != item.size:
                value = f"{item.ids.shape}, and {item.image} is {item.size} (height, width)"
                raise Fault(item.where, "mask of another size", value, "export again")
            return item.ids
        if not item.regions and item.partial:
            log.drop("images of whose annotations none could be used", item.where)
        elif not item.regions and empty == "drop":
            log.drop("images without annotations", item.where)
        else:
            return paint(item.regions, item.size)
    return None


def _save(ids: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def _require_images(items: list[Item], classes: Classes, root: Path, log: Log) -> None:
    if log.problems or (items and len(classes.names) > 1):
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in log.dropped.items())
    found = "no class but background" if items else "no image with annotations"
    raise DataError(f"{root}: {found} ({counts or 'nothing dropped'}); export them with regions")


def _with_splits(items: list[Item], log: Log) -> list[Item]:
    """All of a split, or none: training alone is one folder, which segjax divides."""
    splits = {item.split for item in items}
    if splits == {"train"}:
        return [item._replace(split="") for item in items]
    if "" in splits and len(splits) > 1:
        for item in items:
            if not item.split:
                value = f"others are in {', '.join(sorted(splits - {''}))}"
                remedy = "put it into train, val or test, too"
                log.problems.add(str(Fault(item.where, "image without a split", value, remedy)))
    return items


def _names(items: list[Item], root: Path, log: Log) -> list[str]:
    """SPLIT/NAME of all images, unlike even without suffixes, or with the folders they lie in."""
    alike: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for item in items:
        alike[item.split, item.image.stem].add(item.image)
    names, taken = [], {}
    for item in items:
        deep = len(alike[item.split, item.image.stem]) > 1
        below = item.image.relative_to(root) if deep else Path(item.image.name)
        name = Path(item.split, below)
        other = taken.setdefault(name.with_suffix(""), item)
        if other is not item:
            value = f"{item.image} and {other.image} ({other.where})"
            remedy = "keep one of each, or rename one"
            log.problems.add(str(Fault(item.where, "one name, several images", value, remedy)))
        names.append(str(name))
    return names


def _place(item: Item, name: str, mask: Path, out: Path) -> None:
    split, below = (item.split, Path(name).relative_to(item.split)) if item.split else ("", name)
    image = out / split / "images" / below
    final = (out / split / "masks" / below).with_suffix(".png")
    for path in (image, final):
        path.parent.mkdir(parents=True, exist_ok=True)
    if item.content is None:
        image.symlink_to(item.image)
    else:
        image.write_bytes(item.content)
    mask.rename(final)


def _report(
    tool: str, root: Path, items: list[Item], classes: Classes, tally: Tally, log: Log
) -> dict[str, Any]:
    splits = Counter(item.split or "all" for item in items)
    rows = [{"id": i, "name": name} | tally.of(i) for i, name in enumerate(classes.names)]
    rows.append({"id": VOID, "name": "(void)"} | tally.of(VOID))
    return {"format": tool, "source": str(root), "images": splits, "classes": rows} | log.counts()


def format_report(report: dict[str, Any]) -> str:
    """What stands in prepared.json as a text for people."""
    images = ", ".join(f"{count} {split}" for split, count in report["images"].items())
    lines = [f"images: {images}", f"{'id':>5} {'images':>8} {'regions':>8} {'pixels':>12}  class"]
    for row in report["classes"]:
        counts = f"{row['id']:5d} {row['images']:8d} {row['regions']:8d} {row['pixels']:12d}"
        lines.append(f"{counts}  {row['name']}")
    for kind in ("dropped", "notes"):
        for reason, found in report[kind].items():
            lines.append(f"{kind}: {found['count']} {reason}, such as {found['first']}")
    absent = [row["name"] for row in report["classes"][:-1] if not row["pixels"]]
    if absent:
        remedy = "training asks for config.data.allow_missing_classes=True"
        lines.append(f"no pixel of {', '.join(absent)}: {remedy}")
    return "\n".join(lines)
