"""Another family of networks is a row of a table: everything works for it as for the first.

SegFormer is one. The toy has an encoder with three features and not five, layer norm and so no
batch statistics, a largest stride of 8 and dropout.
"""

import json

import families
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FIELDS, MIXED, SEGFORMER
from test_export import write_run
from test_parallel import assert_same_update
from test_train import assert_equal_trees, interrupt_after

from segjax import models
from segjax.errors import ConfigError, Interrupted
from segjax.inference import export_run, predictor
from segjax.models.layers.stochastic import dropout
from segjax.runtime.devices import Parallel
from segjax.training import build, loop


class Toy(nn.Module):
    """Features of strides 2, 4 and 8."""

    width: int
    rate: float = 0.0
    strides = (2, 4, 8)

    @property
    def channels(self):
        return tuple(self.width * stride for stride in self.strides)

    @property
    def stochastic(self):
        return self.rate > 0

    @nn.compact
    def __call__(self, x, train, keys=None):
        features = []
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), strides=2, name=f"conv{i}")(x)
            x = nn.gelu(nn.LayerNorm(name=f"norm{i}")(x))
            if keys is not None:
                x = dropout(x, keys, self.rate, layer=i)
            features.append(x)
        return features


class Sum(nn.Module):
    """The features, enlarged to stride 1 and added up after a dense layer each; no norm."""

    width: int
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, features, train):
        layers = [nn.Dense(self.width, name=f"dense{stride}") for stride in self.strides]
        return sum(
            layer(x).repeat(stride, 1).repeat(stride, 2)
            for layer, x, stride in zip(layers, features, self.strides, strict=True)
        )

    def is_decayed(self, params):
        return jax.tree.map(lambda _: False, params)


def build_toy(config, axis_name, dtype):
    return Toy(config.width, config.rate)


def build_sum(config, strides, axis_name, dtype):
    return Sum(config.width, tuple(strides))


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "toy", build_toy)
    monkeypatch.setitem(models.DECODERS, "sum", build_sum)
    monkeypatch.setitem(FIELDS, "toy", {"width": 4, "rate": 0.25})
    monkeypatch.setitem(FIELDS, "sum", {"width": 8})


def use(config, encoder, decoder):
    families.use(config, encoder, decoder)
    if (encoder, decoder) == ("toy", "unet"):
        config.model.unet.channels = (8, 8, 8)


@pytest.fixture
def config(tiny_config):
    use(tiny_config, "toy", "unet")
    tiny_config.data.num_train = 8
    tiny_config.augment.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gamma=0.0)
    tiny_config.augment.scale = (1.0, 1.0)
    return tiny_config


def trained(config, folder, parallel, devices, monkeypatch):
    config = config.copy_and_resolve_references()
    config.parallel = parallel
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: jax.local_devices()[:devices])
        return loop.train_and_evaluate(config, folder)[0]


@pytest.mark.parametrize(
    "network",
    [("toy", "unet"), pytest.param(SEGFORMER, marks=pytest.mark.slow)],
    ids=" under ".join,
)
def test_it_learns_alike_on_one_device_a_mesh_and_under_pmap(
    network, config, tmp_path, monkeypatch, optimized
):
    use(config, *network)
    config.num_epochs = 1
    config.optim.name = "sgd"
    compiled = build.compile_steps(config, Parallel("jit"), 21, np.ones(21), total_steps=10)
    start = build.create_state(compiled, 21, config.seed)
    assert "batch_stats" not in compiled.model.encoder.init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
    one = trained(config, tmp_path / "one", "jit", 1, monkeypatch)
    for mode in ("jit", "pmap"):
        four = trained(config, tmp_path / mode, mode, 4, monkeypatch)
        assert_same_update(one.params, four.params, start.params)


@pytest.mark.parametrize("network", [("toy", "unet"), SEGFORMER], ids=" under ".join)
def test_dropout_is_a_function_of_the_keys_and_of_training(network, config):
    use(config, *network)
    model = models.build(config.model, 3)
    image = jnp.ones((2, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    keys = jax.vmap(jax.random.key)(jnp.arange(4))

    @jax.jit
    def logits(keys):
        return model.apply(variables, image, train=True, keys=keys, mutable=["batch_stats"])[0]

    first, again, other = map(logits, (keys[:2], keys[:2], keys[2:]))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    x = jnp.ones((1000, 8))
    dropped = dropout(x, jax.vmap(jax.random.key)(jnp.arange(1000)), 0.25, layer=0)
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "network",
    [
        ("toy", "unet"),
        ("toy", "sum"),
        SEGFORMER,
        *(pytest.param(network, marks=pytest.mark.slow) for network in MIXED),
    ],
    ids=" under ".join,
)
def test_it_resumes_exactly_predicts_and_is_exported(network, config, tmp_path, monkeypatch):
    use(config, *network)
    whole, _ = loop.train_and_evaluate(config, tmp_path / "whole")
    assert bool(whole.batch_stats) == (network != ("toy", "sum"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        with pytest.raises(Interrupted):
            loop.train_and_evaluate(config, tmp_path / "run")
    if "toy" in network:  # as if the other families had come later
        path = tmp_path / "run" / "config.json"
        stored = json.loads(path.read_text())
        for family in {"unet", "mobilenet_v2", "mit", "segformer"} - {*network}:
            del stored["model"][family]
        path.write_text(json.dumps(stored))
    resumed, _ = loop.train_and_evaluate(config, tmp_path / "run")
    assert_equal_trees(whole.params, resumed.params)
    model = predictor.load(tmp_path / "run")
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    label = model.label(image)
    assert label.shape == (37, 50)
    export_run.export_run(tmp_path / "run", tmp_path / "toy.zip", "stablehlo", verify=True)
    np.testing.assert_array_equal(predictor.load(tmp_path / "toy.zip").label(image), label)


def test_weights_that_no_library_takes_are_not_exported(config, tmp_path):
    write_run(tmp_path / "run", config)
    with pytest.raises(ConfigError, match="encoder is 'toy', of which no other"):
        export_run.export_run(tmp_path / "run", tmp_path / "toy.safetensors", "safetensors")


@pytest.mark.parametrize("network", [("toy", "unet"), SEGFORMER, *MIXED], ids=" under ".join)
def test_norms_and_biases_of_any_family_are_not_decayed(network, config):
    use(config, *network)
    model = models.build(config.model, 3)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for path, decayed in jax.tree.leaves_with_path(model.is_decayed(params)):
        assert decayed == (path[-1].key == "kernel"), path


def test_a_decoder_says_itself_what_is_decayed(config):
    use(config, "toy", "sum")
    model = models.build(config.model, 3)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    decayed = model.is_decayed(params)
    assert decayed["encoder"]["conv0"]["kernel"] and decayed["head"]["kernel"]
    assert not any(jax.tree.leaves(decayed["decoder"]))


@pytest.mark.parametrize("decoder", ["unet", "segformer"])
@pytest.mark.parametrize("encoder", ["mobilenet_v2", "toy", "mit"])
def test_encoders_publish_what_they_give_and_every_feature_is_used(encoder, decoder, config):
    use(config, encoder, decoder)
    model = models.build(config.model, 3)
    key, image = jax.random.key(0), jnp.zeros((1, 64, 32, 3))
    features, _ = jax.eval_shape(lambda x: model.encoder.init_with_output(key, x, False), image)
    published = zip(model.encoder.strides, model.encoder.channels, strict=True)
    assert [x.shape for x in features] == [(1, 64 // s, 32 // s, c) for s, c in published]
    features = [jax.random.normal(key, x.shape) for x in features]
    variables = model.decoder.init(key, features, False)
    gradients = jax.grad(lambda x: model.decoder.apply(variables, x, False).sum())(features)
    assert all((gradient != 0).any() for gradient in gradients)


def test_fields_of_a_family_that_is_not_chosen_are_refused(config):
    config.model.mobilenet_v2.width = 0.5
    with pytest.raises(ConfigError, match=r"config.model.mobilenet_v2.width is 0.5.* toy under"):
        models.build(config.model, 3)


def test_a_decoder_needs_a_channel_for_every_doubling(config):
    config.model.unet.channels = (8, 8, 8, 8, 8)
    with pytest.raises(ConfigError, match=r"it needs 3 whole numbers .* from stride 8"):
        models.build(config.model, 3)


def test_a_u_net_needs_strides_that_are_powers_of_two(config, monkeypatch):
    monkeypatch.setattr(Toy, "strides", (2, 6, 12))
    with pytest.raises(ConfigError, match=r"name is 'unet', .* encoder are \(2, 6, 12\)"):
        models.build(config.model, 3)


def test_a_family_that_is_not_known_is_refused(config):
    config.model.name = "fpn"
    with pytest.raises(ConfigError, match=r"model.name is 'fpn'; choose one of \('unet', 'segf"):
        models.build(config.model, 3)
