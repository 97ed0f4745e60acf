"""`config.data.value_range`: asked for where images would be dark, used wherever they are read."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import test_check
from PIL import Image
from test_masks import by_tifffile

from segjax import defaults, models
from segjax.data.builders.base import record
from segjax.data.check import check
from segjax.data.counts import format_report
from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.data.pixels import RGB
from segjax.data.sources import build_source
from segjax.errors import ConfigError, DataError
from segjax.inference import exporters, networks
from segjax.inference.images import predict_file, predict_images
from segjax.inference.video import predict_video
from segjax.weights.runs import Trained

TABLE = LabelTable.of_names(["background", "cell"])
MASK = np.array([[0, 1, 1, 255], [0, 1, 1, 255]], np.uint8)


def config_of(root, **fields):
    return test_check.config_of(root, bands="rgb", **fields)


def write(root, split, name, highest, dtype=np.uint16):
    # Of another shape in each split, so that no dark image is in two of them.
    mask = MASK if split == "train" else MASK.T
    pixels = np.linspace(0, highest, 24).reshape(*mask.shape, 3).astype(dtype)
    for part, array in (("images", pixels), ("masks", mask)):
        folder = root / split / part
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tif").write_bytes(by_tifffile(array))
    return pixels


def data(root, train, val, dtype=np.uint16):
    (root / "classes.json").write_text('{"classes": ["background", "cell"]}')
    write(root, "val", "b", val, dtype)
    return write(root, "train", "a", train, dtype)


@pytest.mark.parametrize(
    ("highest", "advice"), [(3000, 4095), (4095, 4095), (9000, 16383), (20_000, 20_000), (7, 7)]
)
def test_sixteen_bits_that_are_hardly_used_stop_training_with_advice(tmp_path, highest, advice):
    data(tmp_path, highest, highest // 2)
    with pytest.raises(DataError) as error:
        check(config_of(tmp_path))
    assert f"- train: images of up to 65535 hold no value above {highest}, and" in str(error.value)
    assert str(error.value).count(f"set config.data.value_range=0,{advice}, or 0,65535") == 2
    # What was trained is scored: the range can no longer be changed.
    (warning,) = check(config_of(tmp_path), splits=("val",)).warnings
    assert warning.startswith(f"val: images of up to 65535 hold no value above {highest // 2}")
    # So does a run of an earlier version go on, which had no such field.
    assert len(check(config_of(tmp_path), trained=True).warnings) == 2
    for silent in ((0, advice), (0, 65535)):
        assert check(config_of(tmp_path, value_range=silent)).warnings == []


def test_dark_images_of_eight_bits_are_a_warning(tmp_path):
    data(tmp_path, 255, 60, np.uint8)
    (warning,) = check(config_of(tmp_path)).warnings
    assert warning.startswith("val: images of up to 255 hold no value above 60, and would be dark")
    write(tmp_path, "val", "bright", 64, np.uint8)
    assert check(config_of(tmp_path)).warnings == []


def test_values_beyond_the_range_are_counted_with_their_extremes(tmp_path):
    data(tmp_path, 4000, 5000)
    write(tmp_path, "val", "c", 4500)
    report = check(config_of(tmp_path, value_range=(10, 4095)))
    train, val = sorted(report.warnings)
    assert "train: 1 images, such as " in train and "have values from 0 to 4000; what" in train
    assert "val: 2 images, such as " in val and "have values from 0 to 5000; what lies" in val
    assert "outside config.data.value_range = (10, 4095) is clipped" in val
    lines = format_report(report).splitlines()
    assert "val: 2 × TIFF, 3 bands of 16 bits, values 0 … 5000" in lines


def test_the_report_and_its_cache_say_what_files_hold(tmp_path):
    data(tmp_path, 1.5, 2.5, np.float32)
    with pytest.raises(DataError, match=r"a\.tif: TIFF, 3 bands of float 32 bits, with values from "
                       r"0\.0 to 1\.5; set config\.data\.value_range"):  # fmt: skip
        check(config_of(tmp_path))
    config = config_of(tmp_path, value_range=(0.0, 2.5))
    reports = [format_report(check(config, cache=tmp_path / "check.json")) for _ in range(2)]
    assert "val: 1 × TIFF, 3 bands of float 32 bits, values 0.0 … 2.5" in reports[0]
    assert reports[0] == reports[1]


def test_training_and_prediction_read_the_same_pixels(tmp_path):
    pixels = data(tmp_path, 4095, 4095)
    config = defaults.get_config()
    config.data.update(source="folder", root=str(tmp_path), value_range=(95, 4000))
    expected = np.rint(((pixels - 95.0) * 255 / 3905).clip(0, 255)).astype(np.uint8)
    image = build_source(config.data, "train")[0]["image"]
    np.testing.assert_array_equal(image, expected)

    model = models.build(config.model, len(TABLE.names))
    trained = Trained(model, {"params": {}}, config, TABLE, 1)
    seen = []

    def label(image, mask=None):
        seen.append(image)
        return np.zeros(image.shape[:2], np.uint8)

    model = SimpleNamespace(network=networks.of(trained), table=TABLE, label=label)
    predict_file(model, tmp_path / "train/images/a.tif", tmp_path / "a.png", False, False)
    np.testing.assert_array_equal(seen[0], expected)
    assert exporters.metadata(trained)["value_range"] == [95, 4000]


def test_prediction_says_which_images_are_dark(tmp_path):
    data(tmp_path, 4095, 60_000)
    for limits, split, count in (((), "train", 1), ((), "val", 0), ((0, 4095), "train", 0)):
        network = networks.Network(
            None, TABLE, Fit((32, 32), resizes=True), RGB._replace(value_range=limits)
        )
        model = SimpleNamespace(
            network=network,
            fit=network.fit,
            table=TABLE,
            label=lambda image, mask=None: np.zeros(image.shape[:2], np.uint8),
        )
        out = tmp_path / f"out{count}{split}{len(limits)}"
        summary = predict_images(model, str(tmp_path / split / "images"), out)
        assert len(summary["warnings"]) == count and len(summary["images"]) == 1
        assert json.loads((out / "summary.json").read_text())["warnings"] == summary["warnings"]
        assert all("hold no value above 4095" in line for line in summary["warnings"])


def test_a_video_is_refused_where_files_of_other_values_were_trained_on(tmp_path):
    network = networks.Network(
        None, TABLE, Fit((32, 32), resizes=True), RGB._replace(value_range=(0, 4095))
    )
    with pytest.raises(ConfigError, match=r"value_range = \(0, 4095\), and a video has 8 bits"):
        predict_video(SimpleNamespace(network=network), "a.mp4", tmp_path)


def test_an_exported_file_says_its_range_and_older_ones_have_none(tmp_path, monkeypatch):
    metadata = {"table": json.loads(TABLE.to_json()), "size": [32, 32], "fit": "pad"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    for held, expected in (({}, ()), ({"value_range": [0, 4095]}, (0, 4095))):
        monkeypatch.setattr(
            networks, "_read_stablehlo", lambda _, held=held: (None, metadata | held)
        )
        assert networks.read_file(tmp_path / "a.zip")[0].pixels.value_range == expected


def test_tfds_does_not_squash_sixteen_bits(tmp_path):
    data(tmp_path, 65535, 65535)
    paths = (tmp_path / f"train/{part}/a.tif" for part in ("images", "masks"))
    with pytest.raises(DataError, match=r"a\.tif: TIFF, 3 bands of 16 bits; TFDS keeps 8 bits"):
        record(*paths, "camvid")


def test_palette_and_grey_images_are_described_by_what_they_show(tmp_path):
    data(tmp_path, 65535, 65535)
    image = Image.fromarray(np.full((2, 4), 1, np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 9, 200, 30])
    image.save(tmp_path / "train/images/c.png")
    (tmp_path / "train/masks/c.tif").write_bytes(by_tifffile(MASK))
    lines = format_report(check(config_of(tmp_path))).splitlines()
    assert "train: 1 × PNG, palette of 1 bit, values 9 … 200" in lines


def test_the_advice_is_made_of_what_is_dark(tmp_path):
    data(tmp_path, 65535, 3000)
    (warning,) = check(config_of(tmp_path), trained=True).warnings
    assert warning.startswith("val: ") and "value_range=0,4095" in warning
