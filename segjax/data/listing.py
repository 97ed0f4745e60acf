"""Which files of a folder are images, and what else there is: one rule for training and prediction.

Folders and linked folders are walked. Names that begin with a dot and what systems put into
folders (SYSTEM) are not looked at; whatever else is not an image is told of, never just left out.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segjax.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "photos", "rgb", "jpegimages"}
MASK_FOLDERS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "gt",
}  # fmt: skip


class Listing(NamedTuple):
    """images: sorted paths; unused: what else was found, a line each, with the reason."""

    images: list[Path]
    unused: list[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be seen: of macOS (._NAME), Windows, a NAS."""
    return name.startswith(".") or name.lower() in SYSTEM


def list_images(folder: Path) -> Listing:
    """The images in a folder and, without end, in its folders."""
    return select(*_walk(folder))


def select(paths: Iterable[Path], unused: Iterable[str] = ()) -> Listing:
    """Those of some files that are images by their suffix; what is not is added to `unused`."""
    images, unused = [], list(unused)
    for path in sorted(set(paths)):
        if is_hidden(path.name):
            continue
        if not path.is_file():
            unused.append(f"{path}: a link that leads nowhere" if path.is_symlink()
                          else f"{path}: not a regular file")  # fmt: skip
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            unused.append(f"{path}: no image by its suffix")
    return Listing(images, unused)


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """All files below a folder, and folders that cannot be, or are already, among them."""
    files, unused = [], []
    first_seen = {folder.resolve(): folder}

    def complain(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise DataError(f"{folder}: {error.strerror}; make the folder readable") from error
        unused.append(f"{error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=complain, followlinks=True):
        here = Path(where)
        files += [here / name for name in names]
        visible = sorted(name for name in folders if not is_hidden(name))
        folders.clear()  # os.walk goes into what is put back
        for name in visible:
            other = first_seen.setdefault((here / name).resolve(), here / name)
            if other == here / name:
                folders.append(name)
            else:
                unused.append(f"{here / name}: the same folder as {other}")
    return files, unused


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder is called masks, or like it, and lies beside one of images."""
    return folder.name.lower() in MASK_FOLDERS and any(
        other.name.lower() in IMAGE_FOLDERS and other.is_dir() for other in folder.parent.iterdir()
    )


def describe_missing(folder: Path) -> str:
    """What there is in place of a folder that is missing, for an error, and what may be meant."""
    wanted = folder.name
    while not folder.parent.is_dir():
        folder, wanted = folder.parent, folder.parent.name
    where = folder.parent
    files = [p for p in sorted(where.iterdir()) if not is_hidden(p.name)]
    folders = [p.name for p in files if p.is_dir()]
    images = sum(p.suffix.lower() in SUFFIXES for p in files)
    found = [*folders[:12], f"{images} images"] if images else folders[:12]
    alike = next((kind for kind in (IMAGE_FOLDERS, MASK_FOLDERS) if wanted in kind), ())
    meant = [n for n in folders if n.lower() in alike or n.lower().startswith(wanted)]
    remedy = f"; rename {meant[0]} to {wanted}" if meant else ""
    return f"{where} holds {', '.join(found) or 'nothing'}{remedy}"
