"""Which pairs of an image and a mask a split has: by folders, by a list, or by shares of either."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax.data import groups, lists
from segjax.data.division import divide
from segjax.data.folders import LAYOUT, Found, is_one_folder, note_unmasked, pair_files
from segjax.errors import ConfigError, DataError


def find_pairs(config: ConfigDict, split: str) -> Found:
    """Image and mask files of a split.

    Where ROOT/{images,masks} is not split into folders it is divided, see `division`.
    Raises DataError for a missing partner, folder or split.
    """
    root = Path(config.root)
    if config.list:
        return _listed(config, split)
    is_split = _has_split_folders(config)
    if is_split and config.folds:
        raise ConfigError(
            f"config.data.folds is {config.folds}, but {config.root} is divided already, into "
            "folders such as train; set folds=0, or put all files into ROOT/images and "
            "ROOT/masks"
        )
    folder, used = root, {root}
    if is_split:
        folder = _split_folder(config, split)
        used = {_split_folder(config, name) for name in config.splits if config.splits[name]}
    found = _with_other_folders(pair_files(folder, **options_of(config)), root, used)
    found = found._replace(groups=groups.of_names(found.names, config.group_by))
    return found if is_split else _divided(config, split, found)


def options_of(config: ConfigDict) -> dict[str, Any]:
    """What `pair_files` and `pair_folders` take of the data section."""
    return {
        "skip": config.on_error == "skip",
        "subfolders": config.subfolders,
        "rule": config.pairing,
        "background": config.missing_mask == "background",
    }


def _listed(config: ConfigDict, split: str) -> Found:
    """The pairs of config.data.list."""
    root = Path(config.root)
    listed = lists.read(config)
    if listed.faults and not (config.on_error == "skip" and listed.rows):
        shown = "\n  ".join(listed.faults[:20])
        raise DataError(f"{len(listed.faults)} lines cannot be used:\n  {shown}")
    rows = sorted(listed.rows, key=lambda row: row.name)
    found = Found(
        tuple((root / row.image, root / row.mask if row.mask else None) for row in rows),
        left_out=tuple(listed.faults),
        names=tuple(row.name for row in rows),
    )
    found = found._replace(notes=note_unmasked(root / config.list, found.pairs))
    found = found._replace(
        groups=tuple(row.group for row in rows if row.group)
        or groups.of_names(found.names, config.group_by)
    )
    if not listed.is_split and config.splits[split] == ".":
        return found
    if not listed.is_split:
        return _divided(config, split, found)
    if config.folds:
        raise ConfigError(
            f"config.data.folds is {config.folds}, but {config.list} has a column split; set "
            "folds=0, or leave the column out"
        )
    found = _only(found, {row.name for row in rows if row.split == config.splits[split]})
    if not found.pairs:
        raise DataError(
            f"{root / config.list}: no line of split {config.splits[split]!r}; add some"
        )
    return found


def _divided(config: ConfigDict, split: str, found: Found) -> Found:
    """The part of a folder, or a list, without splits."""
    parts = divide(config, found.names, found.groups)
    count = f"{len(found.names)} images"
    if found.groups:
        count += f" in {len({*found.groups})} groups"
    if not parts[split]:
        shares = f"val_fraction = {config.val_fraction}"
        raise DataError(
            f"{config.root}: split {split!r} is empty: {count} with "
            f"{f'folds = {config.folds}' if config.folds else shares} "
            f"and test_fraction = {config.test_fraction}; change these"
        )
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    division = f"{config.root} is divided by seed {config.seed}: {count}, {counts}"
    return _only(found, {*parts[split]})._replace(division=division)


def _only(found: Found, names: set[str]) -> Found:
    """The pairs of these names, sorted by their paths."""
    chosen = [i for i, name in enumerate(found.names) if name in names]
    chosen.sort(key=lambda i: found.pairs[i][0])
    parts = (found.pairs, found.names, found.groups)
    pairs, names, of_groups = (tuple(part[i] for i in chosen if part) for part in parts)
    return found._replace(pairs=pairs, names=names, groups=of_groups)


def has_folder_split(config: ConfigDict, split: str) -> bool:
    """Whether the folders, the list, or the shares that divide one, have this split."""
    if config.list:
        listed = lists.read(config)
        if listed.is_split:
            return any(row.split == config.splits[split] for row in listed.rows)
    elif _has_split_folders(config):
        return bool(config.splits[split]) and _split_folder(config, split).is_dir()
    return split != "test" or config.test_fraction > 0


def _with_other_folders(found: Found, root: Path, used: set[Path]) -> Found:
    """With a line for every folder that looks like data, and is none of those that are used."""
    others = [p for p in (root, *sorted(root.iterdir())) if p not in used]
    lines = [f"{p / 'images'}: beside the folders used" for p in others if (p / "images").is_dir()]
    return found._replace(unused=(*found.unused, *lines))


def _has_split_folders(config: ConfigDict) -> bool:
    root = Path(config.root)
    if not config.root or not root.is_dir():
        here = "" if Path(config.root).is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"config.data.root = {config.root!r}: no such folder{here}; {LAYOUT}")
    if _split_folder(config, "train").is_dir():
        return True
    return not ((root / "images").is_dir() or is_one_folder(root, config.pairing))


def _split_folder(config: ConfigDict, split: str) -> Path:
    return Path(config.root) / config.splits[split]
