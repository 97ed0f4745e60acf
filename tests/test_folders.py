"""Folders as people have them: masks of other names, in one folder, listed, grouped, missing."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segjax import defaults
from segjax.data import groups, pairing
from segjax.data.check import check
from segjax.data.counts import format_report
from segjax.data.division import divide
from segjax.data.label_table import LabelTable
from segjax.data.sources import build_source, has_split
from segjax.errors import ConfigError, DataError
from segjax.evaluation import scored
from segjax.run import workdir

MASK = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(image, mask=None):
    """An image unlike those of other names, and its mask."""
    digest = hashlib.sha256(str(image).encode()).digest()
    pixels = np.frombuffer(digest[:18], np.uint8).reshape(2, 3, 3).copy()
    pixels[0, 0] = 255
    save(image, pixels)
    if mask:
        save(mask, MASK)


def config_of(root, **changes):
    config = defaults.get_config().data
    config.update({"root": str(root), "test_fraction": 0.0} | changes)
    return config


def found(root, split="train", **changes):
    """NAME: NAME of its mask, of a split."""
    source = build_source(config_of(root, **changes), split)
    return {image.name: mask and mask.name for image, mask in source.pairs}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["background", "cell"]}')
    return tmp_path


@pytest.mark.parametrize("text", pairing.CONVENTIONS)
@pytest.mark.parametrize("together", [False, True], ids=["two folders", "one folder"])
def test_a_convention_is_found_and_said(root, text, together):
    how = pairing.parse(text)
    for split in ("train", "val"):
        folders = (
            [root / split] * 2 if together else [root / split / p for p in ("images", "masks")]
        )
        for name in (f"{split}1", f"deep/{split}2"):
            folder, slash, stem = name.rpartition("/")
            names = [folder + slash + p.replace("{}", stem) for p in how]
            write(folders[0] / f"{names[0]}.png", folders[1] / f"{names[1]}.png")
    report = check(config_of(root))
    assert report.num_images == {"train": 2, "val": 2}
    for split in ("train", "val"):
        folder = root / split if together else root / split / "images"
        assert f"{folder}: masks are found by pairing {how} (2 pairs)" in report.notes
    assert report.warnings == []
    assert found(root, pairing=text) == found(root)
    assert len(check(config_of(root, pairing=text)).notes) == 0


def test_equal_names_are_taken_before_any_convention(root):
    for name in ("a", "a_mask", "b"):
        write(root / f"train/images/{name}.png", root / f"train/masks/{name}.png")
    assert found(root) == {"a.png": "a.png", "a_mask.png": "a_mask.png", "b.png": "b.png"}
    write(root / "train/images/c.png", root / "train/masks/c_mask.png")
    with pytest.raises(
        DataError, match=r"share the name up to the suffix, so add or remove, or set"
    ):
        found(root)


def test_several_conventions_are_named_and_one_is_to_be_set(root):
    for name in "ab":
        write(root / f"train/{name}.jpg", root / f"train/{name}_mask.png")
        save(root / f"train/{name}_seg.png", MASK)
    told = (
        r"train: masks can be found by NAME -> NAME_mask \(2 pairs\) and NAME -> NAME_seg "
        r"\(2 pairs\); set config.data.pairing to one of {}:{}_mask, {}:{}_seg"
    )
    with pytest.raises(DataError, match=told):
        found(root)
    assert found(root, pairing="{}:{}_seg") == {"a.jpg": "a_seg.png", "b.jpg": "b_seg.png"}
    source = build_source(config_of(root, pairing="{}:{}_seg"), "train")
    assert len(source.unused) == 2
    assert source.unused[0].endswith("a_mask.png: no image and no mask by NAME -> NAME_seg")
    (root / "train/b_seg.png").unlink()
    assert found(root) == {"a.jpg": "a_mask.png", "b.jpg": "b_mask.png"}


def test_a_pairing_of_one_s_own_and_what_fits_none_of_it(root):
    write(root / "train/images/rgb_a.png", root / "train/masks/id_a_v1.png")
    save(root / "train/masks/colour_a.png", MASK)
    assert found(root, pairing="rgb_{}:id_{}_v1") == {"rgb_a.png": "id_a_v1.png"}
    write(root / "train/images/other.png")
    with pytest.raises(
        DataError, match=r"found by pairing rgb_NAME -> id_NAME_v1(.|\n)*other.png has"
    ):
        found(root, pairing="rgb_{}:id_{}_v1")
    save(root / "train/masks/id_b_v1.png", MASK)
    config = config_of(root, pairing="rgb_{}:id_{}_v1", on_error="skip")
    assert len(build_source(config, "train").left_out) == 2
    with pytest.raises(ConfigError, match=r"config.data.pairing is '{}_mask'; it must be two patt"):
        found(root, pairing="{}_mask")


def test_one_folder_is_divided_by_the_names_of_its_images(root):
    for i in range(20):
        write(root / f"site{i % 3}/{i:02d}.jpg", root / f"site{i % 3}/{i:02d}_mask.png")
        write(root / f"as_before/images/site{i % 3}/{i:02d}.jpg",
              root / f"as_before/masks/site{i % 3}/{i:02d}.png")  # fmt: skip
    before = config_of(root / "as_before", classes=str(root / "classes.json"))
    divided = check(before).divided
    (root / "as_before").rename(root.parent / f"{root.name}_before")
    report = check(config_of(root))
    assert report.divided == divided
    assert f"{root}: masks are found by pairing NAME -> NAME_mask (20 pairs)" in report.notes
    assert report.notes[-1].endswith("20 images, 17 train, 3 val, 0 test")


def test_folders_that_a_renaming_would_mend_are_not_taken_for_one(root):
    for split in ("Train", "Val"):
        write(root / split / "a.jpg", root / split / "a_mask.png")
    with pytest.raises(DataError, match="holds Train, Val; rename Train to train"):
        found(root)
    with pytest.raises(DataError, match="holds Train, Val; rename Train to train"):
        found(root, pairing="{}:{}_mask")
    write(root / "b" / "imgs" / "a.jpg", root / "b" / "labels" / "a_mask.png")
    with pytest.raises(DataError, match=r"no such folder"):
        found(root / "b", classes=str(root / "classes.json"))


def rows(root, lines, name="pairs.csv"):
    (root / name).write_text("\n".join(lines) + "\n")
    return {"list": name}


def test_a_list_with_splits_and_groups(root):
    for name in "abcd":
        write(root / f"x/{name} 1.png", root.parent / f"{root.name}_far" / f"{name}.png")
    far = root.parent / f"{root.name}_far"
    listed = rows(
        root,
        ["split, image,note,mask,group"]
        + [f'{s},x/{n} 1.png,"of, note",{far}/{n}.png,{g}' for s, n, g in
           (("train", "a", "p"), ("val", "b", "q"), ("train", "c", "p"), ("test", "d", "r"))],
    )  # fmt: skip
    assert found(root, **listed) == {"a 1.png": "a.png", "c 1.png": "c.png"}
    assert found(root, "val", **listed) == {"b 1.png": "b.png"}
    config = config_of(root, **listed)
    assert has_split(config, "test")
    report = check(config)
    assert report.num_images == {"train": 2, "val": 1, "test": 1} and report.divided == {}
    text = (root / "pairs.csv").read_text()
    (root / "pairs.csv").write_text(text.replace("val,", "train,"))
    with pytest.raises(DataError, match=r"pairs\.csv: no line of split 'val'; add"):
        check(config)
    with pytest.raises(ConfigError, match=r"folds is 2, but pairs\.csv has a column split"):
        found(root, folds=2, **listed)
    (root / "pairs.csv").write_text(text.replace(",q", ",p"))
    with pytest.raises(
        DataError, match=r"group 'p' is in train \(x/a 1\) and in val \(x/b 1\); mov"
    ):
        check(config)


def test_a_row_that_moves_to_another_split_is_counted_again(root):
    for name in "abc":
        write(root / f"{name}.png", root / f"{name}_m.png")
    lines = ["image,mask,split"] + [f"{n}.png,{n}_m.png,train" for n in "ab"]
    config = config_of(root, **rows(root, [*lines, "c.png,c_m.png,val"]))
    cache = root / "data.json"
    assert check(config, cache=cache).num_images == {"train": 2, "val": 1}
    rows(root, [*lines[:2], *(f"{n}.png,{n}_m.png,val" for n in "bc")])
    assert check(config, cache=cache).num_images == {"train": 1, "val": 2}


def test_a_list_without_splits_is_divided_and_scored_whole_elsewhere(root):
    for i in range(10):
        write(root / f"{i}.png", root / f"{i}_gold.png")
    lines = ["# image and mask", ""] + [f"{i}.png\t{i}_gold.png" for i in range(10)]
    config = config_of(root, **rows(root, lines, "pairs.txt"))
    report = check(config)
    assert report.num_images == {"train": 8, "val": 2} and set(report.divided) == {"train", "val"}
    other = config_of("elsewhere", list="pairs.txt", classes=str(root / "classes.json"))
    table = LabelTable.of_names(["background", "cell"])
    whole = scored.find(None, other, table, "val", root=str(root))
    assert whole.report.num_images == {"val": 10}
    assert whole.place == {"images": str(root), "masks": str(root / "pairs.txt")}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("b.png,a_m.png,train", r"pairs\.csv:3: b\.png: no such file; paths are absolute or of"),
        ("b.png,c.png,train", r"pairs\.csv:3: b\.png and c\.png: no such file"),
        ("./a.png,a_m.png,val", r"pairs\.csv:3: \./a\.png is in line 2 already"),
        ("c_m.png,a_m.png,dev", r"pairs\.csv:3: split 'dev'; write one of train, val, test"),
        ("c_m.png,a_m.png,", r"pairs\.csv:3: split ''; write one of train, val, test"),
        (
            "c_m.png,,train",
            r"pairs\.csv:3: c_m\.png has no mask; name its file, or set config\.dat",
        ),
        (",a_m.png,train", r"pairs\.csv:3: no image; name its file"),
        ("a,b,c,d", r"pairs\.csv:3: 4 cells of 3 columns; quote commas"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_left_out_if_asked(root, line, told):
    write(root / "a.png", root / "a_m.png")
    write(root / "c_m.png")
    listed = rows(root, ["image,mask,split", "a.png,a_m.png,train", line])
    with pytest.raises(DataError, match=told):
        found(root, **listed)
    with pytest.raises(DataError, match=told) as error:
        check(config_of(root, **listed), splits=("train",))
    assert len(str(error.value).splitlines()) == 2
    report = check(config_of(root, on_error="skip", **listed), splits=("train",))
    assert report.num_images == {"train": 1} and re.search(told, format_report(report))


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("p.csv", ["a.png,b.png"], r"p\.csv:1: the columns are \['a\.png', 'b\.png'\]; the first"),
        ("p.csv", ["image;mask"], r"p\.csv:1: the columns are \['image;mask'\]"),
        ("p.csv", ["image,mask"], r"p\.csv: holds no line; write an image and its mask in each"),
        ("p.txt", ["an image.png b.png"], r"p\.txt:1: 3 words; write two paths, or a CSV for path"),
        ("p.txt", ["a.png"], r"p\.txt:1: a\.png has no mask; name its file, or set"),
        (
            "q/p.txt",
            None,
            r"q/p\.txt: no such file; config\.data\.list is an absolute path, or one",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_named(root, name, lines, told):
    write(root / "a.png")
    if lines is not None:
        rows(root, lines, name)
    with pytest.raises(DataError, match=told):
        found(root, list=name)


def test_groups_stay_whole_and_come_close_to_the_shares():
    rng = np.random.default_rng(0)
    of_names = [f"p{i}" for i in range(30) for _ in range(rng.choice([1, 4, 9, 25]))]
    names = [f"{i:03d}" for i in range(len(of_names))]
    group_of = dict(zip(names, of_names, strict=True))
    for rule, largest_error in (("shares", 1), ("thresholds", len(names))):
        config = config_of("", divide=rule, test_fraction=0.2)
        parts = divide(config, names, of_names)
        assert sorted(n for part in parts.values() for n in part) == names
        groups_of = [{group_of[n] for n in part} for part in parts.values()]
        assert sum(map(len, groups_of)) == 30
        for split, share in (("val", 0.15), ("test", 0.2)):
            assert abs(len(parts[split]) - share * len(names)) <= largest_error
        assert divide(config, names[::-1], of_names[::-1]).keys() == parts.keys()
        shuffled = divide(config, names[::-1], of_names[::-1])
        assert all({*shuffled[split]} == {*parts[split]} for split in parts)
        folds = [
            divide(config_of("", divide=rule, folds=4, fold=i, test_fraction=0.2), names, of_names)
            for i in range(4)
        ]
        assert len({tuple(parts["test"]) for parts in folds}) == 1
        validated = [group_of[n] for parts in folds for n in parts["val"]]
        assert sorted(validated + [group_of[n] for n in folds[0]["test"]]) == sorted(of_names)
        assert len(validated) - max(len(p["val"]) for p in folds) * 4 >= -4 * 25


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([5], (5, 0, 0)),
        ([5, 5], (5, 5, 0)),
        ([50, 2, 1], (50, 2, 1)),
        ([9, 9, 9], (9, 9, 9)),
        ([97, 1, 1, 1], (97, 2, 1)),
    ],
)
def test_few_groups_leave_training_one(sizes, counts):
    names = [f"{group}/{i}" for group, size in enumerate(sizes) for i in range(size)]
    config = config_of("", val_fraction=0.15, test_fraction=0.15)
    parts = divide(config, names, [name.partition("/")[0] for name in names])
    sizes_found = tuple(len(parts[split]) for split in ("train", "val", "test"))
    assert sizes_found[0] == counts[0] and sorted(sizes_found[1:]) == sorted(counts[1:])


def test_a_group_is_the_expression_s_first_group_or_its_match():
    names = ["p1/a_01", "p1/b_02", "p2/c_03"]
    assert groups.of_names(names, "") == ()
    assert groups.of_names(names, r"^p\d+") == ("p1", "p1", "p2")
    assert groups.of_names(names, r"(p\d)/.*_(\d+)") == ("p1", "p1", "p2")
    assert groups.of_names([*names, "odd"], r"(p\d)/|.+") == ("p1", "p1", "p2", "odd")
    with pytest.raises(DataError, match=r"= '\^p1' does not match 1 of 3 names: p2/c_03; correct"):
        groups.of_names(names, "^p1")
    with pytest.raises(
        ConfigError, match=r"config.data.group_by is '\('; it must be a regular exp"
    ):
        groups.of_names(names, "(")


@pytest.mark.parametrize(
    ("pattern", "group_by"),
    [("{}_{:03d}", r"(.*\D)\d+$"), ("{}/{}", r"(.*\D)\d+$"), ("{}_r{}_c7", r"(.+)_r\d+_c\d+$")],
)
def test_slices_in_several_splits_are_told_with_what_to_set(root, pattern, group_by):
    for i in range(16):
        name = pattern.format(f"scan{'abcd'[i // 4]}", i % 4)
        write(root / f"images/{name}.png", root / f"masks/{name}.png")
    (warning,) = check(config_of(root)).warnings
    assert re.match(
        r"scan(.)\D.* \(train\) and scan\1\D.* \(val\)|scan(.)\D.* \(val\) and scan\2", warning
    )
    assert warning.endswith(f"set config.data.group_by='{group_by}'")
    report = check(config_of(root, group_by=group_by))
    assert report.warnings == [] and report.num_images == {"train": 12, "val": 4}
    assert "16 images in 4 groups, 12 train, 4 val, 0 test" in report.notes[0]
    write(root / "images/odd.png", root / "masks/odd.png")
    (warning,) = check(config_of(root)).warnings
    assert warning.endswith(f"set config.data.group_by='{group_by}|.+'")


@pytest.mark.parametrize("pattern", ["{:04d}", "img_{}", "{0}_{0}"])
def test_numbered_images_are_no_slices(root, pattern):
    for i in range(16):
        write(root / f"images/{pattern.format(i)}.png", root / f"masks/{pattern.format(i)}.png")
    assert check(config_of(root)).warnings == []


def test_a_group_in_two_split_folders_is_named(root):
    for split, name in (("train", "p1_1"), ("train", "p2_1"), ("val", "p1_2")):
        write(root / split / f"images/{name}.png", root / split / f"masks/{name}.png")
    assert check(config_of(root)).warnings == []
    told = r"- group 'p1' is in train \(p1_1\) and in val \(p1_2\); move its images into one split"
    with pytest.raises(DataError, match=told):
        check(config_of(root, group_by="(.*)_"))
    with pytest.raises(DataError, match=r"group_by = 'p2' does not match 1 of 2 names: p1_1"):
        check(config_of(root, group_by="p2"))


def test_images_without_a_mask_are_background_if_asked(root):
    for name in "ab":
        write(root / f"train/images/{name}.png", root / f"train/masks/{name}.png")
    write(root / "train/images/empty.png")
    write(root / "val/images/c.png", root / "val/masks/c.png")
    with pytest.raises(DataError, match=r"empty\.png has no mask"):
        check(config_of(root))
    config = config_of(root, missing_mask="background")
    report = check(config)
    folder = root / "train/images"
    told = f"{folder}: 1 images without a mask are background, such as {folder}/empty.png"
    assert report.notes == [told]
    assert report.pixel_counts["train"].tolist() == [3 + 3 + 6, 3 + 3]
    source = build_source(config, "train")
    assert source[2]["label"].tolist() == [[0, 0, 0], [0, 0, 0]]
    save(root / "train/masks/alone.png", MASK)
    with pytest.raises(DataError, match=r"alone\.png has no image"):
        check(config)
    (root / "train/masks/alone.png").unlink()
    config.classes = json.dumps({"classes": ["sky", "road"]})
    with pytest.raises(
        ConfigError, match=r"no class is called so, but sky, road; 1 images have no"
    ):
        check(config)


def test_a_second_class_that_is_the_background_is_that_of_missing_masks(root):
    write(root / "a.png", root / "m.png")
    write(root / "b.png")
    listed = rows(root, ["image,mask", "a.png,m.png", "b.png,"])
    classes = json.dumps({"classes": ["cell", "background"], "values": [1, 0]})
    config = config_of(root, missing_mask="background", classes=classes, val_fraction=0.0, **listed)
    source = build_source(config, "train")
    assert source[0]["label"].tolist() == (1 - MASK).tolist()
    assert source[1]["label"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_other_data_in_one_folder_are_scored_whole(root):
    for i in range(6):
        write(root / f"other/{i}.png", root / f"other/{i}_mask.png")
        write(root / f"apart/i/{i}.png", root / f"apart/m/{i}_mask.png")
    table = LabelTable.of_names(["background", "cell"])
    config = config_of(root / "own", group_by="^p", list="own.csv")
    whole = scored.find(None, config, table, "val", root=str(root / "other"))
    assert (whole.name, whole.report.num_images) == ("other", {"val": 6})
    folders = {"images": str(root / "apart/i"), "masks": str(root / "apart/m")}
    assert scored.find(None, config, table, "val", **folders).report.num_images == {"test": 6}


def test_a_run_of_before_these_fields_knows_none_of_them(tmp_path):
    config = defaults.get_config()
    held = workdir.as_json(config)
    for field in ("pairing", "list", "missing_mask", "group_by"):
        del held["data"][field]
    workdir.write_json(Path(tmp_path) / "config.json", held)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    workdir.require_same_run(tmp_path, config)
