import io
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segjax import defaults
from segjax.data.decode import decode_image, decode_mask
from segjax.data.label_table import LabelTable
from segjax.data.sources import build_source, has_split
from segjax.errors import ConfigError, DataError

VAL_OF_SEED_0 = ["05", "08", "10", "16"]  # of 20 files; no version may split them otherwise
TWO_CLASSES = {"classes": ["background", "cell"]}
MASK = np.array([[0, 1, 1, 255, 0, 1]] * 4, np.uint8)
IMAGE = np.full((4, 6, 3), (10, 20, 30), np.uint8)


def config_of(root, **changes):
    config = defaults.get_config().data
    config.update({"root": str(root), "val_fraction": 0.2, "test_fraction": 0.0} | changes)
    return config


def encoded(array_or_image, kind="PNG", **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder, name, image=IMAGE, mask=MASK):
    for part, content in (("images", image), ("masks", mask)):
        path = folder / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else encoded(content))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps(TWO_CLASSES))
    return tmp_path


def only(root, **changes):
    source = build_source(config_of(root, **changes), "train")
    assert len(source) == 1
    return source[0]


@pytest.mark.parametrize("name", ["a", "two words", "übung 東京", "dotted.name"])
def test_pairs_by_name(root, name):
    write(root / "train", name)
    example = only(root)
    np.testing.assert_array_equal(example["image"], IMAGE)
    np.testing.assert_array_equal(example["label"], MASK)
    assert name in build_source(config_of(root), "train").name(0)


def palette_image():
    image = Image.fromarray(np.minimum(MASK, 1)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    return image


@pytest.mark.parametrize(
    "mask",
    [
        encoded(np.minimum(MASK, 1)),
        encoded(palette_image()),
        encoded(np.minimum(MASK, 1).astype(bool)),
        encoded(np.minimum(MASK, 1).astype(np.uint16)),
        encoded(np.repeat(np.minimum(MASK, 1)[..., None], 3, -1)),
        encoded(Image.fromarray(np.minimum(MASK, 1)).convert("LA")),
        encoded(np.minimum(MASK, 1).astype(np.int32), "TIFF"),
    ],
    ids=["L", "P", "1", "I;16", "grey RGB", "LA", "I"],
)
def test_mask_formats_read_as_values(root, mask):
    write(root / "train", "a", mask=mask)
    np.testing.assert_array_equal(only(root)["label"], np.minimum(MASK, 1))


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_color_tables_read_palette_and_rgb(root, mode):
    write(root / "train", "a", mask=encoded(palette_image().convert(mode)))
    classes = json.dumps(TWO_CLASSES | {"colors": [[255, 0, 0], [0, 0, 255]]})
    np.testing.assert_array_equal(only(root, classes=classes)["label"], np.minimum(MASK, 1))


def test_masks_of_0_and_255(root):
    write(root / "train", "a", mask=np.minimum(MASK, 1) * np.uint8(255))
    classes = json.dumps(TWO_CLASSES | {"values": [0, 255]})
    np.testing.assert_array_equal(only(root, classes=classes)["label"], np.minimum(MASK, 1))


def test_image_formats_read_as_rgb():
    deep = cv2.imencode(".png", IMAGE[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    grey = encoded(np.full((4, 6), 7, np.uint8))
    grey16 = cv2.imencode(".png", np.full((4, 6), 65535, np.uint16))[1].tobytes()
    rgba = encoded(np.dstack([IMAGE, np.zeros((4, 6), np.uint8)]))
    np.testing.assert_array_equal(decode_image(deep, "a"), IMAGE)
    np.testing.assert_array_equal(decode_image(rgba, "a"), IMAGE)
    np.testing.assert_array_equal(decode_image(grey, "a"), np.full((4, 6, 3), 7))
    np.testing.assert_array_equal(decode_image(grey16, "a"), np.full((4, 6, 3), 255))
    cmyk = encoded(Image.fromarray(IMAGE).convert("CMYK"), "JPEG", quality=100)
    np.testing.assert_allclose(decode_image(cmyk, "a").astype(int), IMAGE, atol=2)


def test_exif_turns_the_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(IMAGE, exif=exif)
    assert decode_image(turned, "a").shape == (6, 4, 3)
    write(root / "train", "a", image=turned)
    with pytest.raises(DataError, match=r"a\.png: the mask is 4×6 .* is 6×4; a tag \(EXIF\)"):
        only(root)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (b"", MASK, r"images/a\.png: an empty file \(0 bytes\); restore"),
        (encoded(IMAGE, "JPEG")[:-200], MASK, r"images/a\.png: damaged JPEG \(\d+ bytes"),
        (
            b"not an image",
            MASK,
            r"images/a\.png: no image, it begins with b'not an i' \(12 bytes\); .* PNG",
        ),
        (
            encoded(
                Image.fromarray(IMAGE),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (6, 4))],
            ),
            MASK,
            r"images/a\.png: GIF of 2 frames; save each",
        ),
        (IMAGE, b"", r"masks/a\.png: an empty file \(0 bytes\)"),
        (
            IMAGE,
            encoded(MASK)[:-30],
            r"masks/a\.png: damaged PNG \(\d+ bytes\): (?!.*0x).*; restore",
        ),
        (IMAGE, encoded(MASK, "JPEG"), r"masks/a\.png: a mask with JPEG compression, .* PNG"),
        (IMAGE, MASK[:3], r"masks/a\.png: the mask is 3×6 .*a\.png is 4×6; export"),
        (IMAGE, np.full((4, 6), 9, np.uint8), r"masks/a\.png: values .*: 9 \(24 pixels\)"),
        (IMAGE, IMAGE, r'masks/a\.png: an RGB mask \(\(10, 20, 30\) \(24 pixels\)\).*"colors"'),
        (
            IMAGE,
            encoded(
                Image.fromarray(MASK), "GIF", save_all=True, append_images=[Image.new("L", (6, 4))]
            ),
            r"masks/a\.png: GIF of 2 frames",
        ),
        (
            IMAGE,
            encoded(np.zeros((4, 6), np.float32), "TIFF"),
            r"masks/a\.png: a mask of float32; save integers",
        ),
    ],
)
def test_dirty_files_are_named(root, image, mask, message, capfd):
    write(root / "train", "a", image=image, mask=mask)
    with pytest.raises(DataError, match=message):
        only(root)


def test_files_without_a_partner_are_all_listed(root):
    write(root / "train", "a")
    write(root / "train", "no_mask", mask=None)
    write(root / "train", "no_image", image=None)
    with pytest.raises(DataError) as error:
        build_source(config_of(root), "train")
    assert "images/no_mask.png has no mask" in str(error.value)
    assert "masks/no_image.png has no image" in str(error.value)


def test_folders_that_are_missing_empty_or_ambiguous(root):
    with pytest.raises(DataError, match=r"nowhere': no such folder; expected ROOT/"):
        build_source(config_of(root / "nowhere", classes="camvid"), "train")
    below = f"root = 'nowhere': no such folder in {Path.cwd()}; expected ROOT/"
    with pytest.raises(DataError, match=re.escape(below)):  # a relative one: where it would be
        build_source(config_of("nowhere", classes="camvid"), "train")
    (root / "train/images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train/images: holds no file ending in .*; expected"):
        build_source(config_of(root), "train")
    write(root / "train", "a")
    (root / "train/images/a.jpg").write_bytes(encoded(IMAGE, "JPEG"))
    with pytest.raises(DataError, match=r"several files; .*a \(a\.jpg, a\.png\)"):
        build_source(config_of(root), "train")
    with pytest.raises(DataError, match=r"/val: no such folder: .* holds train; expected"):
        build_source(config_of(root), "val")
    assert not has_split(config_of(root), "test")


def test_pairs_in_folders_share_their_path(root):
    for name in ("a", "x/a", "x/y/b", "linked/c"):
        write(root / "train" if name != "linked/c" else root / "elsewhere", name)
    for part in ("images", "masks"):
        (root / "train" / part / "linked").symlink_to(root / "elsewhere" / part / "linked")
    found = [name.partition("images/")[2] for name in names(config_of(root), "train")]
    assert found == ["a.png", "linked/c.png", "x/a.png", "x/y/b.png"]
    (root / "train/masks/x/a.png").unlink()
    with pytest.raises(DataError, match=r"1 files without a partner(.|\n)*images/x/a\.png has no"):
        build_source(config_of(root), "train")
    source = build_source(config_of(root, subfolders=False), "train")
    assert len(source) == 1
    assert sum("config.data.subfolders" in line for line in source.unused) == 2 + 3


def test_files_that_are_no_images_are_named_and_hidden_ones_are_not_there(root):
    write(root / "train", "a")
    folder = root / "train" / "images"
    for name in ("b.xyz", "._a.png", "Thumbs.db", ".DS_Store", "._c.png"):
        (folder / name).write_bytes(b"")
    (root / "train" / "masks" / "b.mat").write_bytes(b"")
    write(root / "extra", "z")
    source = build_source(config_of(root), "train")
    assert len(source) == 1
    assert [line.rpartition("/")[2] for line in source.unused] == [
        "b.xyz: no image by its suffix",
        "b.mat: no image by its suffix",
        "images: beside the folders used",
    ]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (["train/imgs", "train/labels"],
         ["train/images: no such folder: .*train holds imgs, labels; rename imgs to images",
          "train/masks: no such folder: .*rename labels to masks"]),
        (["Train/Images"], [" holds Train; rename Train to train"]),
        (["training/images"], ["holds training; rename training to train"]),
        (["train/images"], ["train/images: holds no file ending in", "train/masks: no such"]),
        (["other"], ["holds other; expected"]),
    ],
)  # fmt: skip
def test_folders_of_other_names_are_named(root, made, told):
    for folder in made:
        (root / folder).mkdir(parents=True)
    with pytest.raises(DataError) as error:
        build_source(config_of(root), "train")
    for part in told:
        assert re.search(part, str(error.value)), str(error.value)


def test_a_file_that_vanishes_is_named(root):
    write(root / "train", "a")
    source = build_source(config_of(root), "train")
    (root / "train/images/a.png").unlink()
    with pytest.raises(DataError, match=r"No such file .*images/a\.png"):
        source[0]


def names(config, split):
    source = build_source(config, split)
    return [source.name(i) for i in range(len(source))]


def test_one_folder_is_split_by_the_seed_alone(root):
    for i in range(20):
        write(root, f"{i:02d}")
    config = config_of(root, test_fraction=0.1)
    parts = {split: names(config, split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [14, 4, 2]
    assert len({name for part in parts.values() for name in part}) == 20
    assert [name[-6:-4] for name in parts["val"]] == VAL_OF_SEED_0
    assert names(config, "val") == parts["val"]
    assert names(config_of(root, test_fraction=0.1, seed=1), "val") != parts["val"]
    write(root, "added later")
    after = {split: names(config, split) for split in parts}
    assert [len(part) for part in after.values()] == [15, 4, 2]
    assert has_split(config, "test")
    assert not has_split(config_of(root), "test")
    with pytest.raises(DataError, match=r"split 'val' is empty: 21 images with val_fraction = 0"):
        build_source(config_of(root, val_fraction=0.0), "val")


def test_folds_divide_one_folder_evenly_and_keep_the_test(root):
    for i in range(23):
        write(root, f"{i:02d}")
    settings = {"folds": 5, "test_fraction": 0.15}
    folds = [
        {s: names(config_of(root, fold=fold, **settings), s) for s in ("train", "val", "test")}
        for fold in range(5)
    ]
    tests = {tuple(parts["test"]) for parts in folds}
    (test,) = tests
    assert 0 < len(test) < 10
    validated = [name for parts in folds for name in parts["val"]]
    assert len(set(validated)) == len(validated) == 23 - len(test)
    assert max(len(parts["val"]) for parts in folds) - min(len(p["val"]) for p in folds) <= 1
    for parts in folds:
        assert len(parts["train"]) + len(parts["val"]) + len(test) == 23
        assert not set(parts["train"]) & {*parts["val"], *test}
    assert names(config_of(root, fold=0, seed=1, **settings), "val") != folds[0]["val"]


def test_folds_without_a_test_use_every_image(root):
    for i in range(5):
        write(root, f"{i}")
    configs = [config_of(root, folds=5, fold=fold, val_fraction=0.0) for fold in range(5)]
    assert sorted(names(config, "val")[0][-5] for config in configs) == list("01234")
    assert all(len(names(config, "train")) == 4 for config in configs)
    assert has_split(configs[0], "val") and not has_split(configs[0], "test")


def test_folds_that_cannot_be_are_refused(root):
    write(root, "a")
    with pytest.raises(DataError, match=r"'train' is empty: 1 images with folds = 2"):
        build_source(config_of(root, folds=2, fold=0), "train")
    write(root / "train", "a")
    with pytest.raises(ConfigError, match=r"folds is 2, but .* is divided already"):
        build_source(config_of(root, folds=2, fold=0), "train")


def test_palette_colors_survive_decoding_only_when_asked():
    data = encoded(palette_image())
    assert decode_mask(data, "a", as_colors=False).shape == (4, 6)
    assert decode_mask(data, "a", as_colors=True)[0, 0].tolist() == [255, 0, 0]
    assert LabelTable.from_json(json.dumps(TWO_CLASSES)).void == (255,)


def test_no_tensorflow():
    code = """
import sys
from pathlib import Path
import segjax.data.sources, segjax.data.prepare
from segjax.data.builders import camvid, oxford_pets, voc2012
assert 'tensorflow' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
