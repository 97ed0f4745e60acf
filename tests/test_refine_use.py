"""A refiner where it is used: prediction, evaluation, masks of other programs, video, export."""

import shutil
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from PIL import Image
from test_export import STEP, drawn, write_run
from test_scored import TABLE, write_images
from test_video import read_video, write_video

import segjax
from segjax import models
from segjax.data import check, refining, tiles
from segjax.data.counts import Report
from segjax.data.fitting import Fit, at_size, resize_image
from segjax.data.label_table import LabelTable
from segjax.data.pixels import RGB
from segjax.data.refining import Refined, TwoStage
from segjax.errors import ConfigError, DataError
from segjax.inference import composed, export_run, images, networks, predictor, segment
from segjax.inference.masks import find_masks
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import TrainState, fingerprint
from segjax.training import second_stage
from segjax.training.evaluate_run import evaluate_run
from segjax.weights import runs

CLASSES = len(TABLE.names)


def image_of(size, seed=0):
    """Squares of one colour, with noise: something to be certain and uncertain about."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (size[0] // 12 + 1, size[1] // 12 + 1, 3))
    whole = np.kron(squares, np.ones((12, 12, 1)))[: size[0], : size[1]]
    return (whole + rng.normal(0, 8, whole.shape)).clip(0, 255).astype(np.uint8)


def write_refiner(folder, segmenter, config):
    """A refiner with drawn weights, of a run that is there."""
    config = config.copy_and_resolve_references()
    config.refiner.update(name="pix2pix", channels=(8, 8), features=4)
    config.data.update(fit="pad", size=(32, 32))
    config.init_from = str(segmenter)
    config, trained = second_stage.with_segmenter(config, folder)
    model = models.build_refiner(config.refiner, config.model, len(trained.table.names))
    variables = drawn(model)
    variables["params"]["head"]["kernel"] *= 10  # or it would change next to nothing
    counts = np.ones(len(trained.table.names), int)
    workdir.save(folder, config, Report(trained.table, pixel_counts={"train": counts}))
    second_stage.keep(config, trained, folder)
    checkpoints = Checkpoints(folder)
    state = TrainState(np.array(STEP), **variables, opt_state=np.zeros(1), ema=variables)
    checkpoints.save(state, {}, mean_iou=0.5)
    checkpoints.close()


@pytest.fixture(scope="module")
def make(shared_tiny_config, tmp_path_factory):
    """Of a network: data: a folder of images of 24×30; segmenter, refiner: runs; config: the
    former's.
    """

    @cache
    def make(*network):
        root = tmp_path_factory.mktemp("refine")
        write_images(root / "data" / "train", range(4))
        write_images(root / "data" / "val", range(4, 7))
        (root / "data" / "classes.json").write_text(TABLE.to_json())
        config = shared_tiny_config.copy_and_resolve_references()
        use(config, *network)
        config.data.update(source="folder", root=str(root / "data"), size=(16, 16))
        write_run(root / "segmenter", config, TABLE)
        write_refiner(root / "refiner", root / "segmenter", config)
        places = {name: root / name for name in ("data", "segmenter", "refiner")}
        return SimpleNamespace(**places, config=config)

    return make


@pytest.fixture(scope="module")
def made(make):
    return make(*UNET)


@pytest.fixture(scope="module")
def refined(made):
    return predictor.load(made.refiner)


@pytest.fixture(scope="module")
def coarse(made):
    return predictor.load(made.segmenter)


def test_a_refiner_of_a_run_is_the_refiner_itself(made, refined, coarse):
    both = segjax.load(made.segmenter, refine=made.refiner)
    image = image_of((50, 70))
    np.testing.assert_array_equal(both.label(image), refined.label(image))
    assert (both.label(image) != coarse.label(image)).mean() > 0.05


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_evaluation_scores_both_stages(network, make):
    made = make(*network)
    report = evaluate_run(made.segmenter, refine=made.refiner)
    assert (made.refiner / "report" / "val.json").is_file()
    assert not (made.segmenter / "report").exists()
    model = predictor.load(made.refiner)
    right = total = 0
    for image, label in examples(made):
        right, total = right + (model.label(image) == label).sum(), total + label.size
    assert report["pixel_accuracy"] == pytest.approx(right / total, abs=2e-3)
    assert report["pixel_accuracy"] != evaluate_run(made.segmenter)["pixel_accuracy"]
    shutil.rmtree(made.segmenter / "report")


def examples(made):
    """The validation images and labels."""
    for path in sorted((made.data / "val" / "images").iterdir()):
        mask = made.data / "val" / "masks" / path.name
        yield np.array(Image.open(path)), np.array(Image.open(mask))


def test_what_does_not_refine_the_run_is_refused_by_name(made, tmp_path):
    segmenter, refiner = made.segmenter, made.refiner
    other = tmp_path / "other"
    write_run(other, made.config, TABLE, seed=1)
    classes = tmp_path / "classes"
    write_run(classes, made.config, LabelTable.of_names(["a", "b", "c"]))
    for run, refine, message in (
        (
            segmenter,
            tmp_path / "missing",
            "missing: no run is there; give the work directory of a ref",
        ),
        (segmenter, other, f"other holds a run, but no refiner; .*init_from={segmenter}"),
        (refiner, refiner, "refiner holds a refiner already; leave --refine out"),
        (refiner, segmenter, "refiner holds a refiner already; leave --refine out"),
        (other, refiner, f"refines another segmenter .*; give --workdir {refiner} alone"),
        (classes, refiner, f"has the classes low, middle, high, and --workdir {classes} a, b, c"),
    ):
        with pytest.raises((ConfigError, DataError), match=message) as caught:
            predictor.load(run, refine=refine)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="another segmenter"):
        evaluate_run(other, refine=refiner)


def counted(model):
    """The model with its refiner only where it is uncertain, and the windows that it then sees."""
    network = networks.only_uncertain(model.network)
    seen = []

    def refine(windows):
        seen.append(windows.shape)
        return network.logits.refine(windows)

    return predictor.Predictor(
        network._replace(logits=network.logits._replace(refine=refine))
    ), seen


def test_windows_that_are_all_uncertain_give_what_windows_everywhere_give(refined, monkeypatch):
    image = image_of((200, 330))
    model, _ = counted(refined)
    monkeypatch.setattr(refining, "MARGIN", 2.0)  # of two probabilities
    refining._uncertain.clear_cache()
    some = model.probabilities(image)
    monkeypatch.undo()
    refining._uncertain.clear_cache()
    monkeypatch.setattr(refining, "MAX_PIXELS", 0)
    monkeypatch.setattr(refining, "WINDOW", refining.UNCERTAIN_WINDOW)
    np.testing.assert_array_equal(some, refined.probabilities(image))


def two_stages(scores):
    """A network whose segmenter gives these scores, and whose refiner turns them around."""

    def refine(windows):
        return -windows[..., 3:]

    logits = TwoStage(lambda images: scores[None], refine)
    fit = Refined(Fit(scores.shape[:2], resizes=True))
    return predictor.Predictor(networks.Network(logits, TABLE, fit))


def test_only_the_windows_of_an_edge_are_refined():
    label = np.zeros((64, 64), int)
    label[20:30, 40:50] = 1
    scores = jnp.float32(jax.nn.one_hot(label, CLASSES) * 20)
    image = image_of((640, 960))
    whole = two_stages(scores)
    model, seen = counted(whole)
    found = model.label(image)
    windows = np.prod([len(tiles._starts(n, 160, 0.25)) for n in (640, 960)])
    assert 0 < sum(shape[0] for shape in seen) <= windows / 2
    assert {shape[1:] for shape in seen} == {(160, 160, 3 + CLASSES)}
    coarse = at_size(scores, np.array([640, 960]), (640, 960)).argmax(-1)
    np.testing.assert_array_equal(found[400:], coarse[400:])
    inside = (slice(230, 270), slice(640, 700))
    np.testing.assert_array_equal(found[inside], whole.label(image)[inside])
    assert (found[inside] != coarse[inside]).all()


def test_where_nothing_is_uncertain_the_segmenter_has_its_way():
    scores = jnp.zeros((16, 16, CLASSES)).at[..., 1].set(20)
    model, seen = counted(two_stages(scores))
    assert (model.label(image_of((300, 200))) == 1).all() and not seen
    mask = np.full((300, 200), 2)
    assert (model.label(image_of((300, 200)), mask) == 2).all() and not seen
    mask[150, 100] = 77  # no class: the refiner decides
    assert not (model.label(image_of((300, 200)), mask) == 2).all() and seen


def test_what_needs_a_refiner_says_so(made, coarse, tmp_path):
    Image.fromarray(image_of((20, 30))).save(tmp_path / "a.png")
    source, out = str(tmp_path / "a.png"), tmp_path / "out"
    for options, message in (
        (
            {"uncertain_only": True},
            "--uncertain_only: there is no refiner; give its work directory",
        ),
        (
            {"masks": tmp_path},
            "--masks .*: there is no refiner; give its work directory",
        ),
        ({"refine": made.refiner}, "refine is given with a model that is loaded"),
    ):
        with pytest.raises(ConfigError, match=message):
            segjax.predict(coarse, source, out, **options)
    with pytest.raises(ValueError, match="a mask needs a refiner"):
        coarse.label(image_of((20, 30)), np.zeros((20, 30), int))


def test_a_mask_of_any_program_is_refined_without_the_segmenter(refined):
    def fail(images):
        raise AssertionError

    network = refined.network
    model = predictor.Predictor(network._replace(logits=network.logits._replace(coarse=fail)))
    image, mask = image_of((50, 70)), np.zeros((50, 70), np.int64)
    mask[10:30, 20:60], mask[40:] = 1, 2
    label, scores = model.label_and_probabilities(image, mask)
    beside = np.concatenate([image, refining.coarse_of_label(mask, CLASSES)], axis=-1)
    expected = jax.nn.softmax(network.logits.refine(beside[None])[0])
    inside = (slice(32), slice(48))  # beyond, another padding is seen
    np.testing.assert_allclose(scores[inside], expected[inside], atol=0.02)
    assert (label[inside] != mask[inside]).any()
    for wrong in (mask[1:], mask[..., None], mask.astype(float)):
        with pytest.raises(ValueError, match=r"a mask is integers \[50, 70\], not "):
            model.label(image, wrong)


@pytest.fixture
def photos(tmp_path):
    """photos/{a.jpg,b/c.png} and theirs, masks of them."""
    for place, mask_place in (
        ("photos/a.jpg", "theirs/a.tif"),
        ("photos/b/c.png", "theirs/b/c.png"),
    ):
        for path, pixels in (
            (tmp_path / place, image_of((20, 30))),
            (tmp_path / mask_place, np.arange(600).reshape(20, 30).astype(np.uint8) // 220),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def test_masks_have_the_names_of_the_images(refined, photos):
    summary = segjax.predict(
        refined, str(photos / "photos"), photos / "out", masks=photos / "theirs", overlay=True
    )
    assert len(summary["images"]) == 2 and not summary["skipped"]
    image = np.array(Image.open(photos / "photos" / "b" / "c.png"))
    mask = np.array(Image.open(photos / "theirs" / "b" / "c.png"))
    found = np.array(Image.open(photos / "out" / "b" / "c.png"))
    np.testing.assert_array_equal(found, refined.label(image, mask))
    again = segjax.predict(refined, str(photos / "photos"), photos / "more", masks=photos / "out")
    assert len(again["images"]) == 2 and not again["skipped"]
    with pytest.raises(ConfigError, match="would replace the masks"):
        segjax.predict(refined, str(photos / "photos"), photos / "out", masks=photos / "out")
    with pytest.raises(ConfigError, match="--tta is of the segmenter, which does not run"):
        segjax.predict(
            refined, str(photos / "photos"), photos / "x", masks=photos / "out", tta=["flip"]
        )


@pytest.mark.parametrize("fault", ["missing", "size", "class", "two", "no mask"])
def test_a_mask_that_does_not_fit_is_skipped_in_a_line_that_names_both_files(
    fault, refined, photos
):
    mask = photos / "theirs" / "b" / "c.png"
    pixels = np.array(Image.open(mask))
    if fault == "missing":
        mask.unlink()
    elif fault == "size":
        Image.fromarray(pixels[1:]).save(mask)
    elif fault == "class":
        pixels[3, 4] = 17
        Image.fromarray(pixels).save(mask)
    elif fault == "two":
        Image.fromarray(pixels).save(mask.with_suffix(".tif"))
    else:
        mask.write_text("no mask")
    summary = segjax.predict(
        refined, str(photos / "photos"), photos / "out", masks=photos / "theirs"
    )
    assert [Path(entry["input"]).name for entry in summary["images"]] == ["a.jpg"]
    (line,) = summary["skipped"]
    assert str(photos / "photos" / "b" / "c.png") in line and "\n" not in line
    assert str(mask.with_suffix("")) in line
    with pytest.raises(DataError, match="these were skipped"):
        segment.report(summary, "out")


def test_masks_hold_the_values_of_the_run_s_masks_and_earlier_results_class_ids(tmp_path):
    table = LabelTable.from_json('{"classes": ["a", "b", "c"], "values": [2, 1, 200]}')
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "image.png")
    raw = np.array([[2, 1, 200, 255]], np.uint8)
    for name, pixels, origin in (("theirs", raw, None), ("ours", ids, images._origin())):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "image.png", pnginfo=origin)
        found = find_masks(tmp_path / name, table).beside(tmp_path / "image.png", "image", RGB)
        np.testing.assert_array_equal(found.example["label"], ids)


def test_folders_without_masks_are_refused(refined, photos):
    for folder, message in (("none", "no such folder"), ("empty", "no image is in it")):
        (photos / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=f"--masks .*{folder}: {message}"):
            segjax.predict(refined, str(photos / "photos"), photos / "o", masks=photos / folder)


SHAPES = [(32, 32), (24, 30), (16, 16), (64, 80), (75, 53), (10, 12), (10, 100), (90, 12)]


@pytest.mark.parametrize("shape", SHAPES)
def test_images_are_stretched_in_the_program_as_opencv_does(shape):
    image = image_of(shape)
    for size in ((16, 16), (24, 32)):
        expected = resize_image(image, size).astype(int)
        found = jax.jit(composed.stretched, static_argnums=1)(image[None], size)[0]
        assert found.dtype == np.uint8 and found.shape == (*size, 3)
        different = abs(found - expected)
        assert different.max() <= 1 and (different > 0).mean() < 0.25  # by rounding


@pytest.fixture(scope="module")
def stablehlo(made):
    path = made.refiner.parent / "refined.zip"
    export_run.export_run(made.segmenter, path, refine=made.refiner)
    return path


def test_one_program_does_what_two_stages_do(stablehlo, refined):
    model = predictor.load(stablehlo)
    different = total = 0
    for seed, shape in enumerate([*SHAPES, (130, 200), (200, 301)]):
        image = image_of(shape, seed)
        label = model.label(image)
        different, total = different + (label != refined.label(image)).sum(), total + label.size
    assert different / total < 1e-3


def test_stablehlo_takes_images_of_any_size_as_they_are(stablehlo, made):
    network, metadata = networks.read_file(stablehlo)
    assert (metadata["fit"], metadata["size"]) == ("whole", [16, 16])
    assert network.fit == Fit((16, 16), resizes=False, is_whole=True)
    trained = runs.restore(made.refiner)
    assert metadata["parameters"] == fingerprint(trained.variables["params"])
    assert metadata["segmenter_parameters"] == fingerprint(trained.segmenter.variables["params"])
    with zipfile.ZipFile(stablehlo) as file:
        program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
    images = np.stack([image_of((45, 70), seed) for seed in range(3)])
    outputs = program.call(images)
    assert outputs["label"].shape == (3, 45, 70) and outputs["probabilities"].shape[-1] == CLASSES
    assert len(np.unique(outputs["label"])) == CLASSES


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_verification_of_a_program_of_two_stages(network, make, monkeypatch):
    made = make(*network)
    path = made.refiner.parent / "verified.zip"
    result = export_run.export_run(made.refiner, path, verify=True)
    assert result["images"] == 3 and result["different"] < 1e-3 and "converted" not in result
    # The run has windows where the program takes images whole, so that the two differ.
    monkeypatch.setattr(refining, "MAX_PIXELS", 0)
    result = export_run.export_run(made.refiner, path, verify=True)
    assert result["converted"]["different"] < 1e-3


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_onnx_has_one_size_and_any_batch(network, make):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    made = make(*network)
    refined = predictor.load(made.refiner)
    path = made.refiner.parent / "refined.onnx"
    with pytest.raises(ConfigError, match=r"--size is missing: an ONNX file has one, .*data\.json"):
        export_run.export_run(made.refiner, path, "onnx")
    check.check(made.config.data, cache=made.refiner / "data.json")
    result = export_run.export_run(made.refiner, path, "onnx", verify=True)
    assert result["size"] == (24, 30) and result["different"] < 1e-3
    assert "It takes images of 24×30 (height×width)" in export_run.describe(path, result)
    network, metadata = networks.read_file(path)
    assert (metadata["fit"], metadata["size"]) == ("resize", [24, 30])
    assert network.fit == Fit((24, 30), resizes=True, fixed_size=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.stack([image_of((24, 30), seed) for seed in range(3)])
    for batch in (images[:1], images):
        (label,) = session.run(["label"], {"image": batch})
        expected = np.stack([refined.label(image) for image in batch])
        assert (label != expected).mean() < 1e-3
    assert predictor.load(path).label(image_of((50, 40))).shape == (50, 40)


def test_what_a_format_cannot_hold_is_refused(made, tmp_path):
    def export(folder, name, format, **options):
        export_run.export_run(folder, tmp_path / name, format, **options)

    with pytest.raises(
        ConfigError, match=r"safetensors: no other library has a refiner; .* --workdir SEG"
    ):
        export(made.refiner, "m.safetensors", "safetensors")
    with pytest.raises(ConfigError, match="--size is for the ONNX file of a refiner"):
        export(made.refiner, "m.zip", "stablehlo", size=(8, 8))
    with pytest.raises(ConfigError, match="--size is 8; give height and width"):
        export(made.refiner, "m.onnx", "onnx", size=(8,))
    with pytest.raises(ConfigError, match=r"--refine is for --workdir; .*m\.zip is a file"):
        (tmp_path / "m.zip").write_bytes(b"")
        predictor.load(tmp_path / "m.zip", refine=made.refiner)


def test_a_frame_gets_the_classes_that_it_gets_as_an_image(refined, tmp_path):
    source = write_video(tmp_path / "in.mp4", [(128, 100, 50), (30, 200, 90)], noise=60)
    labels = [refined.label(np.ascontiguousarray(frame)) for frame in read_video(source)[0]]
    summary = segjax.predict(refined, source, tmp_path / "out")
    assert summary["frames"] == 2
    counts = np.bincount(np.ravel(labels), minlength=CLASSES)
    assert [*summary["class_shares"].values()] == pytest.approx(counts / counts.sum(), abs=1e-5)
    assert len(read_video(tmp_path / "out" / "in.mp4")[0]) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [({"smoothing": 0.5}, "--smoothing averages the scores of the segmenter, which a refiner"),
     ({"masks": "theirs"}, "--masks is for images; a video becomes an overlay")],
)  # fmt: skip
def test_what_a_refined_video_cannot_have_is_refused(option, message, refined, tmp_path):
    source = write_video(tmp_path / "in.mp4", [(128, 100, 50)])
    with pytest.raises(ConfigError, match=message):
        segjax.predict(refined, source, tmp_path / "out", **option)
    assert not (tmp_path / "out" / "in.mp4").exists()


def test_scores_of_the_segmenter_are_averaged_over_mirrored_images(made, refined, tmp_path):
    model = predictor.load(made.refiner, tta=["flip"])
    images = image_of((16, 16))[None]
    scores = model.network.logits.coarse(images)
    mirrored = model.network.logits.coarse(images[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(scores, mirrored, atol=1e-4)
    image = image_of((50, 70))
    Image.fromarray(image).save(tmp_path / "a.png")
    segjax.predict(model, str(tmp_path), tmp_path / "out", probabilities=True, overlay=True)
    label, scores = model.label_and_probabilities(image)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "out" / "a.png")), label)
    with np.load(tmp_path / "out" / "a.npz") as file:
        np.testing.assert_array_equal(file["probabilities"], scores)
    assert (tmp_path / "out" / "a_overlay.png").is_file()
    assert (scores != refined.probabilities(image)).any()
