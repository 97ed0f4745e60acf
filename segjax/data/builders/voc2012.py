"""Pascal VOC 2012 segmentation for TFDS, from the official archive or its VOCdevkit folder."""

import tarfile
import tempfile
from pathlib import Path

from segjax.data.builders.base import SegmentationBuilder
from segjax.data.builders.lists import listed_pairs, read_names
from segjax.data.folders import Pair
from segjax.data.label_table import TABLES
from segjax.errors import DataError

ARCHIVE = "VOCtrainval_11-May-2012.tar"
STRUCTURE = f"VOCdevkit/VOC2012, or of {ARCHIVE}"
AUGMENTED = "SegmentationClassAug"


class Voc2012(SegmentationBuilder):
    """Twenty kinds of objects and background: 1,464 / 1,449 images; 255 outlines them and is void.

    Where the folder SegmentationClassAug, the masks of the Semantic Boundaries Dataset, lies in
    --source or in VOC2012, there is also the split trainaug: the names in trainaug.txt if it lies
    in ImageSets/Segmentation, else all of the folder, and never one of val (10,582 images).
    """

    TABLE = "voc"
    RAW_NAMES = TABLES["voc"].names
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"manual_dir holds {STRUCTURE}"

    @classmethod
    def pairs(cls, source: Path) -> dict[str, list[Pair]]:
        """The official splits, in the order of their lists, and trainaug where there is one."""
        root = find_root(source)
        lists, images = root / "ImageSets/Segmentation", root / "JPEGImages"
        names = {s: read_names(lists / f"{s}.txt", STRUCTURE) for s in ("train", "val", "trainval")}
        splits = {
            split: listed_pairs(names[split], images, root / "SegmentationClass") for split in names
        }
        augmented = next((f / AUGMENTED for f in (source, root) if (f / AUGMENTED).is_dir()), None)
        if augmented:
            listed = lists / "trainaug.txt"
            found = sorted(path.stem for path in augmented.glob("*.png"))
            wanted = read_names(listed, STRUCTURE) if listed.is_file() else found
            trained = [name for name in wanted if name not in set(names["val"])]
            splits["trainaug"] = listed_pairs(trained, images, augmented)
        return splits


def find_root(source: Path) -> Path:
    """The folder VOC2012 in or above which `source` points; unpacks the archive if need be."""
    for root in (source, source / "VOC2012", source / "VOCdevkit/VOC2012"):
        if (root / "ImageSets/Segmentation").is_dir():
            return root
    archive = source / ARCHIVE
    if not archive.is_file():
        raise DataError(f"{source}: holds neither VOCdevkit/VOC2012 nor {ARCHIVE}")
    try:
        _unpack(archive, source)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{archive}: {error}; download it again, or give a --source where it is unpacked"
        ) from error
    return source / "VOCdevkit/VOC2012"


def _unpack(archive: Path, where: Path) -> None:
    # Moved to its place when complete: an interrupted unpacking leaves no half of a dataset.
    with tempfile.TemporaryDirectory(dir=where) as folder, tarfile.open(archive, "r:") as tar:
        tar.extractall(folder, filter="data")
        unpacked = Path(folder) / "VOCdevkit"
        if not (unpacked / "VOC2012/ImageSets/Segmentation").is_dir():
            raise DataError(f"{archive}: holds no VOCdevkit/VOC2012; download {ARCHIVE} again")
        unpacked.rename(where / "VOCdevkit")
