"""Annotations of other tools, in samples of their structure: exact masks, faults, and back."""

import base64
import itertools
import json
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segjax import annotate, defaults, prepare
from segjax.data.annotations import regions
from segjax.data.annotations.convert import READERS, convert
from segjax.data.annotations.outlines import components, joined, outlines
from segjax.data.annotations.write import _runs, write
from segjax.data.sources import build_source, has_split
from segjax.errors import DataError

HEIGHT, WIDTH = 6, 8
SQUARE = [2, 1, 5, 1, 5, 4, 2, 4]  # columns 2 to 4, rows 1 to 3


def image(path, size=(HEIGHT, WIDTH), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1]).save(path)
    return path


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def png(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def text(data):
    return base64.b64encode(data).decode()


def box(class_id, rows, columns, mask=None):
    """A mask with a filled box."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8) if mask is None else mask.copy()
    mask[slice(*rows), slice(*columns)] = class_id
    return mask


def names(out):
    return json.loads((out / "classes.json").read_text())["classes"]


def mask_of(out, name="a", split="."):
    return np.array(Image.open(out / split / "masks" / f"{name}.png"))


def dropped(out, kind="dropped"):
    report = json.loads((out / "prepared.json").read_text())
    return {reason: found["count"] for reason, found in report[kind].items()}


def rle_text(runs):
    """COCO's compressed RLE, after rleToString of its maskApi.c."""
    out = ""
    for i, run in enumerate(runs):
        x, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            c, x = x & 31, x >> 5
            more = x != (-1 if c & 16 else 0)
            out += chr((c | 32 if more else c) + 48)
    return out


def coco(annotations, file_name="a.png", categories=((7, "cell"), (3, "dish")), size=None):
    height, width = size or (HEIGHT, WIDTH)
    entries = [{"id": i, "image_id": 5, "iscrowd": 0} | a for i, a in enumerate(annotations, 1)]
    return {
        "images": [{"id": 5, "file_name": file_name, "height": height, "width": width}],
        "annotations": entries,
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


@pytest.fixture
def source(tmp_path):
    image(tmp_path / "source/a.png")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(tool, source, out, **options):
    return convert(tool, str(source), str(out), **options)[0]


# The rule of pixels


def test_a_pixel_belongs_to_a_polygon_when_its_centre_lies_inside():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :40] + 0.5
    for _ in range(20):
        ring = rng.uniform(-10, 50, (7, 2))
        inside = np.zeros((30, 40), bool)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                inside ^= ((y0 <= y) != (y1 <= y)) & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
        patch = regions.polygons([ring], (30, 40))
        whole = np.zeros((30, 40), bool)
        height, width = patch.mask.shape
        whole[patch.top : patch.top + height, patch.left : patch.left + width] = patch.mask
        np.testing.assert_array_equal(whole, inside)


def test_polygons_that_share_edges_share_no_pixel_and_leave_none_out():
    rng = np.random.default_rng(1)
    middle = rng.uniform(5, 15, 2)
    corners = np.array([[0, 0], [20, 0], [20, 20], [0, 20]], float)
    total = np.zeros((20, 20), int)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, left, mask, _ = regions.polygons([np.array([start, end, middle])], (20, 20))
        total[top : top + mask.shape[0], left : left + mask.shape[1]] += mask
    assert (total == 1).all()


def test_runs_and_their_text_round_trip():
    rng = np.random.default_rng(2)
    for share in (0, 0.02, 0.5, 1):
        mask = rng.random((40, 50)) < share
        runs = regions.to_runs(mask)
        assert regions.runs_of_text(rle_text(runs), "") == runs
        np.testing.assert_array_equal(regions.of_runs(runs, mask.shape, ""), mask)


def test_outlines_and_cuts_to_holes_keep_every_pixel():
    rng = np.random.default_rng(3)
    for share in (0.3, 0.6, 0.9):
        mask = rng.random((30, 30)) < share
        again = np.zeros_like(mask)
        for part in components(mask):
            rings = outlines(part)
            whole = np.zeros_like(mask)
            top, left, inside, _ = part
            whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
            holes = cv2.connectedComponents(np.pad(~whole, 1, constant_values=True).astype("u1"),
                                            connectivity=4)[0] - 2  # fmt: skip
            assert len(rings) == 1 + holes
            top, left, inside, _ = regions.polygons([joined(rings).astype(float)], mask.shape)
            again[top : top + inside.shape[0], left : left + inside.shape[1]] ^= inside
        np.testing.assert_array_equal(again, mask)


# COCO


def test_coco_polygons_runs_and_crowds(source, out):
    runs = [0, 2, 46]
    annotations = [
        {"category_id": 7, "segmentation": [SQUARE, [6, 4, 8, 4, 8, 6, 6, 6]]},
        {"category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}},
        {"category_id": 3, "segmentation": {"size": [6, 8], "counts": rle_text([36, 1, 11])}},
        {"category_id": 3, "segmentation": {"size": [6, 8], "counts": [2, 1, 45]}, "iscrowd": 1},
        {"category_id": 3, "bbox": [0, 0, 3, 3]},
        {"category_id": 3, "segmentation": [[0, 0, 4, 4]]},
        {"category_id": 3, "segmentation": [[-9, -9, -5, -9, -5, -5]]},
        {"category_id": 3, "segmentation": [[2.6, 2.6, 2.9, 2.6, 2.9, 2.9]]},
    ]  # fmt: skip
    save_json(source / "any.json", coco(annotations))
    run("coco", source, out)
    assert names(out) == ["background", "dish", "cell"]  # by id
    expected = box(2, (4, 6), (6, 8), box(2, (1, 4), (2, 5)))
    expected = box(255, (2, 3), (0, 1), box(1, (0, 2), (0, 1), expected))
    expected[0, 6] = 1
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out) == {
        "annotations with a bounding box only": 1,
        "polygons of fewer than 3 points": 1,
        "regions outside of the image": 1,
        "regions without the centre of a pixel": 1,
    }
    assert (out / "images/a.png").readlink() == source / "a.png"
    row = json.loads((out / "prepared.json").read_text())["classes"][2]
    assert row == {"id": 2, "name": "cell", "images": 1, "regions": 1, "pixels": 13}


def test_what_is_smaller_lies_on_top_and_of_equals_the_later(source, out):
    small, large = [3, 2, 4, 2, 4, 3, 3, 3], [0, 0, 8, 0, 8, 6, 0, 6]
    annotations = [
        {"category_id": 7, "segmentation": [small]},
        {"category_id": 3, "segmentation": [small]},
        {"category_id": 7, "segmentation": [[*large]]},
        {"category_id": 7, "segmentation": [[*large]], "iscrowd": 1},
        {"category_id": 3, "segmentation": [[-2, 5, 3, 5, 3, 9, -2, 9]]},
    ]
    save_json(source / "any.json", coco(annotations))
    run("coco", source, out)
    expected = box(1, (5, 6), (0, 3), box(1, (2, 3), (3, 4), np.full((6, 8), 2, np.uint8)))
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out, "notes") == {"regions clipped at the edge of the image": 1}


def test_coco_s_own_folders_become_splits(tmp_path, out):
    source = tmp_path / "coco"
    for split in ("train", "val"):
        image(source / f"{split}2017/{split}.jpg")
        content = coco([{"category_id": 7, "segmentation": [SQUARE]}], f"{split}.jpg")
        save_json(source / f"annotations/instances_{split}2017.json", content)
        save_json(source / f"annotations/captions_{split}2017.json", content)
    run("coco", source, out)
    config = defaults.get_config().data
    config.update(root=str(out), classes="")
    assert not has_split(config, "test")
    for split in ("train", "val"):
        example = build_source(config, split)[0]["label"]
        np.testing.assert_array_equal(example, box(2, (1, 4), (2, 5)))
    assert dropped(out) == {"files that are not instances_*.json": 2}


def test_roboflow_s_coco_with_its_heading_and_one_split(tmp_path, out):
    image(tmp_path / "rf/train/a.jpg")
    content = coco([{"category_id": 1, "segmentation": [SQUARE]}], "a.jpg")
    content["categories"] = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cells"},
    ]
    save_json(tmp_path / "rf/train/_annotations.coco.json", content)
    run("coco", tmp_path / "rf", out)
    assert names(out) == ["background", "cell"]
    assert mask_of(out).sum() == 9  # training alone is one folder, which segjax divides


def test_panoptic_segments(tmp_path, out):
    source = tmp_path / "source"
    image(source / "val/a.png")
    colors = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colors[1:4, 2:5] = (1, 2, 3)
    colors[4:, 6:] = (9, 0, 0)
    colors[0] = (8, 0, 0)
    path = source / "panoptic_val/a.png"
    path.parent.mkdir()
    Image.fromarray(colors).save(path)
    segments = [
        {"id": 1 + 256 * 2 + 65536 * 3, "category_id": 7},
        {"id": 9, "category_id": 3, "iscrowd": 1},
        {"id": 8, "category_id": 3, "iscrowd": 0},
    ]
    content = coco([]) | {
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}]
    }
    save_json(source / "panoptic_val.json", content)
    run("coco-panoptic", source, out)
    expected = box(1, (0, 1), (0, 8), box(2, (1, 4), (2, 5), np.full((6, 8), 255, np.uint8)))
    np.testing.assert_array_equal(mask_of(out, split="val"), expected)
    assert dropped(out) == {}
    segments.pop()
    save_json(source / "panoptic_val.json", content)
    with pytest.raises(DataError, match=r"panoptic_val/a\.png: unknown segment ids: \[8\]; add"):
        run("coco-panoptic", source, out.with_name("other"))


# Other tools


def labelme(shapes, name="a.png", **fields):
    given = {"imagePath": name, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
    return {"version": "5.4.1", "flags": {}, "shapes": shapes} | given | fields


def shape(label, points, kind="polygon", **fields):
    return {"label": label, "points": points, "shape_type": kind} | fields


def test_labelme_shapes(source, out):
    corners = np.array(SQUARE).reshape(-1, 2).tolist()
    mask = text(png(np.array([[1, 0], [1, 1]], np.uint8)))
    shapes = [
        shape("cell", corners),
        shape("dish", [[8, 6], [6.4, 4.4]], "rectangle"),
        shape("cell", [[1, 5], [1, 6]], "circle"),
        shape("dish", [[0, 0], [1, 1]], "mask", mask=mask),
        shape("__ignore__", [[7, 0], [8, 0], [8, 1], [7, 1]]),
        shape("_background_", [[3, 2], [4, 2], [4, 3], [3, 3]]),
        shape("cell", [[0, 0], [1, 1]], "line"),
        shape("cell", [[0, 0]], "point"),
    ]
    save_json(source / "a.json", labelme(shapes))
    image(source / "b.png")
    run("labelme", source, out)
    assert names(out) == ["background", "cell", "dish"]
    expected = box(0, (2, 3), (3, 4), box(1, (1, 4), (2, 5)))
    expected = box(2, (4, 6), (6, 8), box(1, (4, 6), (0, 2), expected))
    expected[[0, 1, 1], [0, 0, 1]] = 2
    expected[0, 7] = 255
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out) == {
        "shapes without area (line)": 1,
        "shapes without area (point)": 1,
        "images without annotations": 1,
    }
    run("labelme", source, out.with_name("other"), empty="background")
    assert not mask_of(out.with_name("other"), "b").any()


def test_labelme_images_in_other_folders_and_inside_of_the_file(tmp_path, out):
    source = tmp_path / "source"
    square = [shape("cell", np.array(SQUARE).reshape(-1, 2).tolist())]
    image(source / "one/images/a.jpg")
    image(source / "two/images/a.jpg")
    for folder in ("one", "two"):
        save_json(source / folder / "json/a.json", labelme(square, "..\\images\\a.jpg"))
    data = text(png(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    save_json(source / "c.json", labelme(square, "c.png", imageData=data))
    run("labelme", source, out)
    masks = sorted(path.relative_to(out).as_posix() for path in out.glob("masks/**/*.png"))
    assert masks == ["masks/c.png", "masks/one/images/a.png", "masks/two/images/a.png"]
    assert (out / "images/one/images/a.jpg").resolve() == source / "one/images/a.jpg"
    assert not (out / "images/c.png").is_symlink()
    config = defaults.get_config().data
    config.update(root=str(out), val_fraction=0.4, test_fraction=0.0)
    assert build_source(config, "train")[0]["label"].sum() == 9


XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><labels><label><name>dish</name></label><label><name>cell</name></label></labels></task></meta>
<image id="0" name="a.png" width="8" height="6">{shapes}</image></annotations>"""


def test_cvat_shapes_and_their_order(source, out):
    shapes = """
<polygon label="cell" source="manual" occluded="0" points="2,1;5,1;5,4;2,4" z_order="0"/>
<box label="dish" xtl="2" ytl="1" xbr="4" ybr="2" z_order="1"></box>
<box label="dish" xtl="2.4" ytl="1.1" xbr="3.6" ybr="3.9" rotation="90.0" z_order="2"></box>
<box label="dish" xtl="0" ytl="0" xbr="8" ybr="6" z_order="-1"></box>
<mask label="cell" rle="1, 2, 1" left="6" top="4" width="2" height="2" z_order="0"></mask>
<ellipse label="cell" cx="1" cy="5" rx="1" ry="1" z_order="0"></ellipse>
<polyline label="cell" points="0,0;1,1"/><points label="cell" points="1,1"/><tag label="cell"/>"""
    (source / "annotations.xml").write_text(XML.format(shapes=shapes))
    run("cvat", source, out)
    assert names(out) == ["background", "dish", "cell"]
    expected = box(2, (1, 4), (2, 5), np.ones((HEIGHT, WIDTH), np.uint8))
    expected[1, 2:4] = 1
    expected[2, 2:4] = 1  # a box turns around its middle, (3, 2.5)
    expected[[4, 5], [7, 6]] = 2
    expected[4:, :2] = 2
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out) == {"shapes without area (polyline)": 1, "shapes without area (points)": 1}


def test_cvat_masks(tmp_path, out):
    source = tmp_path / "source"
    lists = source / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    labelmap = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:1,2,3::\ndish:4,5,6::\n"
    (source / "labelmap.txt").write_text(labelmap)
    colors = np.array([[0, 0, 0], [4, 5, 6], [1, 2, 3]], np.uint8)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text(f"{split}/x y\n")
        image(source / f"JPEGImages/{split}/x y.jpg")
        path = source / f"SegmentationClass/{split}/x y.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(colors[box(2, (1, 4), (2, 5))]).save(path)
    run("cvat", source, out)
    assert names(out) == ["background", "cell", "dish"]
    for split in ("train", "val"):
        np.testing.assert_array_equal(mask_of(out, "x y", split), box(1, (1, 4), (2, 5)))
    assert dropped(out) == {}
    (source / "labelmap.txt").write_text("background:0,0,0::\ncell:1,2,4::\n")
    with pytest.raises(DataError, match=r"colours outside the label table: \(1, 2, 3\)"):
        run("cvat", source, out.with_name("other"))


def brush(mask):
    """The bits of @thi.ng/rle-pack: runs of one word, or of several."""
    words = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = f"{len(words):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for _, group in itertools.groupby(words.tolist()):
        run = [*group]
        if len(run) <= 8:  # literally
            bits += f"0{0:02b}{len(run) - 1:03b}" + "".join(f"{word:08b}" for word in run)
        else:
            bits += f"1{2:02b}{len(run) - 1:08b}{run[0]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def brushed(rle):
    value = {"format": "rle", "rle": rle, "brushlabels": ["cell"]}
    return {"type": "brushlabels", "id": "r", "value": value}


def task(results, data="/data/upload/1/0123abcd-a.png"):
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    return {
        "id": 4,
        "data": {"image": data},
        "annotations": [{"result": [sides | r for r in results]}],
    }


def test_label_studio_regions(source, out):
    per_cent = (np.array(SQUARE).reshape(-1, 2) * 100 / (WIDTH, HEIGHT)).tolist()
    corner = {"x": 75, "y": 400 / 6, "width": 25, "height": 200 / 6, "rotation": 0}
    results = [
        {"type": "polygonlabels", "value": {"points": per_cent, "polygonlabels": ["cell"]}},
        {"type": "rectanglelabels", "value": corner | {"rectanglelabels": ["dish"]}},
        brushed(brush(box(1, (0, 1), (0, 3)))),
        {
            "type": "ellipselabels",
            "value": {"x": 12.5, "y": 500 / 6, "radiusX": 12.5, "radiusY": 100 / 6,
                      "ellipselabels": ["dish"]},
        },
        {"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 1}},
        {"type": "choices", "value": {"choices": ["good"]}},
        {"type": "rectangle", "value": corner},
    ]  # fmt: skip
    save_json(source / "project.json", [task(results)])
    run("label_studio", source, out)
    assert names(out) == ["background", "cell", "dish"]
    expected = box(2, (4, 6), (6, 8), box(1, (1, 4), (2, 5)))
    expected = box(2, (4, 6), (0, 2), box(1, (0, 1), (0, 3), expected))
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out) == {
        "results without area (keypointlabels)": 1,
        "results without area (choices)": 1,
        "regions without a label": 1,
    }


@pytest.mark.parametrize(
    "data", ["/data/local-files/?d=x/a%2Epng", "s3://b/a.png?sign=1/2", "a.png"]
)
def test_label_studio_finds_images_by_the_end_of_their_names(source, out, data):
    expected = box(1, (1, 4), (2, 5))
    save_json(source / "project.json", [task([brushed(brush(expected))], data)])
    np.testing.assert_array_equal(mask_of(run("label_studio", source, out)), expected)


def test_roboflow_masks(tmp_path, out):
    source = tmp_path / "source"
    for split in ("train", "valid", "test"):
        image(source / split / "a.jpg")
        Image.fromarray(box(2, (1, 4), (2, 5))).save(source / split / "a_mask.png")
        (source / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, cell\n2, dish\n"
        )
    image(source / "test/b.jpg")
    run("roboflow", source, out)
    assert names(out) == ["background", "cell", "dish"]
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(mask_of(out, split=split), box(2, (1, 4), (2, 5)))
    assert dropped(out) == {"images without annotations": 1}
    (source / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n")
    with pytest.raises(DataError, match=r"a_mask\.png: values outside the label table: 2 \(9 pix"):
        run("roboflow", source, out.with_name("other"))


def supervisely(source, objects, **changes):
    image(source / "ds/img/a.png")
    classes = [{"title": "dish", "shape": "any"}, {"title": "cell", "shape": "polygon"}]
    save_json(source / "meta.json", {"classes": classes, "tags": []})
    content = {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects} | changes
    save_json(source / "ds/ann/a.png.json", content)


def bitmap(data, origin=(6, 4)):
    return {
        "classTitle": "dish",
        "geometryType": "bitmap",
        "bitmap": {"data": text(zlib.compress(data)), "origin": origin},
    }


def polygon(exterior, interior=(), kind="polygon"):
    points = {"exterior": exterior, "interior": interior}
    return {"classTitle": "cell", "geometryType": kind, "points": points}


def test_supervisely_objects(tmp_path, out):
    source = tmp_path / "source"
    rgba = np.full((2, 3, 4), 255, np.uint8)
    rgba[0, 0, 3] = 0
    hole = [[3, 2], [3, 2], [3, 2]]
    supervisely(
        source,
        [
            polygon([[2, 1], [4, 1], [4, 3], [2, 3]], [hole]),  # outlines are pixels
            polygon([[0, 5], [1, 5]], kind="rectangle"),
            bitmap(png(rgba)),
            polygon([[0, 0], [1, 0]], kind="line"),
        ],
    )
    run("supervisely", source, out)
    assert names(out) == ["background", "dish", "cell"]
    expected = box(0, (2, 3), (3, 4), box(2, (1, 4), (2, 5)))
    expected = box(2, (5, 6), (0, 2), expected)
    expected[[4, 5, 5], [7, 6, 7]] = 1
    np.testing.assert_array_equal(mask_of(out), expected)
    assert dropped(out) == {"shapes without area (line)": 1}
    assert dropped(out, "notes") == {"regions clipped at the edge of the image": 1}


# Back


def drawn(shape, seed):
    """Classes 0 to 2 in blobs with holes, and void; no two parts of a class touch."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 2)
    ids = np.digitize(noise, np.quantile(noise, (0.5, 0.75))).astype(np.uint8)
    ids[:2, :3] = 255
    return ids


@pytest.fixture
def predicted(tmp_path):
    for i, shape in enumerate([(40, 50), (33, 21)]):
        image(tmp_path / f"mine/images/sub/{i}.jpg", shape)
        path = tmp_path / f"mine/masks/sub/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn(shape, i)).save(path)
    save_json(tmp_path / "mine/classes.json", {"classes": ["background", "cell", "dish"]})
    return tmp_path / "mine"


@pytest.mark.parametrize("tool", ["coco", "labelme"])
def test_masks_come_back_from_a_tool_as_they_went(predicted, out, tool, monkeypatch, capsys):
    target = predicted / ("back.json" if tool == "coco" else "back")
    arguments = [tool, "--images", f"{predicted}/images", "--masks", f"{predicted}/masks",
                 "--classes", f"{predicted}/classes.json", "--output", str(target)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["annotate", *arguments])
    annotate.main()
    assert "regions of 2 images" in capsys.readouterr().out
    run(tool, predicted, out)
    assert names(out) == ["background", "cell", "dish"]
    for i, shape in enumerate([(40, 50), (33, 21)]):
        expected = drawn(shape, i)
        expected[expected == 255] = 0
        np.testing.assert_array_equal(mask_of(out, i), expected)
    with pytest.raises(SystemExit, match=r"error: .*back.*: exists already"):
        annotate.main()


def test_coco_instances_survive_the_way_to_masks_and_back(tmp_path, out):
    source = tmp_path / "source"
    image(source / "a.png", (120, 160))
    rng = np.random.default_rng(5)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rings = []
    for y, x in itertools.product((20, 60, 100), (20, 60, 100, 140)):
        radius = rng.uniform(6, 18, 24)
        ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        rings.append(ring.round(2))
    annotations = [
        {"category_id": (3, 7)[i % 2], "segmentation": [ring.ravel().tolist()]}
        for i, ring in enumerate(rings)
    ]
    save_json(source / "a.json", coco(annotations, size=(120, 160)))
    run("coco", source, out)
    target = tmp_path / "back.json"
    done = write("coco", f"{out}/images", f"{out}/masks", f"{out}/classes.json", str(target))
    back = json.loads(target.read_text())
    assert done == {"images": 1, "regions": 12} and len(back["annotations"]) == 12
    assert [c["name"] for c in back["categories"]] == ["dish", "cell"]
    masks = [
        regions.of_runs(a["segmentation"]["counts"], (160, 120), "").T for a in back["annotations"]
    ]
    for ring in rings:
        patch = regions.polygons([ring], (120, 160))
        mask = np.zeros((120, 160), bool)
        height, width = patch.mask.shape
        mask[patch.top : patch.top + height, patch.left : patch.left + width] = patch.mask
        best = max((mask & other).sum() / (mask | other).sum() for other in masks)
        assert best > 0.99
        # Against the area of the polygon itself: a rule of pixels without a bias.
        x, y = ring.T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        assert mask.sum() == pytest.approx(area, rel=0.03)


def test_a_tolerance_makes_polygons_of_fewer_points(predicted, tmp_path):
    folders = [str(predicted / name) for name in ("images", "masks", "classes.json")]
    points = []
    for tolerance in (0, 1):
        output = tmp_path / f"back{tolerance}"
        write("labelme", *folders, str(output), tolerance)
        shapes = json.loads((output / "sub/0.json").read_text())["shapes"]
        points.append(sum(len(shape["points"]) for shape in shapes))
    assert points[1] < points[0] / 2


def test_masks_that_do_not_fit_are_refused_before_anything_is_written(predicted, tmp_path):
    output = tmp_path / "back"
    arguments = [str(predicted / name) for name in ("images", "masks", "classes.json")]
    Image.fromarray(np.full((33, 21), 7, np.uint8)).save(predicted / "masks/sub/1.png")
    with pytest.raises(DataError, match=r"1\.png: ids \[7\] are no class of .*from 0 to 2"):
        write("labelme", *arguments, str(output))
    Image.fromarray(np.zeros((33, 20), np.uint8)).save(predicted / "masks/sub/1.png")
    with pytest.raises(DataError, match=r"1\.png: the mask is 33×20, its image .* is 33×21"):
        write("labelme", *arguments, str(output))
    (predicted / "masks/sub/1.png").unlink()
    with pytest.raises(DataError, match=r"1\.jpg has no mask"):
        write("labelme", *arguments, str(output))
    with pytest.raises(DataError, match=r"--classes nope\.json: no such file"):
        write("labelme", *arguments[:2], "nope.json", str(output))
    assert not output.exists()


# Faults


def region(shape, **fields):
    return {"category_id": 7, "segmentation": shape} | fields


SIZE = [HEIGHT, WIDTH]
GOOD = region([SQUARE])
FAULTS = {
    "odd": (coco([region([SQUARE[:-1]])]), "annotation 1: polygon with an odd number of .*: 7;"),
    "nan": (coco([region([[float("nan"), *SQUARE[1:]]])]), "coordinate that is NaN or infinite"),
    "infinite": (coco([region([[1e300, *SQUARE[1:]]])]), "coordinate that is NaN or infinite"),
    "text": (coco([region([["x", *SQUARE[1:]]])]), "points that are no numbers"),
    "category": (coco([region([SQUARE], category_id=99)]), "unknown category_id: 99; add it"),
    "category list": (coco([region([SQUARE], category_id=[])]), '"category_id" missing, or of an'),
    "image": (coco([region([SQUARE], image_id=1)]), "unknown image_id: 1; add it"),
    "runs": (coco([region({"size": SIZE, "counts": [4, 4]})]), "RLE that does not fit its size: 8"),
    "negative": (coco([region({"size": SIZE, "counts": [-1, 49]})]), "RLE that does not fit"),
    "size of RLE": (coco([region({"size": [1, 1], "counts": [1]})]), "RLE of another size"),
    "characters": (coco([region({"size": SIZE, "counts": "\t"})]), "RLE with a character that is"),
    "cut": (coco([region({"size": SIZE, "counts": "ooo"})]), "RLE that is cut off"),
    "no counts": (coco([region({"size": SIZE})]), "RLE without counts"),
    "a shape of text": (coco([region("x")]), '"size" missing, or of another type'),
    "size": (coco([GOOD], size=(6, 9)), r"size that is not the image's: 6×9 .* is 6×8"),
    "no size": (coco([GOOD], size=("6", True)), '"height" missing, or of another type: 6'),
    "missing": (coco([GOOD], "b.png"), r"image that is missing: b\.png; put it below"),
    "outside": (coco([GOOD], "../../etc/a.png"), "path that leads outside of --source: ../../etc"),
    "no name": (coco([GOOD], ""), "image that is missing"),
    "name": (coco([GOOD], categories=((7, ""),)), "name that is empty"),
    "many": (coco([GOOD], categories=[(i, f"c{i}") for i in range(300)]), "one too many for a"),
    "twice": (coco([GOOD], categories=[(7, "a"), (7, "b")]), "category id given twice"),
    "no list": (coco([GOOD]) | {"images": {}}, '"images" missing, or of another type'),
    "no objects": (coco([GOOD]) | {"annotations": [3]}, '"annotations" with an entry that is no'),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_coco_is_one_line_and_nothing_is_written(source, out, name):
    content, message = FAULTS[name]
    save_json(source / "any.json", content)
    with pytest.raises(DataError, match=message) as raised:
        run("coco", source, out)
    first, *lines = str(raised.value).splitlines()
    assert first == "problems in the data:" and len(lines) == 1
    assert lines[0].startswith("- ") and "; " in lines[0]
    assert not out.exists()


def test_the_size_that_counts_is_that_of_the_image_as_it_is_shown(tmp_path, out):
    source = tmp_path / "source"
    source.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(source / "a.jpg", exif=turned)
    save_json(source / "any.json", coco([GOOD], "a.jpg", size=(WIDTH, HEIGHT)))
    with pytest.raises(DataError, match="remove the tag"):
        run("coco", source, out)
    save_json(source / "any.json", coco([GOOD], "a.jpg"))
    run("coco", source, out)
    assert mask_of(out).shape == (HEIGHT, WIDTH)


def test_regions_at_every_edge_become_the_same_runs():
    for rows, columns in itertools.product(((0, 5), (0, 2), (3, 5)), ((0, 4), (0, 1), (3, 4))):
        part = np.zeros((5, 4), bool)
        part[slice(*rows), slice(*columns)] = True
        (patch,) = components(part)
        assert _runs(patch, part.shape) == regions.to_runs(part.T)


@pytest.mark.parametrize("name", ["odd", "nan", "category", "runs", "cut", "text"])
def test_faults_can_be_left_out_and_are_counted(source, out, name):
    content = FAULTS[name][0]
    content = content | {"annotations": [*content["annotations"], GOOD | {"id": 2, "image_id": 5}]}
    save_json(source / "any.json", content)
    run("coco", source, out, on_error="skip")
    np.testing.assert_array_equal(mask_of(out), box(2, (1, 4), (2, 5)))
    assert sum(dropped(out).values()) == 1


def test_an_image_whose_annotations_are_all_at_fault_is_no_background(source, out):
    content = coco([region([SQUARE[:-1]])])
    content["images"].append(content["images"][0] | {"id": 6, "file_name": "b.png"})
    image(source / "b.png")
    save_json(source / "any.json", content)
    run("coco", source, out, on_error="skip", empty="background")
    assert [path.name for path in (out / "masks").iterdir()] == ["b.png"]
    assert "images of whose annotations none could be used" in dropped(out)


@pytest.mark.parametrize("content", ["", '{"images": [', "[" * 100_000, "3", "null", "\xff\xfe"])
@pytest.mark.parametrize("tool", ["coco", "coco-panoptic", "labelme", "label_studio"])
def test_what_is_no_json_is_named(source, out, tool, content):
    (source / "any.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=str(source)):
        run(tool, source, out)
    assert not out.exists()


LABELME_FAULTS = {
    "type": (labelme([shape("cell", [[0, 0]], "star")]), "shape 1: unknown shape_type: star"),
    "label": (labelme([shape(3, [[0, 0]])]), '"label" missing, or of another type: 3'),
    "points": (labelme([shape("cell", [[0, 0, 1]] * 3)]), "points that are not x, y"),
    "ragged": (labelme([shape("cell", [[0, 0], [1]])]), "points that are no numbers"),
    "circle": (labelme([shape("cell", [[0, 0]], "circle")]), "circle that has not 2 points: 1"),
    "base64": (labelme([shape("c", [[0, 0], [1, 1]], "mask", mask="?")]), "mask is not base64"),
    "no png": (labelme([shape("c", [[0, 0], [1, 1]], "mask", mask="AAAA")]), "mask: no image"),
    "mask": (
        labelme([shape("c", [[0, 0], [1, 1]], "mask", mask=text(png(np.ones((1, 1), np.uint8))))]),
        "mask of another size: 1×1, not 2×2",
    ),
    "size": (labelme([], imageHeight=60), "size that is not the image's: 60×8"),
    "outside": (labelme([], "../../a.png", imageData="AAAA"), "path that leads outside of"),
    "missing": (labelme([], "b.png"), "image that is missing"),
    "data": (labelme([], "b.png", imageData="AAAA"), "imageData: no image"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELME_FAULTS)
def test_a_fault_in_labelme_is_named(source, out, name):
    content, message = LABELME_FAULTS[name]
    save_json(source / "a.json", content)
    with pytest.raises(DataError, match=message):
        run("labelme", source, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            '<polygon label="cell" points="2,1;5,1;5"/>',
            "polygon with an odd number of coordinates: 5",
        ),
        ('<polygon label="cell" points="2,1;5,x"/>', "points that are no numbers"),
        ('<polygon points="2,1;5,1;5,4"/>', "shape 1: label missing"),
        ('<box label="cell" xtl="nan" ytl="1" xbr="4" ybr="2"/>', "xtl missing, or no number: nan"),
        (
            '<mask label="cell" rle="1, 2" left="6" top="4" width="2" height="2"/>',
            "RLE that does n",
        ),
        ('<star label="cell"/>', "unknown shape: star"),
        (
            '<mask label="c" rle="4" left="0" top="0" width="-2" height="-2"/>',
            "RLE that does not fit",
        ),
        (
            '<mask label="c" rle="9" left="0" top="0" width="9" height="1"/>',
            "larger than its image",
        ),
        ("<polygon", "not XML, or cut off"),
        ('</image><image name="../../a.png" width="8" height="6">', "path that leads outside"),
        ('</image><image name="b.png" width="8" height="6">', "image that is missing"),
        ('</image><image name="a.png" width="9" height="6">', "size that is not the image's"),
        ("</image><track/><image>", "not CVAT's images"),
    ],
)
def test_a_fault_in_cvat_is_named(source, out, shapes, message):
    (source / "annotations.xml").write_text(XML.format(shapes=shapes))
    with pytest.raises(DataError, match=message):
        run("cvat", source, out)
    assert not out.exists()


def test_xml_that_grows_or_reads_files_is_refused(source, out):
    lines = XML.format(shapes="").splitlines()
    lines.insert(1, '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>')
    (source / "annotations.xml").write_text("\n".join(lines))
    with pytest.raises(DataError, match="it declares a document type"):
        run("cvat", source, out)


LS_FAULTS = {
    "cut": ({"rle": brush(box(1, (1, 4), (2, 5)))[:-3]}, "RLE that is cut off"),
    "words": ({"rle": brush(np.ones((2, 2)))}, "RLE that does not fit its size"),
    "huge": ({"rle": [255] * 12}, "RLE that does not fit its size"),
    "bytes": ({"rle": [256]}, "rle that is no list of bytes"),
    "nan": ({"points": [[0, 0], [9, float("nan")], [1, 2]]}, "NaN or infin"),
    "number": ({"x": "1", "y": 1, "width": 1, "height": 1}, '"x" missing, or'),
}  # fmt: skip


@pytest.mark.parametrize("name", LS_FAULTS)
def test_a_fault_in_label_studio_is_named(source, out, name):
    value, message = LS_FAULTS[name]
    value = value | {"brushlabels": ["cell"]}
    save_json(source / "project.json", [task([{"type": "brushlabels", "id": "r", "value": value}])])
    with pytest.raises(DataError, match=f"task 4, region r: .*{message}"):
        run("label_studio", source, out)
    result = {"type": "brushlabels", "value": value, "original_height": 9}
    save_json(source / "project.json", [task([result])])
    with pytest.raises(DataError, match="size that is not the image's: 9×8, not 6×8"):
        run("label_studio", source, out)
    for data, message in (
        ("../../a.png", "leads outside"),
        ("b.png", "missing"),
        ("x", "no image"),
    ):
        save_json(source / "project.json", [task([], data)])
        with pytest.raises(DataError, match=message):
            run("label_studio", source, out)


SUPERVISELY_FAULTS = {
    "class": ([polygon([[0, 0]] * 3) | {"classTitle": "x"}], "object 1: unknown classTitle: x"),
    "type": ([polygon([[0, 0]] * 3, kind="star")], "unknown geometryType: star"),
    "zlib": ([bitmap(b"") | {"bitmap": {"data": "AAAA", "origin": [0, 0]}}], "that is not zlib"),
    "png": ([bitmap(b"x")], "no image"),
    "origin": ([bitmap(png(np.ones((1, 1), np.uint8)), [0])], "points that are not x, y"),
    "nan": ([polygon([[0, 0], [1, 1], [float("nan"), 2]])], "NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPERVISELY_FAULTS)
def test_a_fault_in_supervisely_is_named(tmp_path, out, name):
    objects, message = SUPERVISELY_FAULTS[name]
    supervisely(tmp_path / "source", objects)
    with pytest.raises(DataError, match=rf"ann/a\.png\.json.*{message}"):
        run("supervisely", tmp_path / "source", out)
    assert not out.exists()


def test_what_belongs_to_no_split_or_bears_the_name_of_another_is_named(tmp_path, out):
    source = tmp_path / "source"
    square = [shape("cell", np.array(SQUARE).reshape(-1, 2).tolist())]
    for folder in ("train", "val", "more"):
        image(source / folder / "a.png")
        save_json(source / folder / "a.json", labelme(square))
    with pytest.raises(
        DataError, match=r"more/a\.json: image without a split: others are in train"
    ):
        run("labelme", source, out)
    (source / "more/a.json").unlink()
    image(source / "train/a.jpg")
    save_json(source / "train/a_jpg.json", labelme(square, "a.jpg"))
    with pytest.raises(DataError, match=r"one name, several images: .*/train/a\.jpg and"):
        run("labelme", source, out)


def test_an_output_that_exists_is_left_alone(source, out):
    save_json(source / "any.json", coco([GOOD]))
    image(out / "mine.png")
    with pytest.raises(DataError, match=r"out: exists already; remove it"):
        run("coco", source, out)
    (out / "mine.png").unlink()
    before = sorted(source.parent.rglob("*"))
    run("coco", source, out)
    assert all(path.is_relative_to(out) for path in {*source.parent.rglob("*")} - {*before})
    with pytest.raises(DataError, match="no such folder"):
        run("coco", source / "nothing", out.with_name("other"))


def test_an_output_that_cannot_be_written_and_masks_of_other_sizes(tmp_path, out):
    source = tmp_path / "source"
    image(source / "a.jpg")
    (source / "_classes.csv").write_text("Pixel Value, Class\n1, cell\n")
    Image.fromarray(box(1, (1, 4), (2, 5))).save(source / "a_mask.png")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="Not a directory; see to it"):
        run("roboflow", source, tmp_path / "file/out")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(source / "a_mask.png")
    out.mkdir()
    with pytest.raises(DataError, match=r"a_mask\.png: mask of another size: \(2, 2\), and "):
        run("roboflow", source, out)
    assert not [*out.iterdir()]


def test_every_tool_is_known_to_the_command_line(source, out, monkeypatch, capsys):
    assert set(prepare.TOOLS) == READERS.keys()
    save_json(source / "any.json", coco([GOOD]))
    arguments = ["prepare", "coco", "--source", str(source)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="error: coco becomes a folder; say where with --output"):
        prepare.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(out), "--empty=background"])
    prepare.main()
    printed = capsys.readouterr().out
    assert f"--config folder --config.data.root={out}" in printed
    assert "no pixel of dish" in printed and "images: 1 all" in printed
    monkeypatch.setattr(sys, "argv", ["prepare", "camvid", "--source", "x", "--empty=drop"])
    with pytest.raises(SystemExit, match="camvid has no --empty; leave it out"):
        prepare.main()


@pytest.mark.parametrize("name", ["annotate", "prepare"])
def test_help_answers_at_once(name):
    command = [sys.executable, "-X", "importtime", "-m", f"segjax.{name}", "--help"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "coco" in done.stdout
    assert " jax" not in done.stderr and " cv2" not in done.stderr


def test_no_reader_fails_on_values_of_other_types(tmp_path):
    """Every value of a good file in turn becomes something else: an error of ours, or a result."""
    source = tmp_path / "source"
    image(source / "a.png")
    small = text(png(np.ones((2, 2), np.uint8)))
    corner = {"x": 0, "y": 0, "width": 25, "height": 50, "rectanglelabels": ["cell"]}
    segments = [
        {"image_id": 5, "file_name": "p.png", "segments_info": [{"id": 1, "category_id": 7}]}
    ]
    image(source / "any/p.png")
    files = {
        "coco": coco([GOOD, region({"size": SIZE, "counts": [0, 2, 46]})]),
        "coco-panoptic": coco([]) | {"annotations": segments},
        "labelme": labelme([shape("cell", [[0, 0], [1, 1]], "mask", mask=small)]),
        "label_studio": [task([{"type": "rectanglelabels", "value": corner}])],
    }
    for number, (tool, changed) in enumerate((t, c) for t in files for c in changes(files[t])):
        save_json(source / "any.json", changed)
        with suppress(DataError):
            run(tool, source, tmp_path / f"{number}")
    source = tmp_path / "supervisely"
    supervisely(source, [bitmap(png(np.ones((2, 2), np.uint8))), polygon([[0, 0], [3, 0], [3, 3]])])
    for name in ("meta.json", "ds/ann/a.png.json"):
        before = (source / name).read_text()
        for number, changed in enumerate(changes(json.loads(before))):
            save_json(source / name, changed)
            with suppress(DataError):
                run("supervisely", source, tmp_path / f"{source.name}{name[:2]}{number}")
        (source / name).write_text(before)


def length(content):
    return len(content) if isinstance(content, list) else 0


def changes(content):
    """Copies of a JSON value in which one value inside is replaced."""
    for other in (None, [[]], "", -1, 1e400):
        if other != content:
            yield other
    keys = content if isinstance(content, dict) else range(length(content))
    for key, value in ((key, content[key]) for key in keys):
        for changed in changes(value):
            copy = dict(content) if isinstance(content, dict) else [*content]
            copy[key] = changed
            yield copy
