"""Every fast form equals the plain one, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import convolutions
from segjax.models.layers.convolutions import conv3x3, convolution, depthwise, upsample_conv3x3


def assert_same(ours, plain, *inputs, tolerance=1e-5):
    """Values, and gradients of every input, relative to the largest of each array."""
    results = []
    for function in (ours, plain):
        value, pull_back = jax.vjp(function, *inputs)
        slope = jax.random.normal(jax.random.key(9), value.shape, value.dtype)
        results.append((value, *pull_back(slope)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def draw(*shapes, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("channels", [(5, 3), (24, 32)], ids=str)
@pytest.mark.parametrize("size", [(4, 4, 5), (3, 1, 1), (1, 7, 3), (6, 2, 9)], ids=str)
def test_upsample_conv3x3_is_doubling_and_a_convolution(size, channels, optimized):
    x, kernel = draw((*size, channels[0]), (3, 3, *channels))

    def plain(x, kernel):
        return convolution(x.repeat(2, 1).repeat(2, 2), kernel, 1, [(1, 1), (1, 1)])

    assert_same(upsample_conv3x3, plain, x, kernel)
    assert_same(convolutions._doubled_first, plain, x, kernel)  # what other devices run


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 8, 10), (3, 3, 3), (1, 4, 7), (5, 11, 6)], ids=str)
def test_depthwise_is_a_grouped_convolution(size, stride, optimized):
    x, kernel = draw((*size, 6), (3, 3, 1, 6))
    assert_same(
        lambda x, kernel: depthwise(x, kernel, stride),
        lambda x, kernel: convolution(x, kernel, stride, "VALID", groups=6),
        *(x, kernel),
    )


@pytest.mark.parametrize(
    ("ours", "plain", "kernel_shape"),
    [
        (conv3x3, lambda x, k: convolution(x, k, 1, [(1, 1), (1, 1)]), (3, 3, 32, 16)),
        (
            lambda x, k: depthwise(x, k, 1),
            lambda x, k: convolution(x, k, 1, "VALID", groups=32),
            (3, 3, 1, 32),
        ),
        (upsample_conv3x3, convolutions._doubled_first, (3, 3, 32, 16)),
    ],
    ids=["conv3x3", "depthwise", "upsample_conv3x3"],
)
def test_bfloat16_sums_are_taken_in_float32(ours, plain, kernel_shape, optimized):
    """Sixteen thousand products: sums in bfloat16 would stop growing after 256 of them."""
    x, kernel = draw((1, 128, 128, 32), kernel_shape, dtype=jnp.bfloat16)
    x = jnp.abs(x)
    value, pull_back = jax.vjp(lambda k: ours(x, k), kernel)
    (slope,) = pull_back(jnp.ones_like(value))
    wide = x.astype(jnp.float32), kernel.astype(jnp.float32)
    expected, pull_back = jax.vjp(lambda k: plain(wide[0], k), wide[1])
    (expected_slope,) = pull_back(jnp.ones_like(expected))
    np.testing.assert_allclose(value.astype(jnp.float32), expected, rtol=1e-2, atol=0.15)
    np.testing.assert_allclose(slope.astype(jnp.float32), expected_slope, rtol=1e-2)
