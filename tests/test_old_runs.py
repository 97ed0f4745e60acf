"""A run that version 0.1 left half done: it is still scored, predicts the same and goes on.

tests/data/run_0_1.tar.xz holds the run, its data and, in expected.json, what version 0.1 made of
them (the weights have few different values, so that they compress); tests/data/exported_0_1.zip is
the run as segjax.export wrote it before the fields of config.model had sections.

tests/data/run_flat_model.tar.xz is a run of that time, on shapes, with values other than the
defaults in all of these fields.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from segjax.data.sources import build_source
from segjax.inference import predictor
from segjax.run import workdir
from segjax.training import loop
from segjax.training.evaluate_run import evaluate_run

ARCHIVE = Path(__file__).with_name("data") / "run_0_1.tar.xz"
FLAT_MODEL = ARCHIVE.with_name("run_flat_model.tar.xz")


def unpacked(archive, tmp_path, monkeypatch):
    """What expected.json holds; its folder becomes the current one."""
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / archive.name.removesuffix(".tar.xz"))
    return json.loads(Path("expected.json").read_text())


@pytest.fixture
def expected(tmp_path, monkeypatch):
    return unpacked(ARCHIVE, tmp_path, monkeypatch)


def assert_predicts(model, expected):
    for name, bits in expected["prediction"].items():
        label = model.label(np.asarray(Image.open(f"data/images/{name}")))
        packed = np.frombuffer(bytes.fromhex(bits), np.uint8)
        then = np.unpackbits(packed, count=label.size).reshape(label.shape)
        assert (label != then).mean() < 2e-3, name


def test_a_run_of_version_0_1_is_scored_and_predicts_as_it_did(expected, optimized, caplog):
    caplog.set_level("INFO", "segjax")
    config, _, _ = workdir.load(Path("run"))
    for split, names in expected["names"].items():
        source = build_source(config.data, split)
        assert [Path(source.name(i)).name for i in range(len(source))] == names
    report = evaluate_run(Path("run"), "val")
    for name, value in expected["val"].items():
        assert report[name] == pytest.approx(value, rel=1e-3), name
    assert_predicts(predictor.load("run"), expected)
    assert "read under their new names: model.mobilenet_v2" in caplog.text


def test_a_file_that_was_exported_before_predicts_as_the_run_did(expected, optimized):
    assert_predicts(predictor.load(ARCHIVE.with_name("exported_0_1.zip")), expected)


def test_a_run_of_version_0_1_goes_on_as_it_would_have(expected, optimized):
    config, _, _ = workdir.load(Path("run"))
    state, report = loop.train_and_evaluate(config, "run")
    assert int(state.step) == config.num_epochs
    for name, value in expected["resumed"].items():
        assert report[name] == pytest.approx(value, rel=1e-3), name
    total = sum(np.abs(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(state.params))
    assert total == pytest.approx(expected["resumed_sum"], rel=1e-6)


def test_a_run_whose_model_had_no_sections_predicts_as_it_did_and_goes_on(
    tmp_path, monkeypatch, optimized
):
    expected = unpacked(FLAT_MODEL, tmp_path, monkeypatch)
    config, _, _ = workdir.load(Path("run"))
    encoder, decoder = config.model.mobilenet_v2, config.model.unet
    assert encoder.to_dict() == {"width": 0.35, "norm_epsilon": 1e-3, "padding": "same"}
    assert decoder.to_dict() == {"channels": [8] * 5, "upsample": "bilinear"}
    model, source = predictor.load("run"), build_source(config.data, "val")
    for i, label in enumerate(expected["prediction"]):
        assert (model.label(source[i]["image"]) != label).mean() < 2e-3
    trainer = loop.Trainer(config, Path("run"))
    start = np.asarray(trainer.start_state.params["head"]["bias"])
    trainer.checkpoints.close()
    state, _ = loop.train_and_evaluate(config, "run")
    # Rounding on another processor makes 1.6 % of what training moves, the other epsilon or padding
    # of the encoder 31 % or more.
    moved, wrong = (
        np.linalg.norm(x - expected["head_bias"]) for x in (start, state.params["head"]["bias"])
    )
    assert moved > 1e-3 and wrong < 0.1 * moved
