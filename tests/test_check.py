import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segjax import defaults
from segjax.data import check as check_module
from segjax.data.check import check, usable
from segjax.data.counts import format_report
from segjax.data.pipeline import FixedShapeSource
from segjax.data.sources import build_source
from segjax.errors import ConfigError, DataError

CAMVID = Path(
    os.environ.get("SEGJAX_CAMVID", Path(__file__).resolve().parents[2] / "shared/camvid")
)
MASK = np.array([[0, 1, 1, 255], [0, 1, 1, 255]], np.uint8)


def config_of(root, **changes):
    config = defaults.get_config().data
    config.update({"root": str(root), "val_fraction": 0.2, "test_fraction": 0.0} | changes)
    return config


@pytest.fixture
def root(tmp_path):
    """Two clean training images and one for validation."""
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}')
    for brightness, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c")]):
        write(tmp_path / split, name, brightness)
    return tmp_path


def write(folder, name, brightness, mask=MASK):
    image = np.full((*mask.shape, 3), brightness, np.uint8)
    image[0, 0] = 255  # dark images are worth a warning
    for part, pixels in (("images", image), ("masks", mask)):
        path = folder / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def test_counts_by_split(root):
    write(root / "train", "large", 9, np.zeros((5, 3), np.uint8))
    report = check(config_of(root))
    assert report.num_images == {"train": 3, "val": 1}
    assert {split: counts.tolist() for split, counts in report.pixel_counts.items()} == {
        "train": [2 * 2 + 15, 2 * 4],
        "val": [2, 4],
    }
    assert report.pixel_counts["train"].dtype == np.int64
    assert report.void_counts == {"train": 4, "val": 2}
    assert report.max_size == {"train": (5, 4), "val": (2, 4)}
    assert report.warnings == []


def test_report_shows_raw_values_pixels_and_share(root):
    lines = format_report(check(config_of(root))).splitlines()
    assert lines[2].split() == ["cell", "1", "8", "4", "66.67", "%"]
    assert lines[3].split() == ["(void)", "255", "4", "2"]
    assert lines[4] == "train: 2 images of up to 2×4"
    assert lines[5] == "train: 2 × PNG, 3 bands of 8 bits, values 0 … 255"


def test_all_problems_are_raised_at_once(root):
    write(root / "train", "seven", 7, MASK + np.uint8(7))
    (root / "train/images/empty.png").write_bytes(b"")
    (root / "train/masks/empty.png").write_bytes(b"")
    write(root / "val", "small", 8)
    Image.fromarray(MASK[:1]).save(root / "val/masks/small.png")
    (root / "test/images").mkdir(parents=True)
    with pytest.raises(DataError) as error:
        check(config_of(root))
    message = str(error.value)
    assert message.startswith("problems in the data:\n- ")
    assert "masks/seven.png: values outside the label table: 6 (2 pixels), 7 (2 pixels)" in message
    assert "images/empty.png: an empty file (0 bytes)" in message
    assert "masks/small.png: the mask is 1×4" in message
    assert "test/images: holds no file" in message
    assert len(message.splitlines()) == 5


def test_many_problems_of_a_kind_do_not_hide_others(root):
    (root / "classes.json").write_text('{"classes": ["background", "cell", "dust"]}')
    for i in range(30):
        write(root / "train", f"wrong{i}", 100 + i, MASK + np.uint8(7 + i))
    write(root / "val", "same", 1)
    for name in "xyz":
        (root / "train/images" / f"{name}.png").write_bytes(b"no image")
        (root / "train/masks" / f"{name}.png").write_bytes(b"")
    write(root / "val", "small", 8)
    Image.fromarray(MASK[:1]).save(root / "val/masks/small.png")
    (root / "val/masks/alone.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        check(config_of(root))
    message = str(error.value)
    assert message.count("values outside the label table") == 20
    assert "… and 10 more of this kind" in message
    assert message.count("no image, it begins with") == 3
    for part in ("masks/alone.png has no image", "small.png: the mask is 1×4",
                 "b.png (train) has the same pixels as",
                 "no pixel in training of class 'dust' (raw value 2) (in the files"):  # fmt: skip
        assert part in message
    assert len(message.splitlines()) == 1 + 21 + 3 + 4


def test_what_can_be_told_without_a_label_table_is_told(root):
    (root / "classes.json").write_text("{")
    (root / "train/masks/b.png").unlink()
    with pytest.raises(DataError) as error:
        check(config_of(root))
    assert "classes.json: not valid JSON" in str(error.value)
    assert "train/images/b.png has no mask" in str(error.value)
    (root / "val/images/c.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/c\.png: an empty file"):
        check(config_of(root))
    (root / "train").rename(root / "Train")
    with pytest.raises(DataError) as error:
        check(config_of(root))
    assert "classes.json: not valid JSON" in str(error.value)
    assert "/train: no such folder: " in str(error.value)
    assert "holds Train, val; rename Train to train" in str(error.value)


def test_a_divided_folder_says_its_counts_and_what_is_not_used(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}')
    for i in range(12):
        write(tmp_path, f"{'deep/' if i % 2 else ''}{i}", i)
    (tmp_path / "images/notes.txt").write_text("")
    config = config_of(tmp_path, val_fraction=0.15, test_fraction=0.15)
    report = check(config)
    assert report.num_images == {"train": 8, "val": 2, "test": 2}
    text = format_report(report)
    assert f"{tmp_path} is divided by seed 0: 12 images, 8 train, 2 val, 2 test" in text
    assert "1 files or folders beside the images are not used:\n  " in text
    assert "images/notes.txt: no image by its suffix" in text
    assert set(report.divided) == {"train", "val", "test"}
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert check(config_of(moved, test_fraction=0.15, val_fraction=0.15)).divided == report.divided
    write(moved, "added", 50)
    added = check(config_of(moved, test_fraction=0.15, val_fraction=0.15)).divided
    assert added["train"] != report.divided["train"]
    assert not check(config_of(moved, divide="thresholds", val_fraction=0.3)).divided


def test_the_division_knows_names_and_neither_suffixes_nor_unicode_forms(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}')
    for i, name in enumerate(["\u00e9", "b", "c", "d"]):
        write(tmp_path, name, i)
    before = check(config_of(tmp_path)).divided
    for part in ("images", "masks"):
        (tmp_path / part / "\u00e9.png").rename(tmp_path / part / "e\u0301.png")
        (tmp_path / part / "b.png").rename(tmp_path / part / "b.PNG")
    assert check(config_of(tmp_path)).divided == before


def test_missing_partner_and_split_without_images(root):
    (root / "train/masks/b.png").unlink()
    with pytest.raises(DataError, match=r"train/images/b\.png has no mask"):
        check(config_of(root))
    with pytest.raises(DataError, match=r"config\.data\.root = 'nowhere'") as error:
        check(config_of("nowhere", classes="camvid"))
    assert str(error.value).count("nowhere") == 1


def test_a_class_without_training_pixels(root):
    (root / "classes.json").write_text('{"classes": ["background", "cell", "dust"]}')
    with pytest.raises(DataError, match=r"no pixel in training of class 'dust' \(raw value 2\)"):
        check(config_of(root))
    report = check(config_of(root, allow_missing_classes=True))
    assert "warning: no pixel in training of class 'dust'" in format_report(report)


def test_classes_are_not_missing_where_no_file_could_be_read(root):
    for name in "ab":
        (root / f"train/images/{name}.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        check(config_of(root))
    assert "an empty file" in str(error.value) and "no pixel" not in str(error.value)


def test_the_check_of_a_run_that_is_trained_leaves_its_record_alone(root, tmp_path):
    cache = tmp_path / "data.json"
    check(config_of(root), cache=cache)
    record = cache.read_text()
    write(root / "train", "added", 50)
    assert check(config_of(root), cache=cache, trained=True).num_images["train"] == 3
    assert cache.read_text() == record


def test_the_home_folder_may_be_written_as_it_is_in_a_shell(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    assert check(config_of("~")).num_images == {"train": 2, "val": 1}


def test_masks_of_0_and_255_without_values_are_recognised(root):
    for name in "ab":
        write(root / "train", name, ord(name), np.uint8(255) * np.minimum(MASK, 1))
    with pytest.raises(DataError, match=r'12 pixels are void \(255\): .*"values": \[0, 255\]'):
        check(config_of(root))


def test_an_image_in_two_splits(root):
    write(root / "val", "same", 1)
    with pytest.raises(DataError, match=r"train/images/b\.png \(train\) .*/val/images/same\.png"):
        check(config_of(root))


def test_an_image_in_two_splits_is_left_out_of_training_if_asked(root):
    write(root / "val", "same", 1)
    write(root / "test", "also", 2)
    config = config_of(root, on_error="skip")
    report = check(config)
    assert report.num_images == {"train": 1, "val": 2, "test": 1}
    assert list(report.num_images) == list(report.pixel_counts) == ["train", "val", "test"]
    assert usable(config, "train", report).name(0).endswith("a.png")
    warnings = format_report(report)
    assert "train: 1 of 2 images skipped:" in warnings
    assert "test/images/also.png (test) has the same pixels as" in warnings


def test_a_label_void_throughout_is_a_warning(root):
    write(root / "val", "blank", 9, np.full((2, 4), 255, np.uint8))
    (warning,) = check(config_of(root)).warnings
    assert warning.startswith("val: 1 labels are void throughout, such as ")
    assert warning.endswith("blank.png")


def test_cache_spares_decoding_until_a_file_changes(root, tmp_path, monkeypatch):
    cache = tmp_path / "run/check.json"
    first = check(config_of(root), cache=cache)
    monkeypatch.setattr(check_module, "count", lambda *_: pytest.fail("decoded again"))
    again = check(config_of(root), cache=cache)
    assert format_report(again) == format_report(first)
    assert again.table == first.table
    assert json.loads(cache.read_text())["num_images"] == {"train": 2, "val": 1}
    write(root / "train", "a", 50)
    with pytest.raises(pytest.fail.Exception):
        check(config_of(root), cache=cache)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid at {CAMVID}; set SEGJAX_CAMVID")
def test_camvid_validation_split():
    report = check(config_of(CAMVID, classes="camvid"), splits=("val",))
    assert report.num_images == {"val": 101}
    assert report.max_size == {"val": (360, 480)}
    total = report.pixel_counts["val"].sum() + report.void_counts["val"]
    assert total == 101 * 360 * 480
    assert (report.pixel_counts["val"] > 0).all()


def test_what_cannot_be_used_is_skipped_and_counted_if_asked(root):
    (root / "train" / "images" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: an empty file"):
        check(config_of(root))
    config = config_of(root, on_error="skip")
    report = check(config)
    assert report.num_images == {"train": 1, "val": 1}
    assert "train: 1 of 2 images skipped:\n  " in format_report(report)
    source = usable(config, "train", report)
    assert len(source) == 1 and source.name(0).endswith("b.png")
    assert source[0]["image"].min() == 1
    (root / "train" / "masks" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match="train: 2 of 2 images skipped"):
        check(config)


def test_files_that_pair_with_none_are_left_out_and_counted_if_asked(root):
    folder = root / "train" / "images"
    for name in ("alone.png", "b.bmp"):
        Image.fromarray(np.full((*MASK.shape, 3), 99, np.uint8)).save(folder / name)
    with pytest.raises(DataError, match=r"one name, several files"):
        check(config_of(root))
    config = config_of(root, on_error="skip")
    report = check(config)
    assert report.num_images == {"train": 1, "val": 1}
    (warning,) = report.warnings
    assert warning.startswith(
        "2 files without a partner, or with several, left out:\n  b (b.bmp, b"
    )
    assert "alone.png has no mask" in warning
    source = usable(config, "train", report)
    assert len(source) == 1 and source.name(0).endswith("a.png")


def test_an_exif_tag_that_keeps_the_size_is_a_warning(root):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.fromarray(np.full((*MASK.shape, 3), 99, np.uint8))
    image.save(root / "train" / "images" / "a.png", exif=exif)
    (warning,) = check(config_of(root)).warnings
    assert "turns or mirrors 1 images, such as" in warning and "a.png" in warning


def test_tiny_and_huge_images_are_read(root):
    write(root / "train", "tiny", 5, np.zeros((1, 1), np.uint8))
    write(root / "train", "wide", 6, np.zeros((3, 20_000), np.uint8))
    report = check(config_of(root))
    assert report.num_images["train"] == 4 and report.max_size["train"] == (3, 20_000)


def test_a_loop_of_links_is_a_file_without_a_partner(root):
    loop = root / "train" / "images" / "loop.png"
    loop.symlink_to(loop)
    Image.fromarray(MASK).save(root / "train" / "masks" / "loop.png")
    with pytest.raises(DataError, match=r"masks/loop\.png has no image"):
        check(config_of(root))


@pytest.mark.parametrize("field", ["source", "divide", "on_error", "fit"])
def test_a_choice_that_there_is_not_is_refused_where_it_is_used_too(tmp_path, field):
    """From Python, and from a config.json that was edited, nothing else has looked at it."""
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}')
    for i in range(6):
        write(tmp_path, f"{i}", i)
    config = config_of(tmp_path, **{field: "other"})
    with pytest.raises(ConfigError, match=f"config.data.{field} is 'other'; choose one of"):
        report = check(config, splits=("train",))
        FixedShapeSource(build_source(config, "train"), config, report.max_size["train"], False)
