import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from segjax import defaults
from segjax.data.prepare import build
from segjax.data.sources import build_source, has_split
from segjax.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A CamVid in miniature: JPEG and PNG images, grey and palette masks."""
    root = tmp_path_factory.mktemp("raw")
    for seed, split in enumerate(SPLITS):
        rng = np.random.default_rng(seed)
        for i in range(4):
            write(root / split, i, rng.integers(0, 256, (6, 8, 3), np.uint8), rng)
    return root


def write(folder, index, image, rng):
    mask = Image.fromarray(rng.integers(0, 12, image.shape[:2], np.uint8))
    if index % 2:
        mask = mask.convert("P")
        mask.putpalette(rng.integers(0, 256, 768).tolist())
    for part, picture, suffix in (
        ("images", Image.fromarray(image), ("jpg", "png")[index % 2]),
        ("masks", mask, "png"),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        picture.save(folder / part / f"{index}.{suffix}")


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    return build("camvid", str(raw), str(tmp_path_factory.mktemp("tfds")))


def config_of(source, root, **changes):
    config = defaults.get_config().data
    fields = {"source": source, "root": str(root), "name": "camvid", "classes": "camvid"}
    config.update(fields | {"label_key": "label"} | changes)
    return config


@pytest.mark.parametrize("split", SPLITS)
def test_round_trip_keeps_pixels_ids_and_order(raw, prepared, split):
    tfds, files = (
        build_source(config_of("tfds", prepared.parents[1]), split),
        build_source(config_of("folder", raw), split),
    )
    assert len(tfds) == len(files) == 4
    assert tfds.name(2) == f"camvid/{split}[2]"
    for i in range(4):
        for key in ("image", "label"):
            np.testing.assert_array_equal(tfds[i][key], files[i][key])


def test_other_readers_of_tfds_see_ids_too(raw, prepared):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared)
    label = builder.as_data_source("train")[1]["label"]
    np.testing.assert_array_equal(label[..., 0], Image.open(raw / "train/masks/1.png"))
    assert builder.info.features["label"].names[11] == "Unlabelled"


def test_a_directory_slices_and_pickles(prepared):
    config = config_of("tfds", "", name=str(prepared))
    config.splits.val = "train[75%:]"
    source = build_source(config, "val")
    assert len(source) == 1
    again = cloudpickle.loads(cloudpickle.dumps(source))
    np.testing.assert_array_equal(again[0]["image"], source[0]["image"])
    assert has_split(config, "test")
    config.splits.test = "holdout"
    assert not has_split(config, "test")


def test_faults_are_named(raw, prepared, tmp_path):
    root = prepared.parents[1]
    with pytest.raises(DataError, match=r"'camvid': .* segjax\.prepare camvid --source DIR"):
        build_source(config_of("tfds", tmp_path), "train")
    with pytest.raises(DataError, match=r"'voc2012': .*segjax\.prepare voc2012 --source DIR"):
        build_source(config_of("tfds", tmp_path, name="voc2012"), "train")
    with pytest.raises(DataError, match=r"'pets': .* below .*`tfds build pets"):
        build_source(config_of("tfds", tmp_path, name="pets"), "train")
    with pytest.raises(ConfigError, match=r"config\.data\.label_key = 'mask': .*'label'"):
        build_source(config_of("tfds", root, label_key="mask"), "train")
    with pytest.raises(ConfigError, match=r"config\.data\.splits\.train = 'tset': .*'test'"):
        build_source(config_of("tfds", root, splits={"train": "tset"}), "train")
    with pytest.raises(DataError, match=r"/train: no such folder"):
        build("camvid", str(tmp_path), str(tmp_path))


def test_command_line_prepares_without_tensorflow(raw, tmp_path):
    code = "import sys; from segjax.prepare import main; main(); print(*sys.modules)"
    arguments = ["camvid", "--source", str(raw), "--data_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    assert f"--config.data.root={tmp_path} --config.data.classes=camvid" in done.stdout
    assert "tensorflow" not in done.stdout.splitlines()[-1].split()
