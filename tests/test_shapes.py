import numpy as np
import pytest

from segjax.data import shapes


def test_an_image_is_a_function_of_seed_and_index():
    first, again = (shapes.draw(3, 7, (24, 32)) for _ in range(2))
    for key in ("image", "label"):
        np.testing.assert_array_equal(first[key], again[key])
    for other in (shapes.draw(3, 8, (24, 32)), shapes.draw(4, 7, (24, 32))):
        assert (other["image"] != first["image"]).any()


def test_splits_share_no_image():
    images = [
        shapes.ShapesSource(split, 3, (16, 16), seed=0)[i]["image"].tobytes()
        for split in shapes.FIRST_IMAGE
        for i in range(3)
    ]
    assert len(set(images)) == len(images)


def test_every_class_occurs_in_150_images():
    source = shapes.ShapesSource("train", 150, (32, 32), seed=0)
    found = set().union(*(np.unique(source[i]["label"]).tolist() for i in range(len(source))))
    assert found == set(range(21))
    assert len(source.table.names) == 21


@pytest.mark.parametrize("size", [(32, 32), (20, 48)])
def test_sizes_and_types(size):
    source = shapes.ShapesSource("val", 4, size, seed=1)
    assert len(source) == 4
    example = source[3]
    assert example["image"].shape == (*size, 3) and example["image"].dtype == np.uint8
    assert example["label"].shape == size and example["label"].dtype == np.uint8
    assert example["label"].max() <= 20
    assert example["image"].std() > 10, "a picture, not a plain colour"


def test_objects_cover_a_part_of_the_image_only():
    source = shapes.ShapesSource("train", 50, (32, 32), seed=0)
    background = np.mean([source[i]["label"] == 0 for i in range(50)])
    assert 0.3 < background < 0.9
