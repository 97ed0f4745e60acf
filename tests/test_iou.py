import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from segjax.evaluation import iou

VOID = 255


def random_maps(seed=0, num_classes=5, shape=(4, 16, 16)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, num_classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, label, rng.integers(0, num_classes, shape))
    label[rng.random(shape) < 0.1] = VOID
    return jnp.asarray(label), jnp.asarray(prediction, jnp.int32)


def test_hand_worked_example():
    label = jnp.array([[0, 0, 0], [1, 1, 2], [2, 2, VOID]], jnp.uint8)
    prediction = jnp.array([[0, 0, 1], [1, 1, 2], [0, 2, 2]], jnp.int32)
    confusion = iou.confusion_matrix(label, prediction, 3)
    assert confusion.dtype == jnp.int32
    np.testing.assert_array_equal(confusion, [[2, 1, 0], [0, 2, 0], [1, 0, 2]])
    scores = iou.metrics(np.asarray(confusion))
    np.testing.assert_allclose(scores["iou"], [2 / 4, 2 / 3, 2 / 3], rtol=1e-15)
    np.testing.assert_allclose(scores["accuracy"], [2 / 3, 1, 2 / 3], rtol=1e-15)
    np.testing.assert_allclose(scores["dice"], [4 / 6, 4 / 5, 4 / 5], rtol=1e-15)
    assert scores["mean_iou"] == pytest.approx(11 / 18, rel=1e-15)
    assert scores["mean_accuracy"] == pytest.approx(7 / 9, rel=1e-15)
    assert scores["mean_dice"] == pytest.approx(34 / 45, rel=1e-15)
    assert scores["pixel_accuracy"] == 6 / 8


def test_a_class_absent_everywhere_is_left_out_of_the_mean():
    scores = iou.metrics(np.diag([3, 0, 5]))
    assert np.isnan(scores["iou"][1]) and np.isnan(scores["dice"][1])
    assert scores["mean_iou"] == scores["mean_dice"] == scores["mean_accuracy"] == 1


def test_a_class_that_is_only_predicted_counts_as_zero():
    scores = iou.metrics(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(scores["iou"], [0.75, 0])
    assert scores["mean_iou"] == 0.375
    assert scores["mean_accuracy"] == 0.75 and np.isnan(scores["accuracy"][1])


def test_without_labels_every_score_is_nan():
    scores = iou.metrics(np.zeros((3, 3), np.int64))
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "mean_dice"):
        assert np.isnan(scores[name])


@pytest.mark.parametrize("void", [VOID, 5, 11])
def test_void_and_padding_change_nothing(void):
    label, prediction = random_maps()
    pad = ((0, 3), (0, 1), (0, 2))
    padded = jnp.pad(label, pad, constant_values=void)
    np.testing.assert_array_equal(
        iou.confusion_matrix(padded, jnp.pad(prediction, pad), 5),
        iou.confusion_matrix(label, prediction, 5),
    )


@pytest.mark.parametrize("num_classes", [2, 5, 21, 255])
def test_agrees_with_scikit_learn(num_classes):
    label, prediction = random_maps(num_classes, num_classes)
    confusion = np.asarray(iou.confusion_matrix(label, prediction, num_classes))
    y, p = np.asarray(label[label != VOID]), np.asarray(prediction[label != VOID])
    ids = np.arange(num_classes)
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(y, p, labels=ids))
    scores = iou.metrics(confusion)
    present = np.union1d(y, p)
    jaccard = sklearn.metrics.jaccard_score(y, p, labels=present, average=None, zero_division=0)
    np.testing.assert_allclose(scores["iou"][present], jaccard, rtol=1e-12)
    assert scores["mean_iou"] == pytest.approx(jaccard.mean(), rel=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, p))


def test_batches_sum_to_the_whole_split():
    label, prediction = random_maps()
    parts = [iou.confusion_matrix(label[i : i + 1], prediction[i : i + 1], 5) for i in range(4)]
    np.testing.assert_array_equal(sum(parts), iou.confusion_matrix(label, prediction, 5))


def test_jit_is_the_same():
    label, prediction = random_maps()
    jitted = jax.jit(iou.confusion_matrix, static_argnums=2)
    np.testing.assert_array_equal(
        jitted(label, prediction, 5), iou.confusion_matrix(label, prediction, 5)
    )


def test_counts_stay_exact_beyond_float32():
    # Float32 counts stop growing at 2^24.
    zeros = jnp.zeros(2**24 + 3, jnp.uint8)
    assert iou.confusion_matrix(zeros, zeros, 2)[0, 0] == 2**24 + 3
    # A large split passes 2^31 pixels, where int32 sums would overflow.
    scores = iou.metrics(np.array([[3, 1], [0, 4]], np.int64) * 10**12)
    np.testing.assert_array_equal(scores["iou"], [3 / 4, 4 / 5])


def test_floats_are_refused():
    label, prediction = random_maps()
    with pytest.raises(TypeError, match="prediction must hold integer class ids, got float32"):
        iou.confusion_matrix(label, prediction.astype(jnp.float32), 5)
    with pytest.raises(TypeError, match="label must hold integer class ids, got float32"):
        iou.confusion_matrix(label.astype(jnp.float32), prediction, 5)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        iou.confusion_matrix(jnp.zeros((2, 3), jnp.uint8), jnp.zeros((3, 2), jnp.int32), 2)
