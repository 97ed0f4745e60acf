from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax import defaults
from segjax.evaluation import iou
from segjax.training import losses

VOID = 255
C = 3
WEIGHTS = jnp.array([0.5, 1.0, 3.0])
LOSSES = {
    "cross_entropy": losses.cross_entropy(),
    "weighted": losses.cross_entropy(WEIGHTS),
    "smoothed": losses.cross_entropy(label_smoothing=0.1),
    "weighted_and_smoothed": losses.cross_entropy(WEIGHTS, label_smoothing=0.1),
    "focal": losses.cross_entropy(gamma=2.0),
    "steep_focal": losses.cross_entropy(gamma=0.5),
    "dice": losses.dice(),
    "lovasz": losses.lovasz(),
    "boundary": losses.boundary(),
    "weighted_boundary": losses.boundary(WEIGHTS, label_smoothing=0.1),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture
def example():
    """Logits [2, 4, 6, C] and labels [2, 4, 6] without void."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 2, (2, 4, 6, C)), jnp.float32)
    return logits, jnp.asarray(rng.integers(0, C, (2, 4, 6)), jnp.uint8)


@cache
def compiled(loss):
    return jax.jit(jax.value_and_grad(loss))


def value_and_grad(loss, logits, label):
    return compiled(loss)(logits, label)


def config(**changes):
    fields = defaults.get_config().loss
    fields.update(changes)
    return fields


@every_loss
def test_void_pixels_are_as_good_as_absent(loss, example):
    logits, label = example
    with_void = label.at[:, :, 4:].set(VOID)
    value, gradient = value_and_grad(loss, logits, with_void)
    cropped, expected = value_and_grad(loss, logits[:, :, :4], label[:, :, :4])
    np.testing.assert_allclose(value, cropped, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :, :4], expected, rtol=1e-4, atol=1e-7)
    assert (gradient[:, :, 4:] == 0).all()
    assert (expected != 0).any()


@every_loss
def test_a_batch_of_void_alone_has_no_loss_and_no_gradient(loss, example):
    logits, label = example
    value, gradient = value_and_grad(loss, logits, jnp.full_like(label, VOID))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_sums_of_batches_of_any_size_make_the_loss_of_them_all(loss, example):
    """With void that is uneven, and a last batch that is filled up with void alone."""
    logits, label = example
    logits = jnp.concatenate([logits, 3 * logits[::-1], logits[:1]])
    label = jnp.concatenate([label, (label + 1) % C, label[:1]]).at[1, :3].set(VOID).at[3].set(VOID)
    expected, _ = value_and_grad(loss, logits, label)
    for size in (1, 2, 5):
        filler = -len(label) % size
        batches = (
            jnp.concatenate([logits, jnp.ones((filler, *logits.shape[1:]))]),
            jnp.concatenate([label, jnp.full((filler, *label.shape[1:]), VOID, jnp.uint8)]),
        )
        sums_of = jax.jit(loss.sums)
        sums = [
            sums_of(*(x[start : start + size] for x in batches))
            for start in range(0, len(label), size)
        ]
        total = jax.tree.map(lambda *x: sum(np.float64(x)), *sums)
        np.testing.assert_allclose(loss.value(total), expected, rtol=1e-6)


@every_loss
@pytest.mark.parametrize("right", [True, False])
def test_huge_logits_stay_finite(loss, example, right):
    _, label = example
    favourite = label if right else (label + 1) % C
    logits = 1e4 * jax.nn.one_hot(favourite, C)
    value, gradient = value_and_grad(loss, logits, label)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", losses.TERMS)
def test_bfloat16_logits_are_computed_in_float32(name, example):
    logits, label = example
    half = (100 * logits).astype(jnp.bfloat16)
    loss = losses.build(config(**{"cross_entropy": 0.0, name: 1.0}), np.ones(C))
    value, gradient = value_and_grad(loss, half, label)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(half.astype(jnp.float32), label), rtol=1e-6)
    assert gradient.dtype == jnp.bfloat16 and jnp.isfinite(gradient).all()


def test_cross_entropy_is_that_of_optax(example):
    logits, label = example
    pixels = optax.softmax_cross_entropy_with_integer_labels(logits, label.astype(jnp.int32))
    np.testing.assert_allclose(LOSSES["cross_entropy"](logits, label), pixels.mean(), rtol=1e-6)
    weight = WEIGHTS[label]
    np.testing.assert_allclose(
        LOSSES["weighted"](logits, label), (pixels * weight).sum() / weight.sum(), rtol=1e-6
    )
    smooth = optax.smooth_labels(jax.nn.one_hot(label, C), 0.1)
    np.testing.assert_allclose(
        LOSSES["smoothed"](logits, label),
        optax.softmax_cross_entropy(logits, smooth).mean(),
        rtol=1e-6,
    )


def test_focal_loss_with_gamma_0_is_cross_entropy(example):
    both = [
        losses.build(config(cross_entropy=0.0, focal=1.0, focal_gamma=0.0), np.ones(C)),
        losses.build(config(), np.ones(C)),
    ]
    focal, cross_entropy = (loss(*example) for loss in both)
    assert focal == cross_entropy


def test_focal_loss_by_hand():
    p = jnp.array([[[[0.8, 0.2], [0.4, 0.6]]]])
    label = jnp.array([[[0, 0]]], jnp.uint8)
    expected = -(0.2**2 * np.log(0.8) + 0.6**2 * np.log(0.4)) / 2
    np.testing.assert_allclose(LOSSES["focal"](jnp.log(p), label), expected, rtol=1e-5)


def test_dice_by_hand():
    # Three pixels of the classes 0, 0, 1 and a void one; class 2 is absent.
    p = jnp.array([[[[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]]])
    label = jnp.array([[[0, 0, 1, VOID]]], jnp.uint8)
    first = 2 * (0.5 + 0.7) / ((0.5 + 0.7 + 0.1) + 2)
    second = 2 * 0.8 / ((0.3 + 0.2 + 0.8) + 1)
    expected = 1 - (first + second) / 2
    np.testing.assert_allclose(LOSSES["dice"](jnp.log(p), label), expected, rtol=1e-5)


def test_lovasz_of_a_perfect_prediction_is_0(example):
    _, label = example
    assert LOSSES["lovasz"](1e4 * jax.nn.one_hot(label, C), label) == 0


def test_lovasz_of_a_hard_prediction_is_1_minus_iou(example):
    _, label = example
    label = label.at[:, 1].set(VOID)
    prediction = jax.random.randint(jax.random.key(1), label.shape, 0, C)
    ious = [
        iou.metrics(iou.confusion_matrix(*pair, C))["mean_iou"]
        for pair in zip(label, prediction, strict=True)
    ]
    value = LOSSES["lovasz"](1e4 * jax.nn.one_hot(prediction, C), label)
    np.testing.assert_allclose(value, 1 - np.mean(ious), rtol=1e-5)


def test_lovasz_leaves_out_images_without_a_label(example):
    logits, label = example
    second_is_void = label.at[1].set(VOID)
    np.testing.assert_allclose(
        LOSSES["lovasz"](logits, second_is_void), LOSSES["lovasz"](logits[:1], label[:1]), rtol=1e-6
    )


def test_boundary_loss_by_hand():
    """Of 12 pixels in a row, those within 3 of another class; void between classes is no edge."""
    p = jnp.linspace(0.1, 0.9, 12)
    logits = jnp.log(jnp.stack([p, 1 - p], axis=-1))[None, None]
    label = jnp.array([[[0] * 6 + [1] * 6]], jnp.uint8)
    pixels = -np.log(np.r_[p[:6], 1 - p[6:]])

    def expected(*columns):
        return pixels[list(columns)].mean()

    value, gradient = value_and_grad(LOSSES["boundary"], logits, label)
    np.testing.assert_allclose(value, expected(3, 4, 5, 6, 7, 8), rtol=1e-5)
    np.testing.assert_array_equal((gradient != 0).any(-1)[0, 0], [0] * 3 + [1] * 6 + [0] * 3)
    narrow, wide = label.at[..., 6:8].set(VOID), label.at[..., 6:9].set(VOID)
    value, gradient = value_and_grad(LOSSES["boundary"], logits, narrow)
    np.testing.assert_allclose(value, expected(5, 8), rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero((gradient != 0).any(-1)), [5, 8])
    value, gradient = value_and_grad(LOSSES["boundary"], logits, wide)
    assert value == 0 and not gradient.any()


def test_boundary_loss_counts_edges_in_both_directions_and_in_one_image_only():
    label = jnp.zeros((2, 20, 20), jnp.uint8).at[0, 9:11, 9:11].set(1)
    logits = jax.random.normal(jax.random.key(0), (2, 20, 20, C))
    _, gradient = value_and_grad(LOSSES["boundary"], logits, label)
    near = np.zeros((2, 20, 20), bool)
    near[0, 6:14, 6:14] = True
    np.testing.assert_array_equal((gradient != 0).any(-1), near)


def test_median_frequency_weights_by_hand():
    # The median of 10, 100 and 400 is 100; 100 / 4 is more than the cap.
    weights = losses.median_frequency_weights(np.array([100, 0, 10, 400]))
    np.testing.assert_allclose(weights, [1, 0, 10, 0.25])
    weights = losses.median_frequency_weights(np.array([1000, 5, 1000]))
    np.testing.assert_allclose(weights, [1, 10, 1])


def test_build_adds_the_terms_by_weight(example):
    counts = np.array([100, 50, 25])
    loss = losses.build(
        config(cross_entropy=0.5, dice=2.0, boundary=3.0, class_weights="auto"), counts
    )
    weights = losses.median_frequency_weights(counts)
    expected = 0.5 * losses.cross_entropy(weights)(*example)
    expected += 2 * LOSSES["dice"](*example) + 3 * losses.boundary(weights)(*example)
    np.testing.assert_allclose(loss(*example), expected, rtol=1e-6)
