"""Whatever a user types into a configuration or a label table, the answer is an error of ours."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from ml_collections import ConfigDict
from test_decode import WHOLE, with_overview

from segjax import defaults
from segjax.data.check import check
from segjax.data.decode import decode_image, decode_mask
from segjax.data.label_table import LabelTable
from segjax.errors import DataError, SegjaxError
from segjax.training.validate import validate

quick = settings(
    max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
numbers = st.one_of(st.integers(-3, 1000), st.floats(width=32), st.booleans())
anything = st.one_of(numbers, st.none(), st.text(max_size=5), st.lists(numbers, max_size=6))


def fields(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key


FIELDS = sorted(fields(defaults.get_config()))


@quick
@given(st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1, max_size=2))
def test_a_configuration_is_valid_or_refused_in_one_line(changes):
    config = defaults.get_config()
    config.data.source = "shapes"
    try:
        config.update_from_flattened_dict(changes)
    except (TypeError, ValueError):  # ml_collections refuses the type; the command line says so
        return
    try:
        validate(config)
    except SegjaxError as error:
        assert "config." in str(error) and "\n" not in str(error)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ("classes", "values", "void", "colors", "void_colors", "palette", "other")
tables = st.one_of(
    st.text(max_size=20),
    json_values.map(json.dumps),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4).map(json.dumps),
    st.fixed_dictionaries(
        {"classes": st.just(["a", "b"])},
        optional=dict.fromkeys(KEYS[1:], json_values),
    ).map(json.dumps),
)
masks = st_numpy.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.int64, np.float32, bool]),
    st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=4),
)


@quick
@given(tables, masks)
def test_a_label_table_and_a_mask_give_class_ids_or_are_refused(text, mask):
    try:
        table = LabelTable.from_json(text, "classes.json")
        label = table.encode(mask, "mask.png")
    except SegjaxError:
        return
    assert label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(len(table.names)), 255}
    assert LabelTable.from_json(table.to_json()) == table


@quick
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_files_of_random_bytes_are_named(tmp_path, image, mask):
    for split in ("train", "val"):
        for kind, content in (("images", image), ("masks", mask)):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind / "a.png").write_bytes(content)
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    config = defaults.get_config().data
    config.root = str(tmp_path)
    with pytest.raises(SegjaxError, match=r"a\.png"):
        check(config)


# Most bytes of a file's first hundred decide what it is.
places = st.one_of(st.integers(0, 100), st.integers(0, 1000))
edits = st.lists(st.tuples(places, st.integers(0, 255)), max_size=5)


@quick
@given(st.sampled_from([*WHOLE.values(), with_overview()]), edits, st.integers(1, 2000))
def test_a_damaged_file_is_decoded_or_named(data, changes, length):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value
    content = bytes(damaged[:length])
    for decode in (
        lambda: decode_image(content, "a.png", (0, 255)),
        lambda: decode_mask(content, "a.png", as_colors=False),
    ):
        try:
            assert decode().size
        except DataError as error:
            assert str(error).startswith("a.png: ") and " at 0x" not in str(error)
