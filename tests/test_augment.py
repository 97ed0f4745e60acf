from functools import cache, partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import defaults
from segjax.training import augment

VOID = 255
STEP = 10  # red is STEP times the class
OUT = (32, 40)
NO_COLOR = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "gamma"), 0.0)
STILL = NO_COLOR | {"scale": (1.0, 1.0), "flip_horizontal": False, "flip_vertical": False}
SCALE_AND_CROP = jax.jit(augment.scale_and_crop, static_argnums=5)
WILD = {"scale": (0.5, 2.0), "flip_vertical": True}


def config(**changes):
    fields = defaults.get_config().augment
    fields.update(changes)
    return fields


def batch_of(count, size=(48, 48)):
    """Images 48 × 48 of blocks of one class, whose red says which; `size` of them is no padding."""
    blocks = np.random.default_rng(0).integers(0, 21, (count, 6, 6))
    label = blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    label[:, size[0] :], label[:, :, size[1] :] = VOID, VOID
    red = np.where(label == VOID, 0, STEP * label)
    return {
        "image": np.stack([red, 255 - label, label], axis=-1).astype(np.uint8),
        "label": label,
        "size": np.tile(np.array(size, np.int32), (count, 1)),
        "index": np.arange(count, dtype=np.int32),
    }


@cache
def compiled(out, changes):
    options = augment.Options(**config(**dict(changes)))
    return jax.jit(partial(augment.augment, out=out, options=options))


def run(batch, out=OUT, seed=0, **changes):
    image, label = compiled(out, tuple(changes.items()))(seed, batch)
    return np.asarray(image), np.asarray(label)


def interior(label):
    """Pixels of a class, two pixels or more away from another, from void and from the border."""
    window = np.ones((5, 5), np.uint8)
    same = np.stack([cv2.erode(one, window) == cv2.dilate(one, window) for one in label])
    same[:, [0, 1, -2, -1]] = same[:, :, [0, 1, -2, -1]] = False
    return same & (label != VOID)


def test_image_and_label_move_together():
    image, label = run(batch_of(16), **NO_COLOR, **WILD)
    assert image.shape == (16, *OUT, 3) and image.dtype == np.float32
    assert label.shape == (16, *OUT) and label.dtype == np.uint8
    inside = interior(label)
    assert inside.mean() > 0.1
    np.testing.assert_allclose(image[inside][:, 0], STEP * label[inside].astype(float), atol=0.01)


def test_no_new_label_value_appears_and_colors_stay_in_range():
    batch = batch_of(16)
    batch["label"] = np.where(batch["label"] > 10, 20, 3).astype(np.uint8)
    image, label = run(batch, **WILD)
    assert set(np.unique(label)) == {3, 20, VOID}
    assert image.min() >= 0 and image.max() <= 255


def test_colors_change_the_image_and_not_the_label():
    batch = batch_of(4)
    image, label = run(batch)
    plain, same = run(batch, **NO_COLOR)
    np.testing.assert_array_equal(label, same)
    assert (abs(image - plain).mean(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("rows", [[3, 1, 0, 2], [2], [1, 1]])
def test_an_example_is_transformed_alike_in_any_batch(rows):
    batch = batch_of(4)
    image, label = run(batch, **WILD)
    other_image, other_label = run({key: value[rows] for key, value in batch.items()}, **WILD)
    np.testing.assert_array_equal(other_label, label[rows])
    np.testing.assert_allclose(other_image, image[rows], atol=0.01)


@pytest.mark.parametrize("changes", [{"index": 4}, {"seed": 1}])
def test_another_index_or_seed_is_another_transform(changes):
    batch = batch_of(4)
    moved = batch | {"index": batch["index"] + changes.get("index", 0)}
    _, label = run(batch, **WILD)
    _, other = run(moved, seed=changes.get("seed", 0), **WILD)
    assert all((a != b).any() for a, b in zip(label, other, strict=True))


def test_everything_off_is_the_identity():
    batch = batch_of(2)
    image, label = run(batch, out=(48, 48), **STILL)
    np.testing.assert_array_equal(label, batch["label"])
    np.testing.assert_allclose(image, batch["image"], atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_flips_turn_about_half_of_the_images(axis):
    batch = batch_of(16)
    field = ("flip_vertical", "flip_horizontal")[axis]
    image, label = run(batch, out=(48, 48), **STILL | {field: True})
    flipped = [(a != b).any() for a, b in zip(label, batch["label"], strict=True)]
    assert 3 <= sum(flipped) <= 13
    for i, flip in enumerate(flipped):
        turn = (lambda x: np.flip(x, axis)) if flip else (lambda x: x)
        np.testing.assert_array_equal(label[i], turn(batch["label"][i]))
        np.testing.assert_allclose(image[i], turn(batch["image"][i]), atol=1e-3)


def test_padding_stays_void():
    batch = batch_of(8, size=(24, 32))
    batch["label"][:, 24:] = 7  # what is beyond `size` must not be read
    batch["label"][:, :, 32:] = 7
    image, label = run(batch, out=(48, 48), **STILL)
    for one_image, one_label in zip(image, label, strict=True):
        rows, columns = np.nonzero(one_label != VOID)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (24, 32, 24 * 32)
        top, left = rows.min(), columns.min()
        window = slice(top, top + 24), slice(left, left + 32)
        np.testing.assert_allclose(one_image[one_label == VOID] - augment.FILL, 0, atol=1e-3)
        assert any((one_label[window] == real[:24, :32]).all() for real in batch["label"])
    assert len({np.argmax(one != VOID) for one in label}) > 4, "the place is drawn"


def test_windows_lie_within_the_part_that_is_no_padding():
    _, label = run(batch_of(16, size=(24, 32)), out=(20, 20), **STILL)
    assert (label != VOID).all()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("position", [0.0, 1.0])
def test_both_use_the_half_pixel_convention(scale, position):
    """Red rises to the right by one a pixel, so that it tells where a pixel came from."""
    columns = jnp.tile(jnp.arange(24), (24, 1))
    image = jnp.stack([columns] * 3, axis=-1).astype(jnp.float32) + 0.5
    size = jnp.array([24, 24])
    label = columns.astype(jnp.uint8)
    image, label = SCALE_AND_CROP(image, label, size, scale, jnp.full(2, position), (12, 12))
    origin = position * (24 * scale - 12)
    place = (np.arange(12) + 0.5 + origin) / scale
    inner = slice(2, -2)  # at the border the image has nothing to interpolate with
    np.testing.assert_allclose(image[5, inner, 0], place[inner], atol=0.02)
    np.testing.assert_array_equal(label[5], np.floor(place))
