"""Datasets in their own folders, laid out by symbolic links as ROOT/{train,val}/{images,masks}."""

from pathlib import Path
from typing import NamedTuple

from segjax.errors import DataError


class Layout(NamedTuple):
    """Where a dataset keeps its files: folders of splits and patterns; a name is what * ends on."""

    train: str
    val: str
    images: str
    masks: str


# Without a test split: the labels of the official test images are not public.
LAYOUTS = {
    "cityscapes": Layout(
        train="train",
        val="val",
        images="leftImg8bit/{split}/*/*_leftImg8bit.png",
        masks="gtFine/{split}/*/*_gtFine_labelIds.png",
    ),
    "ade20k": Layout(
        train="training",
        val="validation",
        images="images/{split}/*.jpg",
        masks="annotations/{split}/*.png",
    ),
}
ADE20K_FOLDER = "ADEChallengeData2016"  # what its archive unpacks to


def link(dataset: str, source: str, output: str) -> Path:
    """Make OUTPUT/{train,val}/{images,masks} of links into `source`; returns OUTPUT.

    DataError where the source lacks a folder or a file's partner, or the output exists.
    """
    layout = LAYOUTS[dataset]
    root, out = Path(source).resolve(), Path(output).resolve()
    if dataset == "ade20k" and (root / ADE20K_FOLDER).is_dir():
        root /= ADE20K_FOLDER
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it, or name another folder as --output")
    links = {}
    for split, theirs in (("train", layout.train), ("val", layout.val)):
        images = _by_name(root, layout.images.format(split=theirs))
        masks = _by_name(root, layout.masks.format(split=theirs))
        _require_partners(root, images, masks)
        for part, files in (("images", images), ("masks", masks)):
            for name, file in files.items():
                links[out / split / part / f"{name}{file.suffix}"] = file
    for path, file in links.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(file)
    return out


def _by_name(root: Path, pattern: str) -> dict[str, Path]:
    end = pattern.rpartition("*")[2]
    found = {path.name.removesuffix(end): path for path in sorted(root.glob(pattern))}
    if not found:
        raise DataError(f"{root}: holds no {pattern}; --source is where the archives are unpacked")
    return found


def _require_partners(root: Path, images: dict[str, Path], masks: dict[str, Path]) -> None:
    alone = [f"{images[n]} has no mask" for n in sorted(images.keys() - masks.keys())]
    alone += [f"{masks[n]} has no image" for n in sorted(masks.keys() - images.keys())]
    if alone:
        shown = "\n  ".join(alone[:20])
        raise DataError(f"{root}: {len(alone)} files without a partner; unpack again:\n  {shown}")
