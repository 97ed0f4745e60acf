"""What all readers of annotations share: the images of a source, the classes, and the regions."""

import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from os.path import normpath
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segjax.data import decode
from segjax.data.annotations.log import Fault, Log
from segjax.data.annotations.regions import Patch, Region, Size, polygons
from segjax.data.formats.raster import check_size
from segjax.data.label_table import VOID

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val",
          "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
ORIENTATION = 0x0112
IGNORE = "__ignore__"  # of labelme


class Item(NamedTuple):
    """An image and its annotations: regions, or the ids of all pixels.

    image: a file below the source. where: the annotations' place. split: train, val, test or "".
    partial: some of its annotations are not among the regions. ids: uint8 [H, W], in place of
    regions. content: the image, where it is no file of its own.
    """

    image: Path
    where: str
    split: str
    size: Size
    regions: Sequence[Region] = ()
    partial: bool = False
    ids: np.ndarray | None = None
    content: bytes | None = None


class Classes:
    """Names of classes, background first, and then in the order in which they are asked for."""

    def __init__(self) -> None:
        self.names = ["background"]

    def id(self, name: str) -> int:
        """The id of a class, new or not; 0 for any spelling of background, VOID for __ignore__."""
        name = name.strip()
        if not name:
            raise Fault(f"class {len(self.names)}", "name that is empty", repr(name), "name it")
        if name == IGNORE:
            return VOID
        if name.strip("_").lower() == "background":
            return 0
        if name not in self.names:
            if len(self.names) == VOID:
                raise Fault(f"class {VOID}", "one too many for a byte", name, "merge some classes")
            self.names.append(name)
        return self.names.index(name)

    def ids(self, names: Sequence[str]) -> np.ndarray:
        """Of the positions of some names, and of VOID, uint8 [256]."""
        ids = np.full(256, VOID, np.uint8)
        ids[: len(names)] = [self.id(name) for name in names]
        return ids


class Images:
    """The images of a source, which files of annotations can name, but not go beyond."""

    def __init__(self, source: Path, paths: Sequence[Path], used: set[Path] | None = None) -> None:
        self.source = source
        self.all = paths
        self.used = set() if used is None else used
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            self._by_name[_normal(path.name)].append(path)

    def find(self, name: str, beside: Path, where: str, split: str = "") -> Path:
        """The image that annotations call `name`, which may be a path on another machine.

        That is NAME in the folder `beside`; else the file of that name below the source whose
        folders agree with most of its last ones; else, of several, the one in the split's folder.
        Fault if there is none, or no one, or if the name leads outside.
        """
        parts = [part for part in re.split(r"[\\/]+", _normal(name)) if part not in ("", ".")]
        path = Path(normpath(beside.joinpath(*parts)))
        if ".." in parts and not path.is_relative_to(self.source):
            raise Fault(where, "path that leads outside of --source", name, "move the image there")
        found = self._by_name.get(parts[-1], []) if parts else []
        if path not in found:
            agreeing = {path: self._agreement(path, parts) for path in found}
            nearest = [path for path in found if agreeing[path] == max(agreeing.values())]
            if len(nearest) > 1:
                nearest = [path for path in nearest if split == split_of(path, self.source)]
            if len(nearest) != 1:
                reason = "name of several images" if found else "image that is missing"
                raise Fault(where, reason, name, f"put it below {self.source}, once")
            path = nearest[0]
        self.used.add(path)
        return path

    def apart(self, folders: Iterable[Path]) -> tuple["Images", "Images"]:
        """The images outside of some folders, and those in them."""
        wanted = set(folders)
        parts: tuple[list[Path], list[Path]] = ([], [])
        for path in self.all:
            parts[not wanted.isdisjoint(path.parents)].append(path)
        outside, inside = (Images(self.source, part, self.used) for part in parts)
        return outside, inside

    def _agreement(self, path: Path, parts: list[str]) -> int:
        own = [_normal(part) for part in path.relative_to(self.source).parts]
        pairs = zip(reversed(own), reversed(parts), strict=False)
        return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])


class Drawing:
    """Gathers the regions of one image."""

    def __init__(self, size: Size, log: Log, classes: Classes) -> None:
        self.size = size
        self.regions: list[Region] = []
        self._log = log
        self._classes = classes
        self._dropped_before = log.dropped.total()

    def item(self, image: Path, where: str, split: str, content: bytes | None = None) -> Item:
        """The image with what was added, when nothing more comes."""
        partial = self._log.dropped.total() > self._dropped_before
        return Item(image, where, split, self.size, self.regions, partial, content=content)

    def add(self, label: str | int, patch: Patch, where: str, z: float = 0) -> None:
        """Adds a region of a class, by its name or id, if any pixel of the image belongs to it."""
        class_id = self._classes.id(label) if isinstance(label, str) else label
        if patch.mask.any():
            self.regions.append(Region(class_id, patch, z))
            if patch.clipped:
                self._log.note("regions clipped at the edge of the image", where)
        elif patch.clipped:
            self._log.drop("regions outside of the image", where)
        else:
            self._log.drop("regions without the centre of a pixel", where)

    def add_polygons(
        self, label: str | int, rings: Sequence[np.ndarray], where: str, z: float = 0
    ) -> None:
        """Adds what lies in any of some polygons, float [N, 2], as one region."""
        kept = [ring for ring in rings if len(ring) >= 3]
        if len(kept) < len(rings) or not rings:
            self._log.drop("polygons of fewer than 3 points", where)
        if kept:
            self.add(label, polygons(kept, self.size), where, z)


def image_size(path: Path) -> Size:
    """Height and width of an image as it is shown, by its header where that is enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow's about large images, which are read below
            with Image.open(path) as image:
                check_size(image.height, image.width)
                turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                return image.size if turned else image.size[::-1]
    except Exception:  # Pillow raises a dozen types, and reads fewer formats
        return size_of(path.read_bytes(), str(path))


def size_of(content: bytes, where: str) -> Size:
    """The same of an image in memory; DataError if it cannot be read."""
    raster = decode.read(content, where)
    height, width = raster.pixels.shape[:2]
    return (width, height) if raster.orientation > 4 else (height, width)


def checked_size(path: Path, height: int, width: int, where: str) -> Size:
    """The size of an image; Fault if the annotations were drawn on another."""
    size = image_size(path)
    if size != (height, width):
        value = f"{height}×{width} (height×width), and {path} is {size[0]}×{size[1]}"
        remedy = "put the original image there"
        if size == (width, height):
            remedy = "a tag (EXIF) may turn the image only: remove the tag"
        raise Fault(where, "size that is not the image's", value, remedy)
    return size


def split_of(path: Path, source: Path) -> str:
    """train, val or test, by a folder below the source that is called so; else nothing."""
    folders = (re.sub(r"[_-]?\d{4}$", "", part.lower()) for part in path.relative_to(source).parts)
    return next((SPLITS[name] for name in [*folders][:-1] if name in SPLITS), "")


def split_of_name(stem: str) -> str:
    """train, val or test, by a word in the name of a file; else nothing."""
    words = re.findall(r"[a-z]+", stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def files(source: Path, pattern: str) -> list[Path]:
    """The files below a source that fit a pattern; hidden ones are left out."""
    found = [path for path in source.rglob(pattern) if path.is_file()]
    hidden = [p for p in found if any(part[0] == "." for part in p.relative_to(source).parts)]
    return sorted(set(found) - set(hidden))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
