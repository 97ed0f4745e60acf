"""Data and segmenters of refine.py: four fields, each with a small network at a low resolution."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict
from PIL import Image

from configs import camvid, folder, quickstart
from segjax.data import shapes
from segjax.runtime.files import write_json

# Height and width that the segmenter sees, epochs of its training, learning rate.
SETTINGS = {
    "camvid": ((96, 128), 40, 4e-3),
    "camvid-192": ((192, 256), 30, 4e-3),
    "nuclei": ((128, 128), 60, 4e-3),
    "satellite": ((256, 256), 60, 4e-3),
    "shapes": ((64, 64), 10, 8e-3),
}
SATELLITE = {
    "classes": ["building", "land", "road", "vegetation", "water"],
    "colors": [[60, 16, 152], [132, 41, 246], [110, 193, 228], [254, 221, 58], [226, 169, 41]],
    "void_colors": [[155, 155, 155], [0, 0, 0]],
}
NUM_SHAPES = {"train": 1200, "val": 100, "test": 200}
DRAWN = (256, 256)


def prepare(field: str, source: Path, out: Path) -> Path:
    """The folder that a field is read from; links into `source`, and what is drawn, go to `out`."""
    if field.startswith("camvid"):
        return source
    if (out / "classes.json").exists():
        return out
    if field == "nuclei":
        _link(source.glob("*/*.png"), out, lambda path: path.parent.name)
        table = {"classes": ["background", "nucleus"], "values": [0, 1]}
    elif field == "satellite":
        _link(source.glob("*/tile*"), out, lambda path: f"{_split(path)}/{path.parent.name}")
        table = SATELLITE
    else:
        _draw(out)
        table = json.loads(shapes.table().to_json())
    write_json(out / "classes.json", table)
    return out


def _split(path: Path) -> str:
    """By area: neighbouring parts of one area overlap in content."""
    return {"tile7": "val", "tile8": "test"}.get(path.name.split("_")[0], "train")


def _link(files: Iterable[Path], out: Path, folder_of: Callable[[Path], str]) -> None:
    for path in files:
        target = out / folder_of(path) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())


def _draw(out: Path) -> None:
    for split, count in NUM_SHAPES.items():
        for kind in ("images", "masks"):
            (out / split / kind).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            example = shapes.draw(0, shapes.FIRST_IMAGE[split] + i, DRAWN)
            Image.fromarray(example["image"]).save(out / split / "images" / f"{i:05}.png")
            Image.fromarray(example["label"]).save(out / split / "masks" / f"{i:05}.png")


def segmenter(field: str, seed: int, root: Path) -> ConfigDict:
    """MobileNetV2 of width 0.35 under a light decoder, 1.3 million parameters."""
    config = camvid.get_config("cpu") if field.startswith("camvid") else folder.get_config()
    config.data.root = str(root)
    config.data.size, config.num_epochs, config.optim.learning_rate = SETTINGS[field]
    config.data.allow_missing_classes = True
    config.model = quickstart.get_config().model
    config.batch_size = 8
    config.seed = seed
    config.eval.every_epochs = 10
    config.data.val_fraction, config.data.test_fraction = 0.2, 0.3  # of nuclei: 60 are trained on
    if field in ("nuclei", "satellite"):
        config.augment.flip_vertical = True
    return config
