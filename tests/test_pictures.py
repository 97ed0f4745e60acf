import cv2
import numpy as np
import pytest

from segjax.evaluation import plots

NAMES = ["Road", "Car", "Tree"]
PALETTE = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30]], np.uint8)
ROW = {
    "epoch": 1,
    "train_loss": 0.9,
    "train_accuracy": 0.6,
    "train_mean_iou": 0.3,
    "val_loss": 1.1,
    "val_accuracy": 0.5,
    "val_mean_iou": 0.2,
}


def example(height=6, width=8):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    label = rng.integers(0, 3, (height, width)).astype(np.uint8)
    prediction = label.astype(np.int32)
    prediction[1, 2] = (prediction[1, 2] + 1) % 3
    prediction[4, 5] = (prediction[4, 5] + 2) % 3
    label[0, 0] = label[3, 3] = 255
    return image, label, prediction


def tiles(panel, width):
    """Cuts a row of the panel into its four tiles, leaving out the white gaps."""
    return [panel[:, i * (width + plots.GAP) :][:, :width] for i in range(4)]


def test_panel_shows_input_truth_prediction():
    image, label, prediction = example()
    panel = plots.prediction_panel([image], [label], [prediction], PALETTE)
    assert panel.dtype == np.uint8 and panel.shape == (6, 4 * 8 + 3 * plots.GAP, 3)
    shown, truth, predicted, _ = tiles(panel, 8)
    np.testing.assert_array_equal(shown, image)
    np.testing.assert_array_equal(predicted, PALETTE[prediction])
    valid = label != 255
    np.testing.assert_array_equal(truth[valid], PALETTE[label[valid]])
    assert np.isin(truth[~valid], (0, 255)).all()
    assert (panel[:, 8 : 8 + plots.GAP] == 255).all()


def test_error_map_marks_exactly_the_wrong_pixels():
    image, label, prediction = example()
    *_, error = tiles(plots.prediction_panel([image], [label], [prediction], PALETTE), 8)
    red = (error == plots.WRONG).all(axis=-1)
    assert np.argwhere(red).tolist() == [[1, 2], [4, 5]]
    right = ~red & (label != 255)
    assert (error[right] == error[right][:, :1]).all(), "right pixels are grey"
    assert np.isin(error[label == 255], (0, 255)).all(), "void is black or white"


def test_rows_of_different_sizes_share_a_height():
    rows = [example(6, 8), example(12, 12), example(24, 12)]
    panel = plots.prediction_panel(*zip(*rows, strict=True), PALETTE)
    # The widest is 6×8, scaled to 24×32.
    assert panel.shape == (3 * 24 + 2 * plots.GAP, 4 * 32 + 3 * plots.GAP, 3)
    narrow = panel[-24:, :32]
    np.testing.assert_array_equal(narrow[:, 10:22], rows[2][0])
    assert (narrow[:, :10] == 255).all() and (narrow[:, 22:] == 255).all()
    # Labels are scaled without inventing classes.
    scaled = panel[:24, 2 * (32 + plots.GAP) :][:, :32]
    np.testing.assert_array_equal(scaled, PALETTE[rows[0][2]].repeat(4, axis=0).repeat(4, axis=1))


def test_tall_images_are_limited():
    image, label, prediction = (np.repeat(a, 100, axis=0) for a in example(6, 300))
    panel = plots.prediction_panel(image[None], label[None], prediction[None], PALETTE)
    assert panel.shape[0] == plots.MAX_HEIGHT


def test_saved_predictions_contain_the_panel_pixel_for_pixel(tmp_path):
    image, label, prediction = example(60, 400)
    path = tmp_path / "report" / "predictions.png"
    plots.save_predictions(path, [image], [label], [prediction], PALETTE, NAMES, "A title")
    saved = cv2.imread(str(path))[..., ::-1]
    panel = plots.prediction_panel([image], [label], [prediction], PALETTE)
    assert saved.shape[1] == panel.shape[1]
    found = [top for top in range(len(saved) - 60) if (saved[top : top + 60] == panel).all()]
    assert len(found) == 1
    heading, legend = saved[: found[0]], saved[found[0] + 60 :]
    assert (heading < 128).any(), "title and headings"
    for colour in [*PALETTE, np.array(plots.WRONG)]:
        assert (legend == colour).all(axis=-1).any(), "legend"


@pytest.mark.parametrize("num_rows", [1, 30])
def test_training_curves(tmp_path, num_rows):
    history = [ROW | {"epoch": i + 1} for i in range(num_rows)]
    if num_rows > 1:
        for name in ("val_loss", "val_accuracy", "val_mean_iou"):
            del history[-1][name]
            history[-2][name] = None
            history[-3][name] = float("nan")
    path = tmp_path / "report" / "training_curves.png"
    plots.training_curves(history, path)
    picture = cv2.imread(str(path))
    assert picture.shape == (540, 1440, 3)
    for _, _, colour in plots.SPLITS:
        bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
        for half in (picture[:, :720], picture[:, 720:]):
            assert (half == bgr).all(axis=-1).any(), "both splits are drawn in both axes"


@pytest.mark.parametrize("num_classes", [3, 40])
def test_confusion_picture(tmp_path, num_classes):
    confusion = np.diag(np.arange(num_classes)) * 10**6  # Class 0 has no pixels.
    path = tmp_path / "confusion.png"
    plots.confusion_picture(confusion, [f"class {i}" for i in range(num_classes)], path)
    size = min(24, 3.5 + 0.42 * num_classes)
    assert cv2.imread(str(path)).shape[:2] == (int(size * 120), int((size + 0.8) * 120))
