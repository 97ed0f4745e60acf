"""Folders of images and masks: which files belong together, and to which split."""

import hashlib
import unicodedata
from collections import defaultdict
from pathlib import Path

from ml_collections import ConfigDict

from segjax.data.decode import SUFFIXES
from segjax.errors import ConfigError, DataError

Pair = tuple[Path, Path]  # of an image and its mask
LAYOUT = "expected ROOT/{train,val,test}/{images,masks}/NAME.* or ROOT/{images,masks}/NAME.*"


def folder_pairs(config: ConfigDict, split: str) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Image and mask paths of a split, and, with on_error='skip', the files that pair with none.

    Where ROOT/{images,masks} is not split into folders, each name's hash with the seed decides.
    Raises DataError for a missing partner, folder or split.
    """
    skip = config.on_error == "skip"
    folds = _folds(config)
    if _has_split_folders(config):
        if folds:
            raise ConfigError(
                f"config.data.folds is {folds}, but {config.root} is divided already, into folders "
                "such as train; set folds=0, or put all files into ROOT/images and ROOT/masks"
            )
        pairs, left_out = pair_files(_split_folder(config, split), skip)
        return tuple(pairs), tuple(left_out)
    pairs, left_out = pair_files(Path(config.root).expanduser(), skip)
    parts = _divide_into_folds(config, pairs) if folds else _divide(config, pairs)
    if not parts[split]:
        shares = f"folds = {folds}" if folds else f"val_fraction = {config.val_fraction}"
        raise DataError(
            f"{config.root}: split {split!r} is empty: {len(pairs)} images with {shares} "
            f"and test_fraction = {config.test_fraction}; change these"
        )
    return tuple(sorted(parts[split])), tuple(left_out)


def has_folder_split(config: ConfigDict, split: str) -> bool:
    """Whether the folders, or the shares that divide one, have this split."""
    if _has_split_folders(config):
        return bool(config.splits[split]) and _split_folder(config, split).is_dir()
    return split != "test" or config.test_fraction > 0


def _divide(config: ConfigDict, pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Shares of about the given size; images added later move no other to another split."""
    val, test = config.val_fraction, config.val_fraction + config.test_fraction
    parts = {"train": [], "val": [], "test": []}
    for pair in pairs:
        at = draw(config.seed, pair[0].stem)
        parts["val" if at < val else "test" if at < test else "train"].append(pair)
    return parts


def _divide_into_folds(config: ConfigDict, pairs: list[Pair]) -> dict[str, list[Pair]]:
    """The test share, and of the rest, in the order of the hashes, every `folds`-th for val."""
    drawn = sorted((draw(config.seed, image.stem), (image, mask)) for image, mask in pairs)
    test = [pair for at, pair in drawn if at < config.test_fraction]
    rest = [pair for at, pair in drawn if at >= config.test_fraction]
    val = rest[config.fold :: config.folds]
    return {"train": sorted(set(rest) - set(val)), "val": val, "test": test}


def _folds(config: ConfigDict) -> int:
    folds = config.get("folds", 0)  # configurations saved by earlier versions have no such field
    if folds and not (folds >= 2 and 0 <= config.fold < folds):
        raise ConfigError(
            f"config.data.folds is {folds} and config.data.fold {config.fold}; folds must be 0 "
            "(off) or at least 2, and fold one of 0 … folds - 1"
        )
    return folds


def draw(seed: int, stem: str) -> float:
    """A number in [0, 1) for a file's name.

    A hash depends on neither NumPy's version nor the other files.
    """
    name = unicodedata.normalize("NFC", stem)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def pair_files(folder: Path, skip: bool = False) -> tuple[list[Pair], list[str]]:
    """FOLDER/images/NAME.* with FOLDER/masks/NAME.*, sorted, and what was left out with `skip`.

    Raises DataError that names whatever is alone or ambiguous, without `skip`.
    """
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    twice = [
        f"{stem} ({', '.join(path.name for path in paths)})"
        for found in (images, masks)
        for stem, paths in found.items()
        if len(paths) > 1
    ]
    alone = [f"{images[s][0]} has no mask" for s in sorted(images.keys() - masks.keys())]
    alone += [f"{masks[s][0]} has no image" for s in sorted(masks.keys() - images.keys())]
    if twice and not skip:
        raise DataError(f"{folder}: one name, several files; keep one of each: {twice[:20]}")
    if alone and not skip:
        shown = "\n  ".join(alone[:20])
        raise DataError(
            f"{folder}: {len(alone)} files without a partner; image and mask must share the name "
            f"up to the suffix, so add or remove:\n  {shown}"
        )
    both = [(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]
    pairs = [(image[0], mask[0]) for image, mask in both if len(image) == len(mask) == 1]
    if not pairs:
        raise DataError(f"{folder}: no image has a mask of its name; {LAYOUT}")
    return pairs, [*(f"{names}: one name, several files" for names in twice), *alone]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {LAYOUT}")
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        is_image = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        if is_image and path.is_file():
            # One name may be spelled in two Unicode forms, as when a Mac wrote one of the folders.
            found[unicodedata.normalize("NFC", path.stem)].append(path)
    if not found:
        raise DataError(
            f"{folder}: holds no file ending in {', '.join(sorted(SUFFIXES))}; {LAYOUT}"
        )
    return found


def _has_split_folders(config: ConfigDict) -> bool:
    root = Path(config.root).expanduser()
    if not config.root or not root.is_dir():
        raise DataError(f"config.data.root = {config.root!r}: no such folder; {LAYOUT}")
    return _split_folder(config, "train").is_dir() or not (root / "images").is_dir()


def _split_folder(config: ConfigDict, split: str) -> Path:
    return Path(config.root).expanduser() / config.splits[split]
