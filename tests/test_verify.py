"""export --verify: the file as it is used, against the run as it is scored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from test_export import drawn, write_run
from test_scored import TABLE, write_images

from segjax import models
from segjax.inference import export_run, networks, verification
from segjax.weights import runs


@pytest.fixture
def config(tmp_path, tiny_config):
    """Of a run on images that are larger than what it was trained on, and keep their pixels."""
    write_images(tmp_path / "data" / "val", range(3))
    (tmp_path / "data" / "classes.json").write_text(TABLE.to_json())
    tiny_config.data.update(source="folder", root=str(tmp_path / "data"), fit="pad", size=(16, 16))
    return tiny_config


def test_logits_of_a_bfloat16_network_are_not_rounded_to_bfloat16(tiny_config):
    tiny_config.model.dtype = "bfloat16"
    model = models.build(tiny_config.model, 19)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    logits = np.asarray(jax.jit(model.apply)(drawn(model), image))
    assert logits.dtype == np.float32
    rounded = logits.astype(jnp.bfloat16).astype(np.float32)
    assert (logits != rounded).mean() > 0.9
    assert (logits.argmax(-1) != rounded.argmax(-1)).any()  # what rounding would have changed


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_a_file_is_compared_as_it_is_used_with_the_run_as_it_is_scored(
    network, config, tmp_path, monkeypatch
):
    use(config, *network)
    config.model.dtype = "bfloat16"
    write_run(tmp_path / "run", config, TABLE)
    file = tmp_path / "model.zip"
    result = export_run.export_run(tmp_path / "run", file, verify=True)
    assert result["images"] == 3 and result["dtype"] == "bfloat16"
    assert result["converted"]["different"] == 0  # in float32, it is what it was made of
    assert 0 < result["different"] < 0.1  # which is not what was scored, and is said
    assert "the run as it is scored, in bfloat16" in verification.describe(result)
    network, metadata = networks.read_file(file)
    assert (metadata["dtype"], metadata["scored_dtype"]) == ("float32", "bfloat16")

    # A program of one size gets tiles of images that the run was scored on whole.
    fixed = network._replace(fit=network.fit._replace(fixed_size=True))
    monkeypatch.setattr(networks, "read_file", lambda _: (fixed, metadata))
    exported = runs.restore(tmp_path / "run", dtype="float32")
    tiled = verification.compare(exported, exported, file)
    assert tiled["converted"]["different"] == 0 < tiled["different"]
    assert tiled["converted"]["exported_mean_iou"] == tiled["exported_mean_iou"]
    assert tiled["exported_mean_iou"] != tiled["mean_iou"]


@pytest.mark.slow
def test_an_onnx_file_of_a_run_that_keeps_pixels_is_what_it_was_made_of(config, tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    write_run(tmp_path / "run", config, TABLE)
    result = export_run.export_run(tmp_path / "run", tmp_path / "m.onnx", "onnx", verify=True)
    assert result["converted"]["different"] < 1e-3 < result["different"]
