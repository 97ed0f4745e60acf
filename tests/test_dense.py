"""Dense layers, attention, GELU, reductions and fusion are the plain functions, in other forms."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_convolutions import assert_same, draw

from segjax.models.layers.attention import Reduction, attend
from segjax.models.layers.blocks import ConvNormAct
from segjax.models.layers.dense import Dense
from segjax.models.layers.gelu import gelu
from segjax.models.layers.resize import enlarge
from segjax.models.segformer import Decoder


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_gelu_is_exact_in_values_and_gradients(dtype, optimized):
    x = jnp.concatenate([jnp.linspace(-8, 8, 4097), jnp.array([-40.0, 0.0, 40.0])]).astype(dtype)
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    assert_same(gelu, partial(nn.gelu, approximate=False), x, tolerance=tolerance)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_dense_is_flax_dense(dtype, optimized):
    (x,) = draw((2, 5, 7, 6))
    ours, plain = Dense(4, dtype), nn.Dense(4, dtype=dtype)
    kernel, bias = draw((6, 4), (4,))
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == {
        "params": {"kernel": kernel.shape, "bias": bias.shape}
    }

    def applied(layer, x, kernel, bias):
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    both = (partial(applied, layer) for layer in (ours, plain))
    assert_same(*both, x, kernel, bias, tolerance=tolerance)


@pytest.mark.parametrize("size", [(8, 12), (9, 15), (4, 4)], ids=str)
def test_a_reduction_is_a_convolution_without_overlap(size, optimized):
    x, kernel, bias = draw((2, *size, 6), (4, 4, 6, 6), (6,))

    def applied(layer, x, kernel, bias):
        return layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    plain = nn.Conv(6, (4, 4), strides=4, padding="VALID")
    assert_same(partial(applied, Reduction(4)), partial(applied, plain), x, kernel, bias)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_decoder_is_dense_layers_enlarged_beside_one_another_and_fused(
    align_corners, optimized
):
    """The form of the paper and of all libraries, with the variables of segjax's decoder."""
    features = draw((2, 9, 13, 4), (2, 5, 7, 6), (2, 3, 4, 8))
    decoder = Decoder(10, 0.0, align_corners, (4, 8, 16))
    variables = decoder.init(jax.random.key(1), features, False)
    keys = iter(jax.random.split(jax.random.key(2), 20))
    variables = jax.tree.map(
        lambda leaf: jax.random.uniform(next(keys), leaf.shape, minval=0.2), variables
    )

    def plain(params, *features):
        mapped = [
            nn.Dense(10).apply({"params": params[f"linear{i}"]}, x) for i, x in enumerate(features)
        ]
        mapped = [enlarge(x, (9, 13)) if i else x for i, x in enumerate(mapped)]
        x = jnp.concatenate(mapped[::-1], -1)
        stats = variables["batch_stats"]["fuse"]
        held = {"params": params["fuse"], "batch_stats": stats}
        return ConvNormAct(10, kernel=1).apply(held, x, True, mutable=["batch_stats"])[0]

    def ours(params, *features):
        held = {"params": params, "batch_stats": variables["batch_stats"]}
        return decoder.apply(held, features, True, mutable=["batch_stats"])[0]

    params = variables["params"]
    results = []
    for function in (ours, plain):
        value, pull_back = jax.vjp(function, params, *features)
        slope = jax.random.normal(jax.random.key(9), value.shape)
        results.append((value, pull_back(slope)))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(results[1][1]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5 * largest), *results)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("backend", ["gpu", "cpu"])
def test_cudnn_is_asked_in_bfloat16_on_a_gpu_and_xla_where_it_refuses(backend, dtype, monkeypatch):
    """There is no cuDNN here, so it refuses."""
    asked, attention = [], jax.nn.dot_product_attention

    def note(*arrays, implementation=None):
        asked.append(implementation)
        return attention(*arrays, implementation=implementation)

    query, key, value = draw((2, 12, 2, 8), (2, 6, 2, 8), (2, 6, 2, 8), dtype=dtype)
    expected = attention(query, key, value)
    monkeypatch.setattr(jax.nn, "dot_product_attention", note)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    np.testing.assert_array_equal(attend(query, key, value), expected)
    assert asked == (["cudnn", None] if (backend, dtype) == ("gpu", jnp.bfloat16) else [None])
