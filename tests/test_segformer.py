"""SegFormer has the size of the paper's networks, and takes images, dtypes and keys as others."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import MIXED, SEGFORMER, use
from test_export import write_run
from test_parallel import assert_same_update, noisy_step, sgd_config  # noqa: F401

from segjax import defaults, models
from segjax.errors import ConfigError
from segjax.inference import export_run, networks
from segjax.models import mit
from segjax.models.layers.resize import enlarge
from segjax.models.layers.stochastic import drop_path
from segjax.training.validate import validate
from segjax.weights import runs

# Parameters of transformers' networks: of the encoder, with 150 classes, with 19.
SIZES = {
    "b0": (3_319_392, 3_752_694, 3_719_027),
    "b1": (13_151_424, 13_715_798, 13_682_131),
    "b2": (24_196_288, 27_461_974, 27_361_235),
    "b3": (44_072_128, 47_337_814, 47_237_075),
    "b4": (60_842_688, 64_108_374, 64_007_635),
    "b5": (81_443_008, 84_708_694, 84_607_955),
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(mit.VARIANTS, "tiny", mit.Variant((1, 1, 2, 1), (8, 16, 40, 64)))


def configured(**changes):
    config = defaults.get_config().model
    config.update(encoder="mit", name="segformer")
    config.mit.variant, config.segformer.channels = "tiny", 8
    config.update_from_flattened_dict(changes)
    return config


def build(**changes):
    return models.build(configured(**changes), 3)


def images_of(size, batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


def shapes_of(model, image):
    return jax.eval_shape(model.init, jax.random.key(0), image)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("variant", SIZES)
def test_networks_have_the_published_size(variant):
    channels = 256 if variant in ("b0", "b1") else 768
    config = configured(**{"mit.variant": variant, "segformer.channels": channels})
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8")
    trees = [shapes_of(models.build(config, n), image)["params"] for n in (150, 19)]
    found = count(trees[0]["encoder"]), *map(count, trees)
    assert found == SIZES[variant]


@pytest.mark.parametrize("size", [(1, 1), (33, 50), (97, 131)])
@pytest.mark.parametrize(
    "families", [{}, {"name": "unet"}, {"encoder": "mobilenet_v2"}], ids=lambda f: str(f) or "own"
)
def test_any_image_size_gives_logits_of_the_same_size(size, families):
    config = configured(**families)
    known = defaults.get_config().model
    for section in {"mit", "segformer"} - {config.encoder, config.name}:
        config[section] = known[section]
    model = models.build(config, 3)
    image = jax.ShapeDtypeStruct((2, *size, 3), "uint8")
    logits = jax.eval_shape(model.apply, shapes_of(model, image), image)
    assert (logits.shape, logits.dtype) == ((2, *size, 3), jnp.float32)


def test_a_small_image_is_one_with_the_mean_colour_below_and_at_the_right():
    model, image = build(), images_of((20, 40))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    filled = np.tile(np.float32(model.mean), (2, 32, 40, 1))
    filled[:, :20] = image
    apply = jax.jit(model.apply)
    expected = apply(variables, filled)[:, :20]
    np.testing.assert_allclose(apply(variables, image), expected, atol=1e-6)


def test_bfloat16_keeps_parameters_and_logits_in_float32_and_norms_close():
    image = images_of((48, 33))
    model = build()
    variables = jax.jit(model.init)(jax.random.key(0), image)
    half = build(dtype="bfloat16")
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes_of(half, image))
    ours, expected = (jax.jit(m.apply)(variables, image) for m in (half, model))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, atol=0.05 * np.abs(expected).max())


def test_stochastic_depth_grows_from_nothing_over_all_blocks():
    rates = []

    def note(next_method, args, kwargs, context):
        if isinstance(context.module, mit.Block):
            rates.append((context.module.layer, context.module.drop_rate))
        return next_method(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(build(**{"mit.drop_path": 0.2}), images_of((32, 32)))
    np.testing.assert_allclose(rates, [(i, 0.05 * i) for i in range(5)])


def test_whole_examples_are_dropped_and_the_mean_stays():
    keys = jax.vmap(jax.random.key)(jnp.arange(2000))
    dropped = np.asarray(drop_path(jnp.ones((2000, 2, 3)), keys, 0.25, layer=0))
    assert (dropped == dropped[:, :1, :1]).all()
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    other = drop_path(jnp.ones((2000, 2, 3)), keys, 0.25, layer=1)
    assert (dropped != other).mean() == pytest.approx(2 * 0.25 * 0.75, abs=0.05)


def test_a_frozen_encoder_has_no_gradient_and_drops_nothing():
    image = images_of((32, 32))
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    model = build(**{"freeze_encoder": True, "segformer.dropout": 0.0})
    assert not model.stochastic
    model = build(**{"freeze_encoder": True, "mit.drop_path": 0.9})
    assert model.stochastic
    variables = jax.jit(model.init)(jax.random.key(0), image)
    seen = []

    def note(next_method, args, kwargs, context):
        if isinstance(context.module, mit.MiT):
            seen.append(kwargs)
        return next_method(*args, **kwargs)

    def total(params):
        variables_ = {**variables, "params": params}
        logits, _ = model.apply(variables_, image, True, keys, mutable=["batch_stats"])
        return (logits**2).sum()

    with nn.intercept_methods(note):
        gradients = jax.jit(jax.grad(total))(variables["params"])
    assert seen == [{}]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["encoder"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients["decoder"]))


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_step_is_the_same_on_one_device_a_mesh_and_under_pmap(accumulate, sgd_config):  # noqa: F811
    sgd_config.model = configured(**{"mit.drop_path": 0.5})
    sgd_config.optim.accumulate = accumulate
    (params, loss), start = noisy_step(sgd_config, "jit", 1)
    for mode in ("jit", "pmap"):
        (same, same_loss), _ = noisy_step(sgd_config, mode, 4)
        assert_same_update(params, same, start)
        np.testing.assert_allclose(loss, same_loss, rtol=1e-5)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize(
    "network",
    [SEGFORMER, *(pytest.param(network, marks=pytest.mark.slow) for network in MIXED)],
    ids=" under ".join,
)
def test_a_file_of_any_format_predicts_what_the_run_does(network, format, tiny_config, tmp_path):
    if format == "onnx":
        pytest.importorskip("jax2onnx")
        pytest.importorskip("onnxruntime")
    use(tiny_config, *network)
    tiny_config.data.size = (35, 50)
    write_run(tmp_path / "run", tiny_config)
    path = tmp_path / ("m.onnx" if format == "onnx" else "m.zip")
    result = export_run.export_run(tmp_path / "run", path, format, verify=True)
    assert result["different"] == 0
    network, _ = networks.read_file(path)
    run = networks.of(runs.restore(tmp_path / "run"))
    for size in [(35, 50)] if format == "onnx" else [(35, 50), (9, 131)]:
        images = images_of(size, batch=3)
        expected = jax.nn.softmax(run.logits(images))
        np.testing.assert_allclose(jax.nn.softmax(network.logits(images)), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 10), (7, 9), (13, 40)])
def test_enlarging_is_linear_between_centres_of_pixels(shape):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    expected = jax.image.resize(x, (2, *shape, 4), "linear")
    np.testing.assert_allclose(enlarge(x, shape), expected, atol=1e-5)
    aligned = np.asarray(enlarge(x, shape, align_corners=True))
    np.testing.assert_allclose(aligned[:, [0, -1]][:, :, [0, -1]], x[:, ::2][:, :, ::4], atol=1e-5)
    at = np.linspace(0, 4, shape[1])
    np.testing.assert_allclose(
        aligned[0, 0, :, 0], np.interp(at, range(5), x[0, 0, :, 0]), atol=1e-5
    )
    np.testing.assert_allclose(enlarge(x[:, :1], (1, 5), True), x[:, :1], atol=1e-6)


def test_windows_smaller_than_a_patch_are_refused(tiny_config):
    use(tiny_config, *SEGFORMER)
    tiny_config.data.size = (64, 3)
    with pytest.raises(ConfigError, match=r"data.size is \(64, 3\); .*=mit has 4×4 .* least 4,4"):
        validate(tiny_config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mit.variant", "b6"),
        ("mit.drop_path", 1.0),
        ("mit.norm_epsilon", 0.0),
        ("mit.patch_norm_epsilon", -1e-5),
        ("segformer.channels", 0),
        ("segformer.dropout", -0.1),
    ],
)
def test_impossible_models_are_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"config.model.{field} is .?{value}"):
        build(**{field: value})
