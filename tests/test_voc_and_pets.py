"""The builders of Pascal VOC and Oxford-IIIT Pet, on folders of the true structure."""

import io
import tarfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from segjax.data.builders.voc2012 import ARCHIVE, Voc2012
from segjax.data.division import draw
from segjax.data.label_table import TABLES, VOID
from segjax.data.prepare import build
from segjax.data.sources import build_source, has_split
from segjax.errors import DataError

VOC_NAMES = [f"2007_{i:06d}" for i in range(6)]
SBD_NAME = "2008_000009"  # has a mask in SegmentationClassAug only
PETS = [f"Abyssinian_{i}" for i in range(30)] + ["great_pyrenees_7"]


def image_of(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 9, 3), np.uint8))


def mask_of(seed, values):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), (6, 9))


def save(picture, path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, kind)


def read(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def write_list(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def source_of(prepared, table, split, **splits):
    name = prepared.parts[-2]
    fields = {"source": "tfds", "root": str(prepared.parents[1]), "name": name, "classes": table}
    fields |= {"on_error": "raise", "image_key": "image", "label_key": "label"}
    fields |= {"splits": {"train": "train", "val": "val", "test": "test"} | splits}
    return build_source(ConfigDict(fields), split)


@pytest.fixture
def devkit(tmp_path):
    """A VOCdevkit in miniature, and where it lies; masks have VOC's palette and void outlines."""
    root = tmp_path / "voc/VOCdevkit/VOC2012"
    palette = np.zeros((256, 3), np.uint8)
    palette[:21], palette[255] = TABLES["voc"].palette, (224, 224, 192)
    for seed, name in enumerate([*VOC_NAMES, SBD_NAME]):
        save(image_of(seed), root / f"JPEGImages/{name}.jpg")
        if name != SBD_NAME:
            mask = Image.fromarray(mask_of(seed, [0, 3, 20, 255])).convert("P")
            mask.putpalette(palette.ravel().tolist())
            save(mask, root / f"SegmentationClass/{name}.png")
    lists = root / "ImageSets/Segmentation"
    train, val = VOC_NAMES[:3], VOC_NAMES[3:]
    for split, names in (("train", train), ("val", val), ("trainval", VOC_NAMES)):
        write_list(lists / f"{split}.txt", names)
    return tmp_path / "voc"


@pytest.mark.parametrize("given", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_masks_are_indices_and_outlines_void(devkit, given, tmp_path):
    prepared = build("voc2012", str(devkit / given), str(tmp_path / "tfds"))
    train, val = (source_of(prepared, "voc", split) for split in ("train", "val"))
    assert len(train) == len(val) == 3
    assert len(source_of(prepared, "voc", "train", train="trainval")) == 6
    for i in range(3):
        assert set(np.unique(val[i]["label"])) == {0, 3, 20, VOID}
        np.testing.assert_array_equal(val[i]["label"], mask_of(3 + i, [0, 3, 20, 255]))
    file = devkit / f"VOCdevkit/VOC2012/JPEGImages/{VOC_NAMES[3]}.jpg"
    np.testing.assert_array_equal(val[0]["image"], read(file))


def test_voc_without_test_and_augmentation_has_neither(devkit, tmp_path):
    prepared = build("voc2012", str(devkit), str(tmp_path / "tfds"))
    config = ConfigDict({"source": "tfds", "name": str(prepared), "root": ""})
    config.splits = ConfigDict({"train": "trainaug", "val": "val", "test": "test"})
    assert has_split(config, "val")
    assert not has_split(config, "test") and not has_split(config, "train")


@pytest.mark.parametrize("folder", ["", "VOCdevkit/VOC2012"])
def test_voc_trainaug_is_what_the_folder_holds_without_val(devkit, folder, tmp_path):
    for name in [*VOC_NAMES, SBD_NAME]:
        grey = Image.fromarray(mask_of(99, [0, 15]))
        save(grey, devkit / folder / f"SegmentationClassAug/{name}.png")
    splits = Voc2012.pairs(devkit)
    assert [image.stem for image, _ in splits["trainaug"]] == [*VOC_NAMES[:3], SBD_NAME]
    prepared = build("voc2012", str(devkit), str(tmp_path / "tfds"))
    augmented = source_of(prepared, "voc", "train", train="trainaug")
    assert len(augmented) == 4
    np.testing.assert_array_equal(augmented[3]["label"], mask_of(99, [0, 15]))
    # Two ways in which the list is passed around; one of val is not trained on.
    lines = [f"/JPEGImages/{SBD_NAME}.jpg /SegmentationClassAug/{SBD_NAME}.png", VOC_NAMES[5]]
    write_list(devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt", lines)
    assert [image.stem for image, _ in Voc2012.pairs(devkit)["trainaug"]] == [SBD_NAME]


def test_voc_archive_is_unpacked_once(devkit, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / ARCHIVE, "w") as tar:
        tar.add(devkit / "VOCdevkit", "VOCdevkit")
    assert len(Voc2012.pairs(packed)["train"]) == 3
    assert sorted(path.name for path in packed.iterdir()) == ["VOCdevkit", ARCHIVE]
    (packed / ARCHIVE).write_bytes(b"")
    assert len(Voc2012.pairs(packed)["train"]) == 3


def test_voc_faults_are_named(devkit, tmp_path):
    with pytest.raises(DataError, match=r"holds neither VOCdevkit/VOC2012 nor VOCtrainval"):
        build("voc2012", str(tmp_path), str(tmp_path))
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / ARCHIVE).write_bytes(b"cut off")
    with pytest.raises(DataError, match=rf"{ARCHIVE}: .*; download it again"):
        build("voc2012", str(packed), str(tmp_path))
    outside = tarfile.TarInfo("../outside.txt")
    with tarfile.open(packed / ARCHIVE, "w") as tar:
        tar.addfile(outside)
    with pytest.raises(DataError, match="outside the destination"):
        build("voc2012", str(packed), str(tmp_path))
    with tarfile.open(packed / ARCHIVE, "w") as tar:
        tar.addfile(tarfile.TarInfo("VOCdevkit/readme.txt"))
    with pytest.raises(DataError, match="holds no VOCdevkit/VOC2012"):
        build("voc2012", str(packed), str(tmp_path))
    assert [path.name for path in packed.iterdir()] == [ARCHIVE]
    root = devkit / "VOCdevkit/VOC2012"
    (root / f"SegmentationClass/{VOC_NAMES[4]}.png").unlink()
    with pytest.raises(DataError, match=rf"1 files .* missing.*\n  .*{VOC_NAMES[4]}\.png"):
        build("voc2012", str(devkit), str(tmp_path))
    (root / "ImageSets/Segmentation/val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt: holds no name"):
        build("voc2012", str(devkit), str(tmp_path))


@pytest.fixture
def pets(tmp_path):
    """The unpacked archives in miniature; two images are no JPEG, as in the original."""
    root = tmp_path / "pets"
    for seed, name in enumerate(PETS):
        picture = image_of(seed)
        kind = {1: "GIF", 2: "PNG"}.get(seed, "JPEG")
        save(picture.convert("P") if seed in (1, 2) else picture, root / f"images/{name}.jpg", kind)
        save(Image.fromarray(mask_of(seed, [1, 2, 3])), root / f"annotations/trimaps/{name}.png")
    # Extraneous bytes before the end marker, of which libjpeg warns.
    path = root / f"images/{PETS[3]}.jpg"
    path.write_bytes(path.read_bytes()[:-2] + b"\0" * 9 + b"\xff\xd9")
    (root / "images/Abyssinian_101.mat").write_bytes(b"")
    (root / f"annotations/trimaps/._{PETS[0]}.png").write_bytes(b"")
    lines = [f"{name} 1 1 1" for name in PETS]
    write_list(root / "annotations/trainval.txt", lines[:25])
    write_list(root / "annotations/test.txt", lines[25:])
    return root


def test_pets_splits_trimaps_and_files_that_are_no_jpeg(pets, tmp_path):
    import tensorflow_datasets as tfds

    prepared = build("oxford_pets", str(pets), str(tmp_path / "tfds"))
    sources = {s: source_of(prepared, "oxford_pets", s) for s in ("train", "val", "test")}
    val = [name for name in PETS[:25] if draw(0, name) < 0.1]
    train = [name for name in PETS[:25] if name not in val]
    assert val and PETS[1] in train and PETS[2] in train
    for split, names in (("train", train), ("val", val), ("test", PETS[25:])):
        assert len(sources[split]) == len(names)
        for i, name in enumerate(names):
            example, mask = sources[split][i], mask_of(PETS.index(name), [1, 2, 3])
            np.testing.assert_array_equal(example["label"], mask - 1)
            np.testing.assert_array_equal(example["image"], read(pets / f"images/{name}.jpg"))
    others = tfds.builder_from_directory(prepared).as_data_source("train")
    for i, name in enumerate(train):
        np.testing.assert_array_equal(others[i]["image"], read(pets / f"images/{name}.jpg"))


def test_pets_faults_are_named(pets, tmp_path):
    frames = [image_of(0), image_of(1)]
    frames[0].save(pets / f"images/{PETS[4]}.jpg", "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"{PETS[4]}\.jpg: GIF of 2 frames"):
        build("oxford_pets", str(pets), str(tmp_path))
    (pets / f"images/{PETS[5]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"1 files .*\n  .*images/{PETS[5]}\.jpg"):
        build("oxford_pets", str(pets), str(tmp_path))
    with pytest.raises(DataError, match=r"trainval\.txt: no such file; expected --source to be"):
        build("oxford_pets", str(pets / "images"), str(tmp_path))
