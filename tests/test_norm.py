import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers.blocks import identity
from segjax.models.layers.norm import NormAct


class Plain(nn.Module):
    act: object
    dtype: object
    epsilon: float

    @nn.compact
    def __call__(self, x, train):
        y = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=self.epsilon, dtype=self.dtype
        )(x)
        return self.act(y)


def variables(channels):
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"scale": 1 + 0.3 * jax.random.normal(keys[0], (channels,))}
    params["bias"] = 0.5 * jax.random.normal(keys[1], (channels,))
    stats = {"mean": jax.random.normal(keys[2], (channels,))}
    stats["var"] = 1 + jax.random.uniform(keys[3], (channels,))
    return params, stats


@pytest.mark.parametrize("act", [identity, nn.relu, nn.relu6], ids=lambda act: act.__name__)
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 3, 4), (8, 4, 4, 16)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)])
def test_it_is_batch_norm_and_activation(act, shape, dtype, tolerance, optimized):
    params, stats = variables(shape[-1])
    x = 3 + 2 * jax.random.normal(jax.random.key(1), shape, dtype)
    slope = jax.random.normal(jax.random.key(2), shape, dtype)

    def value_statistics_and_gradients(layer, wrap, unwrap, train):
        def function(params, x):
            held = {"params": wrap(params), "batch_stats": wrap(stats)}
            y, new = layer.apply(held, x, train, mutable=["batch_stats"])
            return y, unwrap(new["batch_stats"])

        y, pull_back, new = jax.vjp(function, params, x, has_aux=True)
        return y, new, pull_back(slope)

    ours = NormAct(act, None, dtype, 1e-3)
    plain = Plain(act, dtype, 1e-3)
    for train in (True, False):
        got = value_statistics_and_gradients(ours, lambda t: t, lambda t: t, train)
        expected = value_statistics_and_gradients(
            plain, lambda t: {"BatchNorm_0": t}, lambda t: t["BatchNorm_0"], train
        )
        assert got[0].dtype == dtype
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
            np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


def test_statistics_move_by_a_tenth_and_not_at_the_start():
    x = 5 + 2 * jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    layer = NormAct(identity, None, jnp.float32, 1e-5)
    start = layer.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(start["batch_stats"]["mean"], np.zeros(3))
    _, new = layer.apply(start, x, True, mutable=["batch_stats"])
    mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * variance, rtol=1e-4)
