"""Which data a run is scored on: a split of its own, or other labelled data, whole.

A run's own data are known by what training recorded in data.json: the hash of the split's pixels
and labels or, of runs before there was one, the number of images and the pixels of every class.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from segjax.data import check, lists, pixels
from segjax.data.folders import is_one_folder, pair_folders
from segjax.data.label_table import LabelTable
from segjax.data.sources import FolderSource, Source, build_source
from segjax.data.splits import options_of
from segjax.errors import ConfigError, DataError
from segjax.run import workdir
from segjax.runtime.files import read_text

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class Scored(NamedTuple):
    """name: of a report on it; split: which one of `report` and `config`, the data section.

    source: in place of what `config` names; place: where the data are, if not where it says.
    """

    name: str
    split: str
    config: ConfigDict
    report: check.Report
    source: Source | None = None
    place: dict[str, str] | None = None


def find(
    folder: Path | None,
    config: ConfigDict,
    table: LabelTable,
    split: str,
    root: str | None = None,
    images: str | None = None,
    masks: str | None = None,
) -> Scored:
    """The data that the run in `folder` is to be scored on, checked.

    Args:
      folder: None if there is no run, but weights alone; all data are other data then.
      config: the run's data section.
      root: where the run's own data are now, or the root of other data: of these the split, or all
        if these are not split. images, masks: folders of other data, scored whole.

    Raises ConfigError for other classes than the run's, DataError for what the check finds.
    """
    config = config.copy_and_resolve_references()
    config.allow_missing_classes = True  # of the training split, which need not be opened here
    if images or masks:
        return _of_folders(config, table, images, masks)
    recorded = _recorded(folder) if folder else {}
    if root and not (config.root and Path(root).resolve() == Path(config.root).resolve()):
        config.root = root
        moved = _moved(config, table, split, recorded)
        if moved:
            workdir.require_division(folder, moved.report.divided)
        return moved or _of_root(config, table, split)
    report = _checked(config, split)
    _require_classes(report.table, table, config.root, same_values=True)
    workdir.require_division(folder, report.divided)
    if _recorded_of(recorded, split) and not _is_recorded(report, split, recorded):
        then = recorded["num_images"][split]
        log.warning(
            "%s is not what it was when the run was trained: %d images then, %d now, or other "
            "pixels or labels",
            *(split, then, report.num_images[split]),
        )
    return Scored(split, split, config, report)


def _of_folders(
    config: ConfigDict, table: LabelTable, images: str | None, masks: str | None
) -> Scored:
    if not (images and masks):
        raise ConfigError("--images and --masks are two folders of the same data; give both")
    table = table_of(Path(masks).absolute().parent, table)
    # The check names what is left out.
    options = options_of(config) | {"skip": True, "subfolders": True}
    found = pair_folders(Path(images), Path(masks), **options)
    source = FolderSource(table, *found, pixels.of(config))
    report = check.check(config, splits=("test",), sources={"test": source}, trained=True)
    folder = Path(images).resolve()
    name = _name((folder.parent if folder.name == "images" else folder).name)
    return Scored(name, "test", config, report, source, {"images": images, "masks": masks})


def _moved(
    config: ConfigDict, table: LabelTable, split: str, recorded: dict[str, Any]
) -> Scored | None:
    """The run's own data at another root; None if these are others."""
    if not _recorded_of(recorded, split):
        return None
    try:
        if config.source == "folder":
            config.classes = table_of(Path(config.root), table).to_json()
        then = recorded["num_images"][split] + len(recorded["skipped"][split])
        if len(build_source(config, split)) != then:
            return None
        report = _checked(config, split)
    except (DataError, ConfigError):  # raised again by _of_root
        return None
    if report.table.names != table.names or not _is_recorded(report, split, recorded):
        return None
    return Scored(split, split, config, report)


def _of_root(config: ConfigDict, table: LabelTable, split: str) -> Scored:
    root = Path(config.root)
    part = root / (config.splits[split] if config.source == "folder" else split)
    config.group_by = ""  # nothing is divided
    is_listed = bool(config.list) and (root / config.list).is_file()
    if is_listed:
        is_flat = not lists.read(config).is_split
    else:
        config.list = ""
        is_flat = not part.is_dir() and _holds_pairs(root, config)
    if is_listed or is_flat or _holds_pairs(part, config) or config.source == "shapes":
        if config.source != "folder":
            config.splits.update({name: name for name in SPLITS})
        config.source, config.subfolders = "folder", True
        config.classes = table_of(root, table).to_json()
    name = root.resolve().name if is_flat else f"{root.resolve().name}_{split}"
    place = None
    if is_flat:
        config.folds = 0
        config.splits.update(dict.fromkeys(SPLITS, "."))
        place = {part: str(root / part) for part in ("images", "masks")}
        if not (root / "images").is_dir():
            place = {"images": str(root), "masks": str(root / config.list)}
        log.warning("All images of %s are scored, also any that the run was trained on", root)
    report = check.check(config, splits=(split,), trained=True)
    _require_classes(report.table, table, config.root)
    return Scored(_name(name), split, config, report, place=place)


def _holds_pairs(folder: Path, config: ConfigDict) -> bool:
    return (folder / "images").is_dir() or (
        folder.is_dir() and is_one_folder(folder, config.pairing)
    )


def _checked(config: ConfigDict, split: str) -> check.Report:
    # Training leaves out its images that are in val or test too.
    all_splits = split == "train" and config.on_error == "skip"
    return check.check(config, splits=SPLITS if all_splits else (split,), trained=True)


def _name(folder: str) -> str:
    """The name of a report on other data, which is never that of one of the run's splits."""
    return f"other_{folder}" if folder.startswith(SPLITS) else folder


def table_of(folder: Path, table: LabelTable) -> LabelTable:
    """What masks mean: by the classes.json of the folder if there is one, else as trained.

    Raises ConfigError where that names other classes.
    """
    path = folder / "classes.json"
    if not path.is_file():
        return table
    found = LabelTable.from_json(read_text(path), str(path))
    _require_classes(found, table, str(path))
    return found


def _require_classes(
    found: LabelTable, table: LabelTable, where: str, same_values: bool = False
) -> None:
    if found.names != table.names or (same_values and found != table):
        raise ConfigError(
            f"{where}: the label table differs from the one that was trained; evaluate on data "
            f"with the same classes: {', '.join(table.names)}"
        )


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _recorded_of(recorded: dict[str, Any], split: str) -> bool:
    return split in recorded.get("num_images", {})


def _is_recorded(report: check.Report, split: str, recorded: dict[str, Any]) -> bool:
    if "sha256" in recorded:
        return report.sha256[split] == recorded["sha256"][split]
    pixels = recorded["pixel_counts"][split] == report.pixel_counts[split].tolist()
    return pixels and recorded["num_images"][split] == report.num_images[split]
