"""Folders of images and masks: which files belong together, and to which split."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from segjax.data.division import divide
from segjax.data.listing import SUFFIXES, Listing, describe_missing, list_images
from segjax.errors import ConfigError, DataError

Pair = tuple[Path, Path]  # of an image and its mask
LAYOUT = "expected ROOT/{train,val,test}/{images,masks}/NAME.* or ROOT/{images,masks}/NAME.*"


class Found(NamedTuple):
    """The pairs of a split, sorted, and what was found besides.

    left_out: with on_error='skip', files without a partner or with several, a line each.
    unused: what is no image, a line each.
    division: where one folder is divided, how many images each split has.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    division: str = ""


def find_pairs(config: ConfigDict, split: str) -> Found:
    """Image and mask files of a split.

    Where ROOT/{images,masks} is not split into folders it is divided, see `division`.
    Raises DataError for a missing partner, folder or split.
    """
    root = Path(config.root)
    options = {"skip": config.on_error == "skip", "subfolders": config.subfolders}
    if _has_split_folders(config):
        if config.folds:
            raise ConfigError(
                f"config.data.folds is {config.folds}, but {config.root} is divided already, into "
                "folders such as train; set folds=0, or put all files into ROOT/images and "
                "ROOT/masks"
            )
        used = {_split_folder(config, name) for name in config.splits if config.splits[name]}
        return _with_other_folders(pair_files(_split_folder(config, split), **options), root, used)
    found = _with_other_folders(pair_files(root, **options), root, {root})
    named = dict(zip(names_of(found.pairs, root), found.pairs, strict=True))
    parts = divide(config, [*named])
    if not parts[split]:
        shares = f"val_fraction = {config.val_fraction}"
        raise DataError(
            f"{config.root}: split {split!r} is empty: {len(named)} images with "
            f"{f'folds = {config.folds}' if config.folds else shares} "
            f"and test_fraction = {config.test_fraction}; change these"
        )
    pairs = tuple(sorted(named[name] for name in parts[split]))
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    division = f"{config.root} is divided by seed {config.seed}: {len(named)} images, {counts}"
    return found._replace(pairs=pairs, division=division)


def names_of(pairs: Iterable[Pair], root: Path) -> list[str]:
    """The names by which ROOT/{images,masks} is divided."""
    return [name_of(image, root / "images") for image, _ in pairs]


def has_folder_split(config: ConfigDict, split: str) -> bool:
    """Whether the folders, or the shares that divide one, have this split."""
    if _has_split_folders(config):
        return bool(config.splits[split]) and _split_folder(config, split).is_dir()
    return split != "test" or config.test_fraction > 0


def pair_files(folder: Path, skip: bool = False, subfolders: bool = True) -> Found:
    """FOLDER/images/NAME.* with FOLDER/masks/NAME.*: see `pair_folders`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: {describe_missing(folder)}; {LAYOUT}")
    return pair_folders(folder / "images", folder / "masks", skip, subfolders)


def pair_folders(
    folder: Path, mask_folder: Path, skip: bool = False, subfolders: bool = True
) -> Found:
    """FOLDER/NAME.* with MASK_FOLDER/NAME.*; a NAME may lie in folders of these.

    Raises DataError that names whatever is alone or ambiguous, without `skip`.
    """
    folders = (folder, mask_folder)
    listings = [_list(each, subfolders, other) for each, other in (folders, folders[::-1])]
    faults = [found for found in listings if isinstance(found, str)]
    if faults:
        raise DataError(f"{'; '.join(faults)}; {LAYOUT}")
    images, masks = map(by_name, listings, folders)
    unused = tuple(line for found in listings for line in found.unused)
    twice = [
        f"{name} ({', '.join(path.name for path in paths)})"
        for found in (images, masks)
        for name, paths in found.items()
        if len(paths) > 1
    ]
    alone = [f"{images[n][0]} has no mask" for n in sorted(images.keys() - masks.keys())]
    alone += [f"{masks[n][0]} has no image" for n in sorted(masks.keys() - images.keys())]
    hint = "".join(f"\n  (not used: {line})" for line in unused[:20])
    both = [(images[name], masks[name]) for name in sorted(images.keys() & masks.keys())]
    pairs = [(image[0], mask[0]) for image, mask in both if len(image) == len(mask) == 1]
    if twice and not (skip and pairs):
        raise DataError(f"{folder}: one name, several files; keep one of each: {twice[:20]}")
    if alone and not (skip and pairs):
        shown = "\n  ".join(alone[:20])
        raise DataError(
            f"{folder}: {len(alone)} files without a partner; image and mask must share the name "
            f"up to the suffix, so add or remove:\n  {shown}{hint}"
        )
    left_out = (*(f"{names}: one name, several files" for names in twice), *alone)
    return Found(tuple(pairs), left_out, unused)


def _with_other_folders(found: Found, root: Path, used: set[Path]) -> Found:
    """With a line for every folder that looks like data, and is none of those that are used."""
    others = [p for p in (root, *sorted(root.iterdir())) if p not in used]
    lines = [f"{p / 'images'}: beside the folders used" for p in others if (p / "images").is_dir()]
    return found._replace(unused=(*found.unused, *lines))


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


def by_name(listing: Listing, folder: Path) -> dict[str, list[Path]]:
    """The images of a folder, by `name_of`."""
    found = defaultdict(list)
    for path in listing.images:
        found[name_of(path, folder)].append(path)
    return found


def _has_split_folders(config: ConfigDict) -> bool:
    root = Path(config.root)
    if not config.root or not root.is_dir():
        here = "" if Path(config.root).is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"config.data.root = {config.root!r}: no such folder{here}; {LAYOUT}")
    return _split_folder(config, "train").is_dir() or not (root / "images").is_dir()


def _split_folder(config: ConfigDict, split: str) -> Path:
    return Path(config.root) / config.splits[split]
