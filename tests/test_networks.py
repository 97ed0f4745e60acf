"""Test-time augmentation: what is averaged, and what cannot be; a run and its file are alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_export import write_run

from segjax.data.fitting import Fit
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError
from segjax.inference import export_run, networks, predictor
from segjax.inference.networks import Network

TABLE = LabelTable.of_names(["low", "middle", "high"])
COLUMNS = np.arange(3, dtype=np.float32)


def image_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def lopsided(images):
    """Logits that depend on a pixel's colour and on how far to the right it is."""
    place = jnp.arange(images.shape[2])[:, None] * jnp.array([[0.3, 0.1, 0.2]])
    return jnp.sin(images / 40.0 + place[None, None])


def sizes(images):
    """Logits that tell how large the network's input was."""
    return jnp.broadcast_to(jnp.array([0.0, *images.shape[1:3]]), (*images.shape[:3], 3))


def averaged(function, *tta, fixed_size=False):
    network = Network(function, TABLE, Fit((32, 32), resizes=True, fixed_size=fixed_size))
    return networks.averaged(network, tta)


def test_flip_makes_predictions_that_mirror_with_the_image():
    images = np.stack([image_of((5, 8), seed) for seed in range(2)])
    mirrored = images[:, :, ::-1]
    logits = averaged(lopsided, "flip").logits
    np.testing.assert_allclose(logits(mirrored), logits(images)[:, :, ::-1], atol=1e-5)
    mean = (lopsided(images) + lopsided(mirrored)[:, :, ::-1]) / 2
    np.testing.assert_allclose(logits(images), mean, atol=1e-5)
    assert abs(lopsided(mirrored) - lopsided(images)[:, :, ::-1]).max() > 0.5


@pytest.mark.parametrize("tta", [("flip",), ("0.5", "2"), ("flip", "0.75", "1.25")])
def test_of_one_colour_all_changes_give_what_the_image_gives(tta):
    images = np.full((2, 9, 14, 3), (200, 100, 50), np.uint8)
    logits = averaged(lambda x: jnp.sin(x / 40.0), *tta).logits(images)
    assert logits.shape == (2, 9, 14, 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, np.sin(images / 40.0), atol=1e-5)


def test_scales_show_the_network_larger_and_smaller_images():
    images = image_of((31, 48))[None]
    logits = averaged(sizes, "0.5", "2").logits(images)
    expected = np.mean([(0, 31, 48), (0, 16, 24), (0, 62, 96)], axis=0)
    np.testing.assert_allclose(logits, np.broadcast_to(expected, (1, 31, 48, 3)), atol=1e-4)
    tiny = averaged(sizes, "0.1").logits(images[:, :1, :4])
    np.testing.assert_allclose(tiny[0, 0, 0], [0, 1, 2.5], atol=1e-5)


def test_a_scaled_image_keeps_its_place():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None] * 10, (1, 12, 16, 3))
    logits = averaged(lambda x: x.astype(jnp.float32), "2").logits(ramp)
    np.testing.assert_allclose(logits[:, :, 1:-1], ramp[:, :, 1:-1], atol=1)


def test_an_average_is_no_more_certain_than_what_it_averages():
    def certain(images):
        return jnp.broadcast_to(jnp.array([0.0, 1.0, 2.0]), (*images.shape[:3], 3))

    model = predictor.Predictor(averaged(certain, "flip", "0.5", "2"))
    expected = np.broadcast_to(jax.nn.softmax(COLUMNS), (20, 30, 3))
    np.testing.assert_allclose(model.probabilities(image_of((20, 30))), expected, atol=1e-3)


@pytest.mark.parametrize("value", ["text", "", "0", "-1", "100", "nan", "inf", "0.75x", "Flip"])
def test_what_is_neither_flip_nor_a_scale_is_told(value):
    with pytest.raises(ConfigError, match=f"--tta=flip,{value}: "):
        averaged(lopsided, "flip", value)


def test_a_fixed_size_allows_no_scales_but_flips():
    with pytest.raises(ConfigError, match=r"--tta=flip,0\.5: .*one size"):
        averaged(lopsided, "flip", "0.5", fixed_size=True)

    def in_numpy(images):
        assert type(images) is np.ndarray and images.shape == (1, 6, 7, 3)  # as ONNX Runtime needs
        return images.astype(np.float32) * np.arange(7, dtype=np.float32)[:, None]

    images = image_of((6, 7))[None]
    logits = averaged(in_numpy, "flip", fixed_size=True).logits(images)
    mean = (in_numpy(images) + in_numpy(images[:, :, ::-1])[:, :, ::-1]) / 2
    np.testing.assert_allclose(logits, mean, rtol=1e-5)


def test_a_run_and_its_file_give_the_same_labels(shared_tiny_config, tmp_path):
    write_run(tmp_path / "run", shared_tiny_config)
    export_run.export_run(tmp_path / "run", tmp_path / "model.zip")
    images = [image_of(size, seed) for seed, size in enumerate([(32, 32), (20, 50), (65, 33)])]
    for tta in ((), ("flip",)):
        run, file = (predictor.load(tmp_path / name, tta=tta) for name in ("run", "model.zip"))
        for image in images:
            label = run.label(image)
            assert label.shape == image.shape[:2] and len(np.unique(label)) > 1
            assert (file.label(image) == label).mean() > 0.999
            probabilities = run.probabilities(image)
            np.testing.assert_allclose(file.probabilities(image), probabilities, atol=1e-3)
