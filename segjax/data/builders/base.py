"""What the TFDS builders share: files to ArrayRecord, without TensorFlow or network."""

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import tensorflow_datasets as tfds
from PIL import Image

from segjax.data.decode import decode_example, decode_mask, read
from segjax.data.folders import Pair
from segjax.data.label_table import TABLES
from segjax.errors import DataError

JPEG = b"\xff\xd8"  # how such a file begins


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples of `image`, the file as it is, and `label`, raw mask ids, in the order of `pairs`.

    A subclass says where its files are, by split; every example is decoded once, so that a faulty
    file is named here and not in training.
    """

    VERSION = tfds.core.Version("1.0.0")
    TABLE: ClassVar[str]  # of segjax.data.label_table.TABLES
    RAW_NAMES: ClassVar[Sequence[str]]  # of the mask values 0, 1, …, for other readers of TFDS
    HOMEPAGE: ClassVar[str]

    @classmethod
    @abstractmethod
    def pairs(cls, source: Path) -> dict[str, list[Pair]]:
        """The image and mask files of every split; DataError for what is missing in `source`."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.LabeledImage(labels=[*self.RAW_NAMES], shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = self.pairs(Path(dl_manager.manual_dir))
        return {split: self._generate_examples(pairs) for split, pairs in splits.items()}

    def _generate_examples(self, pairs: list[Pair]) -> Iterator[tuple[int, dict[str, bytes]]]:
        for index, pair in enumerate(pairs):
            yield index, record(*pair, self.TABLE)


def record(image: Path, mask: Path, table: str) -> dict[str, bytes]:
    """The files as TFDS stores them; DataError for what segjax could not train on."""
    content, mask_content = image.read_bytes(), mask.read_bytes()
    example = decode_example(content, mask_content, TABLES[table], str(image), str(mask)).example
    # TFDS reads no GIF, and a palette as it likes, whatever the files are called.
    if not content.startswith(JPEG):
        found = read(content, str(image))
        if found.largest != 255:
            raise DataError(
                f"{image}: {found.kind}; TFDS keeps 8 bits: train on the files (source=folder)"
            )
        content = cv2.imencode(".png", example["image"][..., ::-1])[1].tobytes()
    # TFDS reads a palette PNG back as colours, so ids are stored as grey values.
    ids = decode_mask(mask_content, str(mask), as_colors=False)
    encoded = io.BytesIO()
    Image.fromarray(ids.astype("uint8")).save(encoded, "PNG")
    return {"image": content, "label": encoded.getvalue()}
