import itertools
import math

import cv2
import jax
import numpy as np
import pytest

from segjax.evaluation import boundary

VOID = 255
SHAPE = (24, 32)  # of every batch, so that it compiles once per number of classes
SIZES = (SHAPE, (17, 32), (24, 9), (5, 13))
WIDTHS = np.array([[1, 2, 1], [3, 1, 2], [5, 4, 3], [12, 6, 7]])
counts = jax.jit(boundary.counts, static_argnames="num_classes")


def batch(images, widths):
    """Four images: the (label, prediction) given, then all void; void is predicted at random."""
    rng = np.random.default_rng(0)
    out = {
        "label": np.full((4, *SHAPE), VOID, np.uint8),
        "prediction": rng.integers(0, 6, (4, *SHAPE), np.int32),
        "size": np.tile(np.int32(SHAPE), (4, 1)),
        "widths": np.ones((4, 3), np.int32),
    }
    for i, (label, prediction) in enumerate(images):
        height, width = out["size"][i] = label.shape
        out["label"][i, :height, :width] = label
        out["prediction"][i, :height, :width] = prediction
    out["widths"][: len(images)] = widths
    return out


def count(images, widths, num_classes=6):
    return jax.device_get(counts(**batch(images, widths), num_classes=num_classes))


def ids(text):
    """'01 1.' is [[0, 1], [1, VOID]]."""
    return np.array([[VOID if c == "." else int(c) for c in row] for row in text.split()])


def random_images(noise, void, num_classes=6):
    """Blocks of one class, which the prediction shifts; a share of the pixels is noise or void."""
    rng = np.random.default_rng(num_classes)
    images = []
    for size in SIZES:
        blocks = rng.integers(0, num_classes, (4, 5)).repeat(7, axis=0).repeat(7, axis=1)
        label, prediction = (
            np.where(rng.random(size) < noise, rng.integers(0, num_classes, size), clean)
            for clean in (blocks[: size[0], : size[1]], blocks[1:, 2:][: size[0], : size[1]])
        )
        if void:
            label[2:6, 4:12] = VOID
            label[rng.random(size) < 0.02] = VOID
        images.append((label, prediction))
    return images


def reference_edge(classes, class_id, width):
    mask, void = (np.uint8(classes == i) for i in (class_id, VOID))
    padded = cv2.copyMakeBorder(mask | void, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=int(width))[1:-1, 1:-1]
    return ((mask | void) - eroded) & mask


def reference_band(images, widths, num_classes):
    out = np.zeros((2, 3, num_classes), int)
    for (label, prediction), pair in zip(images, widths[:, :2], strict=True):
        prediction = np.where(label == VOID, VOID, prediction)
        for i, class_id in np.ndindex(2, num_classes):
            edges = [reference_edge(x, class_id, pair[i]) for x in (label, prediction)]
            out[i, :, class_id] += [np.count_nonzero(x) for x in (edges[0] & edges[1], *edges)]
    return out


def reference_is_outline(classes):
    out = np.zeros(classes.shape, bool)
    for y, x in np.ndindex(classes.shape):
        around = classes[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        is_other = (around != VOID) & (around != classes[y, x])
        out[y, x] = classes[y, x] != VOID and is_other.any()
    return out


def reference_outline(images, widths, num_classes):
    out = np.zeros((4, num_classes), int)
    for (label, prediction), tolerance in zip(images, widths[:, 2], strict=True):
        prediction = np.where(label == VOID, VOID, prediction)
        for row, own, other in ((0, prediction, label), (2, label, prediction)):
            other_outline = reference_is_outline(other)
            for pixel in np.argwhere(reference_is_outline(own)):
                class_id = own[tuple(pixel)]
                targets = np.argwhere(other_outline & (other == class_id))
                distance = np.abs(targets - pixel).max(axis=1)
                out[row : row + 2, class_id] += [1, (distance <= tolerance).any()]
    return out


SQUARE = ids("00000000 00000000 00111000 00111000 00111000 00000000 00000000")
SHIFTED = ids("00000000 00000000 00011100 00011100 00011100 00000000 00000000")

random_cases = pytest.mark.parametrize(
    "noise, void, num_classes", [*itertools.product([0, 0.03, 1], [False, True], [6, 40])]
)


@random_cases
def test_band_counts_equal_the_reference_on_every_binary_mask(noise, void, num_classes):
    images = random_images(noise, void, num_classes)
    for widths in (WIDTHS, WIDTHS[::-1]):
        band = count(images, widths, num_classes)["band"]
        np.testing.assert_array_equal(band, reference_band(images, widths, num_classes))


@random_cases
def test_outline_counts_equal_a_loop_over_pixels(noise, void, num_classes):
    images = random_images(noise, void, num_classes)
    for widths in (WIDTHS, WIDTHS[::-1]):
        outline = count(images, widths, num_classes)["outline"]
        np.testing.assert_array_equal(outline, reference_outline(images, widths, num_classes))


@pytest.mark.parametrize("void", [6, 77, VOID])
def test_neither_predictions_inside_void_nor_its_value_change_anything(void):
    images = random_images(0.03, void=True)
    other = [
        (np.where(label == VOID, void, label), np.where(label == VOID, 5 - guess, guess))
        for label, guess in images
    ]
    jax.tree.map(np.testing.assert_array_equal, count(images, WIDTHS), count(other, WIDTHS))


def test_next_to_void_there_is_no_edge():
    label = ids("333..555 333..555 333..555 333..555 333..555")
    found = count([(label, ids("33345555 " * 5))], [[1, 2, 9]])
    # Width 1: of 15 pixels 5 are at the left border and 2·2 more at the upper and lower one.
    # Width 2: only the middle one of column 2 is further than that from the borders.
    edges = np.array([[9], [14]])
    for class_id in (3, 5):
        np.testing.assert_array_equal(found["band"][..., class_id], np.repeat(edges, 3, axis=1))
    assert found["band"].sum() == 2 * 3 * (9 + 14)  # nothing of class 4, which void alone holds
    assert not found["outline"].any()


def test_hand_worked_shift_of_a_square_by_one_pixel():
    band = count([(SQUARE, SHIFTED)], [[1, 2, 1]])["band"]
    # Width 1, the square: 9 - 1 pixels each. They share 3×2, less both their centres.
    # Width 1, background: 26 at the border and a ring of 25 - 9; the rings share 2 rows of 4.
    np.testing.assert_array_equal(band[0, :, :2].T, [[26 + 8, 42, 42], [4, 8, 8]])
    # Width 2: no pixel of the 7×8 is further than that from an edge, as in the plain IoU.
    np.testing.assert_array_equal(band[1, :, :2].T, [[56 - 12, 47, 47], [6, 9, 9]])
    assert not band[..., 2:].any()


def test_classes_side_by_side_have_an_edge_each():
    label = ids("33335555 33335555 33335555 33335555 33335555")
    band = count([(label, label)], [[1, 1, 1]])["band"]
    # 4 + 4 + 3 at the image's border and 3 more at the other class. Eroded as if it were a grey
    # image, the label would have no edge at the 3 and one of "class 2" at the 5.
    np.testing.assert_array_equal(band, np.broadcast_to([0, 0, 0, 14, 0, 14], band.shape))


def test_a_perfect_prediction_scores_one_and_an_absent_class_is_left_out():
    scores = boundary.metrics(count([(SQUARE, SQUARE)], [[1, 2, 1]]))
    for name in ("boundary_iou_0.02", "boundary_iou_0.005", "boundary_f_0.0075"):
        np.testing.assert_array_equal(scores[name], [1, 1] + 4 * [np.nan])
        assert scores[f"mean_{name}"] == 1


def test_hand_worked_outline_scores():
    # Outlines:   ..01......12.     ...011011....
    label, guess = ids("0001111111122"), ids("0000110111111")
    found = count([(label, guess)], [[1, 1, 2]])
    # Predicted, right, labelled, found. Of class 0 the one in column 6 is wrong. Of class 1 those
    # in 4 and 5 are within 2 of the label's in 3; that in 7 is 3 from the label's in 10.
    outline = [[2, 1, 1, 1], [3, 2, 2, 1], [0, 0, 1, 0]]
    np.testing.assert_array_equal(found["outline"][:, :3].T, outline)
    scores = boundary.metrics(found)
    # Precision and recall: 1/2 and 1; 2/3 and 1/2; 0 and 0.
    expected = [2 / 3, 4 / 7, 0] + 3 * [np.nan]
    np.testing.assert_allclose(scores["boundary_f_0.0075"], expected, rtol=1e-15)
    assert scores["mean_boundary_f_0.0075"] == pytest.approx(26 / 63, rel=1e-15)


def test_scores_are_of_sums_and_not_means_of_images():
    images, widths = [(SQUARE, SHIFTED), (SQUARE, SQUARE)], [[1, 2, 1]]
    together = count(images, widths)
    apart = [count([image], widths) for image in images]
    jax.tree.map(lambda *x: np.testing.assert_array_equal(x[0], x[1] + x[2]), together, *apart)
    iou, *each = (boundary.metrics(x)["boundary_iou_0.02"][1] for x in (together, *apart))
    assert each == [4 / 12, 8 / 8]
    assert iou == (4 + 8) / (12 + 8) != np.mean(each)


def test_counts_of_a_large_split_do_not_overflow():
    band = np.tile(np.array([[1], [2], [3]]), (2, 1, 1)) * 10**12
    scores = boundary.metrics({"band": band, "outline": np.full((4, 1), 10**12)})
    assert scores["boundary_iou_0.02"] == 1 / 4 and scores["boundary_f_0.0075"] == 1


def test_without_labels_every_score_is_nan():
    found = count([], WIDTHS[:0])
    assert not found["band"].any() and not found["outline"].any()
    assert all(np.isnan(score).all() for score in boundary.metrics(found).values())


def test_images_that_are_all_void_change_nothing():
    padded = batch(random_images(0.03, void=True)[:2], WIDTHS[:2])
    plain = counts(**{name: x[:2] for name, x in padded.items()}, num_classes=6)
    assert {x.dtype for x in plain.values()} == {np.dtype(np.int32)}
    jax.tree.map(np.testing.assert_array_equal, counts(**padded, num_classes=6), plain)


def test_widths_are_those_of_python():
    sizes = np.random.default_rng(0).integers(1, 4000, (1000, 2))
    sizes = np.concatenate([sizes, np.outer(np.arange(1, 401), (3, 4))])  # many halves to round
    expected = [
        [max(1, round(ratio * math.sqrt(h * h + w * w))) for ratio in (0.02, 0.005, 0.0075)]
        for h, w in sizes.tolist()
    ]
    found = boundary.widths(sizes.astype(np.int32))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_hand_worked_widths():
    sizes = np.array([[360, 480], [1, 1]], np.int32)
    # A diagonal of 600 pixels: 12, 3 and 4.5, of which the half goes to the even number.
    np.testing.assert_array_equal(boundary.widths(sizes), [[12, 3, 4], [1, 1, 1]])
