"""Folders of images and masks: which files belong together."""

import unicodedata
from collections import defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segjax.data import pairing
from segjax.data.listing import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SUFFIXES,
    Listing,
    describe_missing,
    list_images,
)
from segjax.data.pairing import EQUAL, Pairing
from segjax.errors import DataError

Pair = tuple[Path, Path | None]  # of an image and its mask; None where config.data lets it miss
Files = dict[str, list[Path]]  # the images of a folder, by `name_of`
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
LAYOUT = (
    "expected ROOT/{train,val,test}/{images,masks}/NAME.* or ROOT/{images,masks}/NAME.*, or both "
    "in one folder, as config.data.pairing says"
)


class Found(NamedTuple):
    """The pairs of a split, sorted, and what was found besides.

    left_out: with on_error='skip', files without a partner or with several, a line each.
    unused: what is no image, a line each.
    division: where one folder is divided, how many images each split has.
    notes: how masks were found, and where there are none, a line each.
    names, groups: of each pair; groups only if there are any.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    division: str = ""
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def pair_files(folder: Path, **options: Any) -> Found:
    """FOLDER/images/NAME.* with FOLDER/masks/NAME.*, or both in FOLDER: see `pair_folders`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: {describe_missing(folder)}; {LAYOUT}")
    if is_one_folder(folder, options.get("rule", "")):
        return pair_folders(folder, folder, **options)
    return pair_folders(folder / "images", folder / "masks", **options)


def is_one_folder(folder: Path, rule: str) -> bool:
    """Whether a folder holds images beside their masks, by a rule that is given or found."""
    below = {path.name.lower() for path in folder.iterdir() if path.is_dir()}
    if below & (IMAGE_FOLDERS | MASK_FOLDERS | SPLIT_FOLDERS):  # an error tells how to rename them
        return False
    given = pairing.parse(rule)
    if given:
        return given.image != given.mask
    names = by_name(list_images(folder), folder)
    return pairing.detect(names, names, str(folder)) is not None


def pair_folders(
    folder: Path,
    mask_folder: Path,
    skip: bool = False,
    subfolders: bool = True,
    rule: str = "",
    background: bool = False,
) -> Found:
    """FOLDER/NAME.* with MASK_FOLDER/NAME.*; a NAME may lie in folders of these.

    rule: `config.data.pairing`; background: whether images may have no mask.

    Raises DataError that names whatever is alone or ambiguous, without `skip`.
    """
    folders = (folder, mask_folder)
    listings = [_list(each, subfolders, other) for each, other in (folders, folders[::-1])]
    faults = [found for found in listings if isinstance(found, str)]
    if faults:
        raise DataError(f"{'; '.join(dict.fromkeys(faults))}; {LAYOUT}")
    images, masks = map(by_name, listings, folders)
    unused = [line for found in listings[: len({*folders})] for line in found.unused]
    how, mask_of, masks_alone, others = pairing.match(images, masks, rule, *folders)
    unused += [f"{p}: no image and no mask by {how}" for name in others for p in masks[name]]
    twice = [*_several(images, mask_of), *_several(masks, {*mask_of.values(), *masks_alone})]
    unmasked = [] if background else [name for name, mask in mask_of.items() if not mask]
    alone = [f"{images[name][0]} has no mask" for name in unmasked]
    alone += [f"{masks[name][0]} has no image" for name in masks_alone]
    both = {n: (images[n], masks[mask] if mask else [None]) for n, mask in mask_of.items()}
    pairs = {
        name: (image[0], mask[0])
        for name, (image, mask) in both.items()
        if len(image) == len(mask) == 1 and (mask[0] or background)
    }
    if not (skip and pairs):
        _require_partners(folder, how, twice, alone, unused)
    left_out = [f"{names}: one name, several files" for names in twice]
    left_out += [f"{line}; {how.remedy}" for line in alone]
    notes = note_unmasked(folder, [*pairs.values()])
    if not rule and how != EQUAL:
        count = sum(mask is not None for _, mask in pairs.values())
        notes = (f"{folder}: masks are found by pairing {how} ({count} pairs)", *notes)
    return Found(tuple(pairs.values()), tuple(left_out), tuple(unused), "", notes, tuple(pairs))


def _several(files: Files, used: Container[str | None]) -> list[str]:
    return [
        f"{name} ({', '.join(path.name for path in paths)})"
        for name, paths in files.items()
        if len(paths) > 1 and name in used
    ]


def _require_partners(
    folder: Path, how: Pairing, twice: list[str], alone: list[str], unused: list[str]
) -> None:
    """Raises DataError where there are files that are alone, or several of one name."""
    if twice:
        raise DataError(f"{folder}: one name, several files; keep one of each: {twice[:20]}")
    if alone:
        shown = "\n  ".join(alone[:20])
        hint = "".join(f"\n  (not used: {line})" for line in unused[:20])
        raise DataError(
            f"{folder}: {len(alone)} files without a partner; {how.remedy}, so add or remove, or "
            f"set config.data.pairing:\n  {shown}{hint}"
        )


def note_unmasked(where: Path, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """A line for the report, where images have no mask."""
    unmasked = [image for image, mask in pairs if mask is None]
    such = f"{where}: {len(unmasked)} images without a mask are background, such as"
    return (f"{such} {unmasked[0]}",) if unmasked else ()


def _list(folder: Path, subfolders: bool, other: Path) -> Listing | str:
    """The images in a folder, without those in `other` if it lies below; or why there are none."""
    if not folder.is_dir():
        return f"{folder}: no such folder: {describe_missing(folder)}"
    found, below = list_images(folder), other.resolve()
    if folder.resolve() in below.parents:
        places = {path: path.parent.resolve() for path in found.images}
        kept = [path for path, at in places.items() if below not in (at, *at.parents)]
        found = found._replace(images=kept)
    if not subfolders:
        deep = [path for path in found.images if path.parent != folder]
        reasons = (f"{path}: in a folder of {folder} (config.data.subfolders)" for path in deep)
        found = Listing([p for p in found.images if p.parent == folder], [*found.unused, *reasons])
    if found.images:
        return found
    others = f" (not used: {', '.join(found.unused[:5])})" if found.unused else ""
    return f"{folder}: holds no file ending in {', '.join(sorted(SUFFIXES))}{others}"


def name_of(path: Path, folder: Path) -> str:
    """What an image shares with its mask: the path below their folders, without the suffix.

    In one Unicode form, for a Mac may have written one of the folders.
    """
    below = path.relative_to(folder).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", below)


def by_name(listing: Listing, folder: Path) -> Files:
    """The images of a folder, by `name_of`."""
    found = defaultdict(list)
    for path in listing.images:
        found[name_of(path, folder)].append(path)
    return found
