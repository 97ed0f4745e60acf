"""A trained network on images of any size: what the evaluator would have predicted, and files."""

import itertools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from PIL import Image
from test_train import write_folder

from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.data.shapes import table
from segjax.errors import ConfigError
from segjax.inference import predictor
from segjax.inference.images import predict_images
from segjax.inference.networks import Network
from segjax.training import loop

CLASSES = 21
SIZES = [(32, 32), (20, 30), (48, 64), (65, 33), (1, 1), (100, 7)]


def image_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def pixelwise(images):
    """Logits that depend on each pixel alone, so that tiles and whole agree everywhere."""
    factors = jnp.arange(1, CLASSES + 1)[None, None, None]
    return jnp.sin(images.astype(jnp.float32).sum(-1, keepdims=True) * factors)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_pixelwise_function_give_what_the_whole_image_gives(size):
    network = Network(jax.jit(pixelwise), table(), Fit((32, 32), resizes=False, fixed_size=True))
    model = predictor.Predictor(network)
    image = image_of(size)
    whole = pixelwise(image[None])[0]
    np.testing.assert_array_equal(model.label(image), whole.argmax(-1))
    np.testing.assert_allclose(model.probabilities(image), jax.nn.softmax(whole), atol=1e-3)


@pytest.mark.parametrize("image", [
    "photo.jpg", np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3)),
    np.zeros((1, 4, 5, 3), np.uint8),
])  # fmt: skip
def test_what_is_no_image_is_refused(image):
    model = predictor.Predictor(Network(jax.jit(pixelwise), table(), Fit((32, 32), resizes=False)))
    for call in (model.label, model.probabilities):
        with pytest.raises(
            (TypeError, ValueError), match=r"an image is .*uint8 \[H, W, 3\] RGB, not"
        ):
            call(image)


def test_few_compilations_serve_fifty_sizes():
    traces = []

    def counted(images):
        traces.append(images.shape)
        return pixelwise(images)

    expected = {
        True: {(1, 32, 32, 3)},
        False: set(itertools.product([1], *[range(32, 129, 32)] * 2, [3])),
    }
    for resizes, shapes in expected.items():
        traces.clear()
        model = predictor.Predictor(Network(jax.jit(counted), table(), Fit((32, 32), resizes)))
        for seed in range(50):
            size = np.random.default_rng(seed).integers(1, 129, 2)
            assert model.label(image_of(size, seed)).shape == tuple(size)
        assert len(traces) == len(set(traces)) and set(traces) <= shapes


def test_label_and_probabilities_come_from_one_pass():
    calls = []

    def counted(images):
        calls.append(images.shape)
        return pixelwise(images)

    image = image_of((20, 50))
    for resizes in (True, False):
        model = predictor.Predictor(Network(counted, table(), Fit((32, 32), resizes)))
        label, probabilities = model.label_and_probabilities(image)
        assert len(calls) == 1
        np.testing.assert_array_equal(label, model.label(image))
        np.testing.assert_allclose(probabilities, model.probabilities(image))
        assert probabilities.dtype == np.float16 and probabilities.shape == (20, 50, CLASSES)
        calls.clear()


@pytest.fixture(
    scope="module",
    params=[UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)],
    ids=" under ".join,
)
def trained(request, shared_tiny_config, tmp_path_factory):
    """A run on images of three sizes, and its data's folder."""
    root = tmp_path_factory.mktemp("predictor")
    write_folder(root / "data", [(32, 32), (20, 30), (24, 48), (33, 17)])
    config = shared_tiny_config.copy_and_resolve_references()
    use(config, *request.param)
    config.data.update(source="folder", root=str(root / "data"), fit="resize")
    config.num_epochs = 1
    loop.train_and_evaluate(config, root / "run")
    return root / "run", root / "data"


def test_a_run_s_predictions_have_the_score_of_its_report(trained):
    folder, data = trained
    model = predictor.load(folder)
    report = json.loads((folder / "report" / "val.json").read_text())
    right = total = 0
    for path in sorted((data / "val" / "images").iterdir()):
        label = model.label(cv2.imread(str(path))[..., ::-1])
        truth = cv2.imread(str(data / "val" / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
        right, total = right + (label == truth).sum(), total + label.size
    assert right / total == pytest.approx(report["pixel_accuracy"], abs=1e-9)
    flipped = predictor.load(folder, tta=["flip"])
    image = image_of((20, 30))
    np.testing.assert_array_equal(flipped.label(image[:, ::-1]), flipped.label(image)[:, ::-1])


def test_a_folder_becomes_files_that_a_viewer_shows_in_colour(trained, tmp_path):
    folder, _ = trained
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    Image.fromarray(image_of((20, 30))).save(images / "deep" / "a.png")
    Image.fromarray(image_of((9, 5))).save(images / "b.png")
    Image.fromarray(image_of((9, 6))).save(images / "b.jpg")
    (images / "broken.png").write_bytes(b"no image")
    output = images / "out"
    for _ in range(2):  # a second time its own results are not its input
        summary = predict_images(
            predictor.load(folder), str(images), output, overlay=True, probabilities=True
        )
        assert len(summary["images"]) == 3
        assert len(summary["skipped"]) == 1 and "broken.png" in summary["skipped"][0]
    assert json.loads((output / "summary.json").read_text()) == summary
    names = {str(p.relative_to(output)) for p in output.rglob("*.png")}
    masks = {"deep/a", "b.png", "b.jpg"}
    assert names == {f"{mask}{end}.png" for mask in masks for end in ("", "_overlay")}

    mask = Image.open(output / "deep" / "a.png")
    model = predictor.load(folder)
    assert mask.mode == "P" and mask.size == (30, 20)
    np.testing.assert_array_equal(mask, model.label(image_of((20, 30))))
    assert mask.getpalette()[:6] == model.table.palette.ravel().tolist()
    stored = np.load(output / "deep" / "a.npz")["probabilities"]
    assert stored.dtype == np.float16 and stored.shape == (20, 30, 2)
    np.testing.assert_allclose(stored.sum(-1), 1, atol=2e-3)
    assert cv2.imread(str(output / "deep" / "a_overlay.png")).shape == (20, 30, 3)
    (row,) = [row for row in summary["images"] if row["input"].endswith("a.png")]
    assert sum(row["class_shares"].values()) == pytest.approx(1)


def test_an_overlay_shows_classes_as_strongly_as_asked_and_not_the_background():
    table = LabelTable.of_names(["background", "cell", "dust"])
    model = predictor.Predictor(Network(pixelwise, table, Fit((32, 32), resizes=False)))
    image, label = image_of((40, 50)), np.zeros((40, 50), np.uint8)
    label[10:30, 10:30], label[10:30, 30:45] = 1, 2
    picture = model.overlay(image, label)
    np.testing.assert_array_equal(picture[label == 0], image[label == 0])
    for class_id in (1, 2):
        inside = label == class_id
        half = (image[inside].astype(int) + table.palette[class_id]) / 2
        np.testing.assert_allclose(picture[inside], half, atol=0.5)
    np.testing.assert_array_equal(model.overlay(image, label, opacity=0.0), image)
    full = model.overlay(image, label, opacity=1.0)
    np.testing.assert_array_equal(full[label > 0], table.palette[label[label > 0]])

    outlines = model.overlay(image, label, opacity=0.0, contours=True)
    drawn = (outlines != image).any(-1)
    np.testing.assert_array_equal(outlines[drawn], table.palette[label[drawn]])
    assert drawn[10, 10:45].all() and drawn[10:30, [10, 29, 30, 44]].all()
    assert not drawn[label == 0].any() and not drawn[12:28, 12:28].any()
    no_background = LabelTable.of_names(["sky", "cell", "dust"])
    model = predictor.Predictor(Network(pixelwise, no_background, Fit((32, 32), resizes=False)))
    sky = model.overlay(image, label, opacity=1.0)[label == 0]
    np.testing.assert_array_equal(np.unique(sky, axis=0), no_background.palette[:1])


def test_results_in_the_folder_of_the_images_are_no_input(tmp_path, monkeypatch):
    model = predictor.Predictor(Network(jax.jit(pixelwise), table(), Fit((32, 32), resizes=False)))
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        Image.fromarray(image_of((9, 5))).save(tmp_path / f"{name}.jpg")
    for pattern in (str(tmp_path), f"{tmp_path}/**/*", f"{tmp_path}/**"):
        for _ in range(2):
            summary = predict_images(model, pattern, tmp_path, overlay=True)
            assert [row["input"][-5:] for row in summary["images"]] == ["a.jpg", "b.jpg"]
    (line,) = [line for line in summary["unused"] if "results of" in line]
    assert line.endswith("a.png: one of 4 results of segjax.predict")
    assert any("summary.json" in line for line in summary["unused"])
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    (tmp_path / "deep" / "b.png").write_bytes(b"notes of the user")
    with pytest.raises(ConfigError, match=r"did not write, such as .*deep/b\.png"):
        predict_images(model, f"{tmp_path}/**/*.jpg", tmp_path)
    assert (tmp_path / "deep" / "b.png").read_bytes() == b"notes of the user"
