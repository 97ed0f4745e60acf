"""Damaged labels are functions of a key, and each kind of damage does what its name says."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data.refining import coarse_of_label
from segjax.training import damage, refinement
from segjax.training.augment import Options

SIZE, VOID, C = (96, 80), 255, 4
COUNT = 60
STILL = Options((1.0, 1.0), False, False, 0.0, 0.0, 0.0, 0.0, 0.0)


def keys(count=COUNT, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def half_plane(column=45):
    """Class 1, and class 2 from a column on."""
    label = np.ones(SIZE, np.int32)
    label[:, column:] = 2
    return label


def blobs():
    """Four classes in regions of some twenty pixels."""
    noise = np.random.default_rng(0).normal(size=(5, 4))
    smooth = cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.digitize(smooth, [-0.6, 0.0, 0.6]).astype(np.int32)


def each(kind, label, count=COUNT):
    """[count, H, W], by as many keys."""
    return np.asarray(jax.jit(jax.vmap(kind, (0, None)))(keys(count), label))


whole = partial(damage.damage, num_classes=C)


def test_the_same_key_does_the_same_damage_and_another_one_other():
    first, again = each(whole, blobs()), each(whole, blobs())
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first.reshape(COUNT, -1), axis=0)) > 0.9 * COUNT
    changed = (first != blobs()).mean(axis=(1, 2))
    assert 0.02 < np.median(changed) < 0.3


def test_an_example_is_damaged_alike_in_every_batch():
    given = refinement.Refinement(lambda _, small: small, 3, damage=1.0, disturbance=1.0)
    label = np.stack([blobs() % 3, half_plane(), half_plane(20)]).astype(np.uint8)
    batch = {
        "image": np.zeros((3, *SIZE, 3), np.uint8),
        "label": label,
        "size": np.array([SIZE] * 3, np.int32),
        "small": np.zeros((3, 8, 8, 3), np.uint8),
        "index": np.array([7, 3, 9], np.int32),
    }
    augmented = jax.jit(
        partial(refinement.augment, 0, out=(64, 48), options=STILL, refinement=given)
    )
    together, _ = augmented(batch | {"segmenter": {}})
    for i in range(3):
        alone, _ = augmented({k: v[i : i + 1] for k, v in batch.items()} | {"segmenter": {}})
        np.testing.assert_array_equal(alone[0], together[i])
    possible = np.unique(coarse_of_label(jnp.arange(3), 3))
    coarse = np.asarray(together[..., 3:])
    assert np.abs(coarse[..., None] - possible).min(-1).max() < 1e-6  # labels, no predictions


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_examples_is_damaged(share):
    given = refinement.Refinement(lambda _, small: small, 3, damage=share, disturbance=0.0)
    count = 200
    batch = {
        "image": np.zeros((count, 8, 8, 3), np.uint8),
        "label": np.zeros((count, 8, 8), np.uint8),
        "size": np.full((count, 2), 8, np.int32),
        "small": np.full((count, 4, 4, 3), 7, np.uint8),  # all classes as likely
        "index": np.arange(count, dtype=np.int32),
        "segmenter": {},
    }
    augmented = partial(refinement.augment, 0, out=(8, 8), options=STILL, refinement=given)
    coarse = np.asarray(jax.jit(augmented)(batch)[0][..., 3:])
    is_damaged = np.ptp(coarse, axis=(1, 2, 3)) > 0.1
    assert abs(is_damaged.mean() - share) < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 7), (65, 33)])
def test_labels_of_any_size_stay_labels(size):
    label = np.random.default_rng(1).integers(0, C, size).astype(np.uint8)
    label[0, 0] = VOID
    damaged = np.array(each(whole, label, 30))
    assert damaged.shape == (30, *size) and damaged.dtype == np.uint8
    damaged[:, 0, 0] = np.where(damaged[:, 0, 0] == VOID, 0, damaged[:, 0, 0])
    assert damaged.max() < C


def test_void_becomes_one_class_or_another_or_stays_void():
    void = np.full(SIZE, VOID, np.uint8)
    damaged = each(whole, void)
    assert (np.ptp(damaged, axis=(1, 2)) == 0).all()  # of one class nothing is left to damage
    assert set(damaged[:, 0, 0].tolist()) == {*range(C), VOID}
    assert 0.4 < (damaged[:, 0, 0] == VOID).mean() < 0.6
    part = np.where(np.arange(SIZE[1]) < 10, VOID, np.uint8(1))[None].repeat(SIZE[0], 0)
    is_void = each(whole, part.astype(np.uint8)) == VOID
    assert not (is_void & (part != VOID)).any()


def test_a_shift_moves_an_edge_by_some_pixels():
    label = half_plane()
    shifted = each(damage._shifted, label)
    columns = np.abs(np.argwhere(shifted != label)[:, 2] - 45)
    assert columns.max() <= 3 * damage.MAX_SHIFT  # six standard deviations
    # Where the first pixel of class 2 is, row by row: elsewhere, and not by as much everywhere.
    first = (shifted == 2).argmax(axis=2)
    assert np.median(np.abs(first - 45).max(axis=1)) > 3
    assert np.median(np.ptp(first, axis=1)) > 3


def near_edge(label, distance):
    """Pixels with another class within `distance`."""
    window = np.ones((2 * distance + 1,) * 2, np.uint8)
    return cv2.erode(np.uint8(label), window) != cv2.dilate(np.uint8(label), window)


def test_growth_changes_pixels_near_an_edge_and_one_class():
    label = blobs()
    grown = each(damage._grown, label)
    changed = grown != label
    assert not changed[:, ~near_edge(label, damage.MAX_GROWTH)].any()
    assert changed[:, near_edge(label, 1)].any(axis=1).mean() > 0.8  # of the keys
    grew = shrank = 0
    for one, where in zip(grown, changed, strict=True):
        won, lost = set(one[where]), set(label[where])
        assert min(len(won), len(lost)) <= 1
        grew, shrank = grew + (len(won) == 1), shrank + (len(lost) == 1)
    assert min(grew, shrank) > 5


def test_a_class_grows_or_shrinks_by_as_many_pixels_on_all_sides():
    label = np.zeros((60, 60), np.int32)
    label[20:40, 25:35] = 1
    for one in each(damage._grown, label):
        rows, columns = np.where(one == 1)
        if len(rows) == 0:  # it shrank away
            continue
        box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        growth = 20 - box[0]
        assert box == (20 - growth, 40 + growth, 25 - growth, 35 + growth)
        assert abs(growth) <= damage.MAX_GROWTH
        assert (one[box[0] : box[1], box[2] : box[3]] == 1).all()


def test_polygons_keep_a_straight_edge_straight_and_within_its_cell():
    label = half_plane()
    polygons = each(damage._as_polygons, label)
    assert (polygons == polygons[:, :1]).all()
    columns = np.abs(np.argwhere(polygons != label)[:, 2] - 45)
    assert 0 < columns.max() <= damage.SIDES[1]


def test_polygons_lose_what_is_smaller_than_their_cells():
    label = np.zeros(SIZE, np.int32)
    label[50, 33] = 1
    assert (each(damage._as_polygons, label) == 1).any(axis=(1, 2)).mean() < 0.1
    bent = each(damage._as_polygons, blobs())
    assert 0.01 < (bent != blobs()).mean() < 0.2


def test_parts_that_are_lost_become_one_class_of_the_image():
    label = blobs()
    lost = each(damage._lost, label)
    changed = lost != label
    assert changed.mean(axis=(1, 2)).max() <= damage.MAX_LOST + 1e-3
    assert (changed.mean(axis=(1, 2)) > 0.01).mean() > 0.4
    for one, where in zip(lost, changed, strict=True):
        assert len(set(one[where])) <= 1
        assert set(one[where]) <= set(label.ravel())


def test_smooth_noise_is_smooth_and_normal():
    noise = np.asarray(jax.vmap(lambda key: damage.smooth_noise(key, (64, 48), 16))(keys(200)))
    assert abs(noise.mean()) < 0.05 and 0.5 < noise.std() < 1
    assert np.abs(np.diff(noise, axis=2)).max() < 0.5
