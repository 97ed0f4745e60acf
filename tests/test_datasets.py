import json

import cv2
import numpy as np
import pytest

from segjax.data.builders.lists import read_names
from segjax.data.label_table import TABLES, VOID, LabelTable, load_table
from segjax.data.palette import default_palette
from segjax.errors import ConfigError, DataError
from segjax.evaluation.plots import WRONG
from segjax.run import workdir


def table(**spec):
    return LabelTable.from_json(json.dumps({"classes": ["sky", "road"]} | spec), "classes.json")


def test_index_mask_becomes_ids_with_255_void_by_default():
    mask = np.array([[0, 1, 255]], np.uint8)
    ids = table().encode(mask, "a.png")
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[0, 1, VOID]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.int64])
def test_values_map_many_to_one_in_every_integer_type(dtype):
    cityscapes_like = table(values=[[7, 8], 11], void=[0])
    mask = np.array([[7, 8, 11, 0]], dtype)
    assert cityscapes_like.encode(mask, "a.png").tolist() == [[0, 0, 1, VOID]]


def test_a_class_may_claim_255():
    assert table(values=[0, 255]).encode(np.array([[0, 255]]), "a.png").tolist() == [[0, 1]]
    assert table(values=[0, 255]).void == ()


def test_color_masks():
    colors = table(colors=[[0, 0, 255], [255, 0, 0]], void_colors=[[0, 0, 0]])
    mask = np.array([[[255, 0, 0], [0, 0, 255], [0, 0, 0]]], np.uint8)
    assert colors.encode(mask, "a.png").tolist() == [[1, 0, VOID]]
    assert colors.encode(np.zeros((1, 2), np.uint8), "a.png").tolist() == [[VOID, VOID]]
    assert colors.palette.tolist() == [[0, 0, 255], [255, 0, 0]]


def test_rgb_of_equal_channels_reads_as_grey():
    mask = np.repeat(np.array([[0, 1, 255]], np.uint8)[..., None], 3, axis=-1)
    assert table().encode(mask, "a.png").tolist() == [[0, 1, VOID]]


@pytest.mark.parametrize(
    ("spec", "mask", "message"),
    [
        ({}, [[0, 7, 7, 9]], r"a\.png: .*: 7 \(2 pixels\), 9 \(1 pixels\); give each class"),
        ({}, [[0, -1, 70000]], r"-1 \(1 pixels\), 70000 \(1 pixels\)"),
        ({"void": []}, [[0, 255]], r'255 \(1 pixels\); .*"values": \[0, 255\]'),
        ({"values": [0, 255]}, [[*range(1, 90)]], r"1 \(1 pixels\), 2.*81 more.*resizing or JPEG"),
        ({}, [[[1, 2, 3]]], r'RGB mask \(\(1, 2, 3\) \(1 pixels\)\).*"colors"'),
        (
            {"colors": [[0, 0, 1], [0, 0, 2]]},
            [[[9, 8, 7]]],
            r'a\.png: colours .* \(9, 8, 7\) \(1 pixels\); list them under "colors"',
        ),
    ],
)
def test_what_the_table_lacks_names_file_value_count_and_remedy(spec, mask, message):
    mask = np.array(mask)
    with pytest.raises(DataError, match=message):
        table(**spec).encode(mask.astype(np.uint8) if mask.ndim == 3 else mask, "a.png")


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8)])
def test_floats_and_odd_shapes_are_refused(mask):
    with pytest.raises(DataError, match=r"a\.png: the mask is .*integers"):
        table().encode(mask, "a.png")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"colours": []}, r'classes\.json, "colours": unknown key; known are classes'),
        ({"classes": []}, r'"classes": 0 names'),
        ({"classes": ["a"] * 2}, r'"classes": a name stands twice'),
        ({"classes": [str(i) for i in range(256)]}, r'"classes": 256 names; give 2 to 255'),
        ({"values": [0]}, r'"values": 1 entries for 2 classes'),
        ({"values": [0, 0]}, r'"values": \[0\] claimed by more than one class'),
        ({"values": [0, 0.5]}, r'"values": \[0\.5\] must be integers'),
        ({"values": 5}, r'"values": must be a list'),
        ({"void": [1]}, r'"void": \[1\] stand for a class and for void'),
        ({"values": [0, 255], "void": [255]}, r'"void": \[255\] stand for a class and for void'),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, r'"palette": \[\[0, 0, 256\]\] must be \[r, g, b'),
        ({"colors": [[1, 1, 1]] * 2}, r'"colors": \[\(1, 1, 1\)\] claimed by more'),
        ({"colors": [[1, 1, 1], [2, 2, 2]], "values": [0, 1]}, r'"values": masks hold either'),
        ({"colors": [[1, 1, 1], [2, 2, 2]], "void_colors": [[1, 1, 1]]}, r'"void_colors": \[\(1,'),
    ],
)
def test_a_faulty_table_names_file_and_key(spec, message):
    with pytest.raises(DataError, match=message):
        table(**spec)


def test_json_round_trip():
    colors = table(colors=[[0, 0, 255], [255, 0, 0]], void_colors=[[0, 0, 0]])
    for original in (TABLES["camvid"], colors, table(values=[[1, 2], 255])):
        again = LabelTable.from_json(original.to_json())
        assert again == original
        np.testing.assert_array_equal(again.palette, original.palette)


def test_load_table_finds_builtin_file_text_and_root(tmp_path):
    text = '{"classes": ["background", "cell"], "values": [0, 255]}'
    (tmp_path / "classes.json").write_text(text)
    assert load_table("camvid", "") is TABLES["camvid"]
    for classes, root in [("", str(tmp_path)), (str(tmp_path / "classes.json"), ""), (text, "")]:
        assert load_table(classes, root).names == ("background", "cell")
    with pytest.raises(DataError, match=r"nowhere/classes\.json: no such file; write there"):
        load_table("", "nowhere")
    with pytest.raises(ConfigError, match=r"'camvit': give a built-in table \(ade20k, camvid, "):
        load_table("camvit", "")
    with pytest.raises(DataError, match=r"config\.data\.classes: not valid JSON"):
        load_table("{", "")


def test_describe_lists_every_value():
    lines = TABLES["camvid"].describe().splitlines()
    assert lines[0].split() == ["0", "→", "0", "Sky"]
    assert lines[-1].split() == ["11,", "255", "→", "255", "(void)"]


def test_default_palette_has_no_color_twice_and_none_like_the_red_of_errors():
    names = [str(i) for i in range(254)]
    assert len(np.unique(default_palette(names[:60]), axis=0)) == 60
    lab = cv2.cvtColor(np.float32([*default_palette(names), WRONG])[None] / 255, cv2.COLOR_RGB2LAB)[
        0
    ]
    assert np.linalg.norm(lab[:-1] - lab[-1], axis=-1).min() > 30  # 2 can just be told apart


@pytest.mark.parametrize(
    ("names", "background"),
    [
        (["background", "cell"], 0),
        (["Other", "road", "void"], 0),
        (["cell", "_background_"], 1),
        (["sky", "road"], None),
        (["backgrounds", "otherwise"], None),
    ],
)
def test_the_background_is_known_by_its_name_and_dark_unless_a_palette_is_given(names, background):
    table = LabelTable.of_names(names)
    assert table.background == background
    dark = table.palette.max(axis=1) < 100
    assert np.flatnonzero(dark).tolist() == ([] if background is None else [background])
    colors = [[255, 0, 0]] + [[0, 9 * i, 0] for i in range(1, len(names))]
    given = LabelTable.from_json(json.dumps({"classes": names, "palette": colors}))
    assert given.palette.tolist() == colors and given.background == background


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_classes_json_may_have_a_byte_order_mark(tmp_path, encoding):
    content = '{"classes": ["Straße", "東"]}'.encode(encoding)
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "classes.json").write_bytes(mark + content)
    assert load_table("", str(tmp_path)).names == ("Straße", "東")


def test_classes_json_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "classes.json"
    path.write_bytes('{"classes": ["Straße", "Weg"]}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.json: not text in UTF-8 \(byte 18 is 0xdf\)"):
        load_table("", str(tmp_path))
    path.write_bytes('\ufeff{"classes": ["a", "b"]}'.encode("utf-16-le")[:-1])
    with pytest.raises(DataError, match=r"classes\.json: not text"):
        load_table("", str(tmp_path))


def test_lists_of_names_and_a_run_s_files_are_read_in_the_same_way(tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_bytes("a\r\nb 1 1\n".encode("utf-8-sig"))
    assert read_names(listed, "") == ["a", "b"]
    listed.write_bytes(b"\xe9t\xe9\n")
    with pytest.raises(DataError, match=r"train\.txt: not text in UTF-8"):
        read_names(listed, "")
    for name, text in (("config", "{}"), ("pixel_counts", '{"ä": 1, "b": 2}')):
        (tmp_path / f"{name}.json").write_bytes(text.encode("utf-8-sig"))
    (tmp_path / "classes.json").write_bytes('{"classes": ["ä", "b"]}'.encode("utf-16"))
    assert workdir.load(tmp_path)[1].names == ("ä", "b")
    (tmp_path / "classes.json").write_bytes('{"classes": ["ä", "b"]}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.json is damaged"):
        workdir.load(tmp_path)


def test_built_in_tables_are_complete():
    num_classes = {name: len(table.names) for name, table in TABLES.items()}
    expected = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "oxford_pets": 3, "voc": 21}
    assert num_classes == expected
    for name, table in TABLES.items():
        assert table.palette.shape == (num_classes[name], 3), name
        assert LabelTable.from_json(table.to_json()) == table
        np.testing.assert_array_equal(load_table(name, "").palette, table.palette)


def test_voc_palette_is_the_official_one_by_its_rule():
    # Bits 0, 1, 2 of the class id go to the highest bits of red, green and blue, and so on.
    rule = [
        [sum((i >> (3 * k + c) & 1) << (7 - k) for k in range(8)) for c in range(3)]
        for i in range(21)
    ]
    assert TABLES["voc"].palette.tolist() == rule
    raw = np.array([[0, 20, 255]], np.uint8)
    assert TABLES["voc"].encode(raw, "a.png").tolist() == [[0, 20, VOID]]


def test_cityscapes_knows_all_34_label_ids():
    ids = TABLES["cityscapes"].encode(np.arange(34, dtype=np.uint8)[None], "a.png")[0]
    assert ids[[7, 8, 11, 24, 33]].tolist() == [0, 1, 2, 11, 18]
    assert sorted(ids[ids != VOID].tolist()) == list(range(19))
    assert np.flatnonzero(ids == VOID).tolist() == [*range(7), 9, 10, 14, 15, 16, 18, 29, 30]
    assert TABLES["cityscapes"].palette[13].tolist() == [0, 0, 142]


def test_ade20k_counts_from_one_and_pets_have_no_void():
    ids = TABLES["ade20k"].encode(np.arange(151, dtype=np.uint8)[None], "a.png")[0]
    assert ids.tolist() == [VOID, *range(150)]
    assert [TABLES["ade20k"].names[i] for i in (0, 12, 149)] == ["wall", "person", "flag"]
    pets = TABLES["oxford_pets"]
    assert pets.encode(np.array([[1, 2, 3]]), "a.png").tolist() == [[0, 1, 2]]
    for value in (0, 255):
        with pytest.raises(DataError, match=rf"a\.png: .*: {value} \(1 pixels\)"):
            pets.encode(np.array([[value]]), "a.png")
