"""Which files of a folder are images, and what else there is: one rule for training and prediction.

Folders and linked folders are walked. Names that begin with a dot and what systems put into
folders (SYSTEM) are not looked at; whatever else is not an image is named.
"""

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from segjax.data.decode import SUFFIXES

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


def list_images(folder: Path, pattern: Sequence[str] = ()) -> Listing:
    """The images in a folder and in its folders.

    pattern: what paths below `folder` have to fit, by parts, as of a shell: ("**", "*.png"). Of a
    folder that fits, everything is listed.
    """
    images, unused = [], []
    for path, reason in sorted(_walk(folder, pattern)):
        if not _fits(path.relative_to(folder).parts, pattern, partly=bool(reason)):
            continue
        if reason:
            unused.append(f"{path}: {reason}")
        elif not path.is_file():
            is_link = path.is_symlink()
            unused.append(f"{path}: {'a broken link' if is_link else 'no file'}")
        elif path.suffix.lower() in SUFFIXES:
            images.append(path)
        else:
            unused.append(f"{path}: no image by its suffix")
    return Listing(images, unused)


def _walk(folder: Path, pattern: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """All files below a folder, and the folders that are not walked with the reason."""
    first_seen = {folder.resolve(): folder}
    errors: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        here = Path(where)
        yield from ((here / name, "") for name in names if not is_hidden(name))
        visible = [here / name for name in sorted(folders) if not is_hidden(name)]
        folders.clear()  # os.walk goes into what is put back
        for path in visible:
            if not _fits(path.relative_to(folder).parts, pattern, partly=True):
                continue
            other = first_seen.setdefault(path.resolve(), path)
            if other == path:
                folders.append(path.name)
            else:
                yield path, f"the same folder as {other}"
    yield from ((Path(error.filename), error.strerror) for error in errors)


def _fits(parts: Sequence[str], pattern: Sequence[str], partly: bool = False) -> bool:
    """Whether a path, or a folder that it lies in, fits; `partly`: or something in it could."""
    if not pattern or (partly and not parts):
        return True
    if pattern[0] == "**" and _fits(parts, pattern[1:], partly):
        return True
    here = bool(parts) and (pattern[0] == "**" or fnmatchcase(parts[0], pattern[0]))
    return here and _fits(parts[1:], pattern if pattern[0] == "**" else pattern[1:], partly)


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
