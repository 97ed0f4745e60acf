"""A refiner where it is used: prediction, evaluation, masks of other programs, video, export."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_export import STEP, drawn, write_run
from test_scored import TABLE, write_images

import segjax
from segjax import models
from segjax.data.counts import Report
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.inference import predictor
from segjax.run import workdir
from segjax.run.checkpoints import Checkpoints
from segjax.run.state import TrainState
from segjax.training import second_stage
from segjax.training.evaluate_run import evaluate_run

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
    counts = np.ones(len(trained.table.names), int)
    workdir.save(folder, config, Report(trained.table, pixel_counts={"train": counts}))
    second_stage.keep(config, trained, folder)
    checkpoints = Checkpoints(folder)
    state = TrainState(np.array(STEP), **variables, opt_state=np.zeros(1), ema=variables)
    checkpoints.save(state, {}, mean_iou=0.5)
    checkpoints.close()


@pytest.fixture(scope="module")
def made(shared_tiny_config, tmp_path_factory):
    """data: a folder of 24×30 images; segmenter, refiner: work directories; config: the former's."""
    root = tmp_path_factory.mktemp("refine")
    write_images(root / "data" / "train", range(4))
    write_images(root / "data" / "val", range(4, 7))
    (root / "data" / "classes.json").write_text(TABLE.to_json())
    config = shared_tiny_config.copy_and_resolve_references()
    config.data.update(source="folder", root=str(root / "data"), size=(16, 16))
    write_run(root / "segmenter", config, TABLE)
    write_refiner(root / "refiner", root / "segmenter", config)
    places = {name: root / name for name in ("data", "segmenter", "refiner")}
    return SimpleNamespace(**places, config=config)


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


def test_evaluation_scores_both_stages(made):
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
