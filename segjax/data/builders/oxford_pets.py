"""Oxford-IIIT Pet with trimaps for TFDS, from the unpacked archives images and annotations."""

from pathlib import Path

from segjax.data.builders.base import SegmentationBuilder
from segjax.data.builders.lists import listed_pairs, read_names
from segjax.data.division import draw
from segjax.data.folders import Pair

VAL_SHARE = 0.1
STRUCTURE = "images/NAME.jpg, annotations/trimaps/NAME.png and annotations/{trainval,test}.txt"


class OxfordPets(SegmentationBuilder):
    """Cats and dogs: 3,680 images for training and validation, 3,669 for the test.

    Trimaps hold 1 for the pet, 2 for the background, and 3 for the border between them, where
    the annotators did not decide; segjax learns all three. (TensorFlow's segmentation tutorial has
    another legend, with border and background exchanged, and scores the accuracy of pixels at
    128×128: its numbers are not comparable.) The split val is about a tenth of the official
    trainval, each image by its name's hash, so that it is the same whatever else the lists hold;
    test is the official one.
    """

    TABLE = "oxford_pets"
    RAW_NAMES = ("(unused)", "pet", "background", "border")
    HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/pets"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"manual_dir holds {STRUCTURE}"

    @classmethod
    def pairs(cls, source: Path) -> dict[str, list[Pair]]:
        """The three splits, each in the order of its official list."""
        lists = source / "annotations"
        trainval, test = (read_names(lists / f"{n}.txt", STRUCTURE) for n in ("trainval", "test"))
        val = [name for name in trainval if draw(0, name) < VAL_SHARE]
        train = [name for name in trainval if name not in set(val)]
        return {
            split: listed_pairs(names, source / "images", source / "annotations/trimaps")
            for split, names in (("train", train), ("val", val), ("test", test))
        }
