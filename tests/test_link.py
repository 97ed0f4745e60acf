"""Cityscapes and ADE20K, of the true structure, as folders of links."""

import sys

import numpy as np
import pytest
from PIL import Image

from segjax import defaults, prepare
from segjax.data.link import link
from segjax.data.sources import build_source, has_split
from segjax.errors import DataError

IMAGE = np.zeros((4, 6, 3), np.uint8)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cityscapes(tmp_path):
    root = tmp_path / "cityscapes"
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau"), ("test", "bonn")):
        frame = f"{split}/{city}/{city}_000001_000019"
        save(IMAGE, root / f"leftImg8bit/{frame}_leftImg8bit.png")
        for kind in ("labelIds", "instanceIds", "color"):
            mask = np.full((4, 6), {"labelIds": 26}.get(kind, 200), np.uint8)
            save(mask, root / f"gtFine/{frame}_gtFine_{kind}.png")
    return root


@pytest.fixture
def ade20k(tmp_path):
    root = tmp_path / "ade/ADEChallengeData2016"
    for split, stem in (("training", "ADE_train_0"), ("validation", "ADE_val_0")):
        for i in (1, 2):
            save(IMAGE, root / f"images/{split}/{stem}{i}.jpg")
            mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
            save(mask, root / f"annotations/{split}/{stem}{i}.png")
    return root


def config_of(root, classes):
    config = defaults.get_config().data
    config.update(root=str(root), classes=classes)
    return config


def test_cityscapes_becomes_a_folder_of_links(cityscapes, tmp_path):
    out = link("cityscapes", str(cityscapes), str(tmp_path / "out"))
    config = config_of(out, "cityscapes")
    train = build_source(config, "train")
    assert [train.name(i).split("/")[-1] for i in range(2)] == [
        "aachen_000001_000019.png",
        "ulm_000001_000019.png",
    ]
    assert (train[0]["label"] == 13).all()  # car
    assert len(build_source(config, "val")) == 1 and not has_split(config, "test")
    assert all(path.is_symlink() for path in out.glob("*/*/*.png"))


def test_ade20k_becomes_a_folder_of_links(ade20k, tmp_path):
    for number, source in enumerate([ade20k, ade20k.parent]):
        out = link("ade20k", str(source), str(tmp_path / f"out{number}"))
        val = build_source(config_of(out, "ade20k"), "val")
        assert len(val) == 2
        assert val[0]["label"].ravel().tolist() == [255, *range(23)]
        assert sorted(path.name for path in out.iterdir()) == ["train", "val"]


def test_faults_are_named_before_anything_is_written(cityscapes, ade20k, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"holds no leftImg8bit/train/\*/\*_leftImg8bit\.png"):
        link("cityscapes", str(tmp_path), str(out))
    (ade20k / "annotations/validation/ADE_val_01.png").unlink()
    with pytest.raises(DataError, match=r"images/validation/ADE_val_01\.jpg has no mask"):
        link("ade20k", str(ade20k), str(out))
    assert not out.exists()
    link("cityscapes", str(cityscapes), str(out))
    with pytest.raises(DataError, match=r"out: exists already; remove it"):
        link("cityscapes", str(cityscapes), str(out))


def test_the_command_line_prints_the_flags(cityscapes, tmp_path, monkeypatch, capsys):
    arguments = ["prepare", "cityscapes", "--source", str(cityscapes)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"error: cityscapes becomes .*; say where with --output"):
        prepare.main()
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(out)])
    prepare.main()
    flags = f"--config cityscapes --config.data.root={out}"
    assert flags in capsys.readouterr().out
