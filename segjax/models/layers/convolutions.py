"""3×3 convolutions in the forms that are fast, forward and backward; each equals XLA's own.

XLA's convolutions are slow on a CPU where they have groups, and on a doubled array they do more
than they need to. Here those are sums of shifted products and products of matrices. All arrays are
[B, H, W, C], all kernels [3, 3, C, C']. Derivatives are those of reverse mode only (`jax.grad`,
`jax.vjp`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

AROUND = [(1, 1), (1, 1)]


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Any, groups: int = 1
) -> jax.Array:
    """XLA's convolution of [B, H, W, C] with a kernel [h, w, C / groups, C']."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
    )


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Doubles height and width by repetition: [B, H, W, C] to [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with zeros around: [B, H, W, C] to [B, H, W, C']."""
    return convolution(x, kernel, 1, AROUND)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of every channel on its own, without zeros around, as nine multiply-adds.

    kernel: [3, 3, 1, C]; stride: 1 or 2.
    """
    assert stride in (1, 2)
    return _depthwise(padded, kernel, stride)


def _windows(padded: jax.Array, stride: int) -> list[jax.Array]:
    """What the nine taps of a kernel meet, row by row."""
    height, width = ((size - 3) // stride + 1 for size in padded.shape[1:3])
    return [
        padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
        for i in range(3)
        for j in range(3)
    ]


def _depthwise(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    taps = kernel.reshape(9, 1, 1, 1, -1)
    return sum(tap * window for tap, window in zip(taps, _windows(padded, stride), strict=True))


def _depthwise_forward(padded: jax.Array, kernel: jax.Array, stride: int) -> tuple:
    return depthwise(padded, kernel, stride), (padded, kernel)


def _depthwise_backward(
    stride: int, saved: tuple, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    padded_cotangent = _padded_cotangent(cotangent, kernel, stride)[
        :, : padded.shape[1], : padded.shape[2]
    ]
    # First over a few rows, in one pass: XLA's sum over all axes is several times slower on a CPU.
    # (Not over images, which may lie on several devices.)
    few = max(n for n in range(1, 9) if cotangent.shape[1] % n == 0)
    cotangent = cotangent.astype(jnp.float32)
    products = [
        sum(cotangent[:, i::few] * window[:, i::few] for i in range(few))
        for window in _windows(padded, stride)
    ]
    kernel_cotangent = jnp.stack(products).sum((1, 2, 3)).reshape(kernel.shape)
    return padded_cotangent, kernel_cotangent.astype(kernel.dtype)


def _padded_cotangent(cotangent: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The transpose of `_depthwise`, without the scattered sums that JAX makes of it."""
    if stride == 1:
        around = jnp.pad(cotangent, ((0, 0), (2, 2), (2, 2), (0, 0)))
        return _depthwise(around, kernel[::-1, ::-1], 1)
    batch, height, width, channels = cotangent.shape
    around = jnp.pad(cotangent, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # On each axis pixel 2m meets taps 0 and 2, of windows m and m - 1; pixel 2m + 1 tap 1 of m.
    meets = (((0, 1), (2, 0)), ((1, 1),))
    parts = [
        [
            sum(
                kernel[i, j, None, None] * around[:, y : y + height + 1, x : x + width + 1]
                for i, y in rows
                for j, x in columns
            )
            for columns in meets
        ]
        for rows in meets
    ]
    out = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)
    return out.reshape(batch, 2 * height + 2, 2 * width + 2, channels)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def upsample_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """conv3x3(upsample_nearest(x), kernel): [B, H, W, C] to [B, 2H, 2W, C'].

    On a CPU in a quarter of the multiplications: x is multiplied with the nine taps of the kernel
    before it is doubled, and the nine products are added up where each one belongs.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_taps_first, default=_doubled_first)


def _doubled_first(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv3x3(upsample_nearest(x), kernel)


def _taps_first(x: jax.Array, kernel: jax.Array) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1])
    products = [[_matmul(flat, tap).reshape(*x.shape[:3], -1) for tap in row] for row in kernel]
    rows = [_interleave(*row, axis=2) for row in products]
    return _interleave(*rows, axis=1).astype(x.dtype)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _interleave(first: jax.Array, middle: jax.Array, last: jax.Array, axis: int) -> jax.Array:
    """Sums where three taps lie on a doubled axis: pixel 2i meets x[i-1], x[i] and x[i] again."""
    even = _moved(first, 1, axis) + (middle + last)
    odd = (first + middle) + _moved(last, -1, axis)
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis + 1).reshape(shape)


def _moved(x: jax.Array, by: int, axis: int) -> jax.Array:
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), padding)


def _upsample_conv3x3_forward(x: jax.Array, kernel: jax.Array) -> tuple:
    return upsample_conv3x3(x, kernel), (x, kernel)


def _upsample_conv3x3_backward(saved: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    def doubled_first(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple:
        return jax.vjp(_doubled_first, x, kernel)[1](cotangent)

    return jax.lax.platform_dependent(
        *saved, cotangent, cpu=_taps_first_backward, default=doubled_first
    )


def _taps_first_backward(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    channels, features = kernel.shape[2:]
    around = jnp.pad(cotangent, ((0, 0), *AROUND, (0, 0)))
    # Pixel i of the product with tap t was added to the pixels 2i + 1 - t and 2i + 2 - t.
    cotangents = [_pairs(_pairs(around, 2 - i, 1), 2 - j, 2) for i in range(3) for j in range(3)]
    together = jnp.concatenate([cotangent.reshape(-1, features) for cotangent in cotangents], -1)
    taps = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    x_cotangent = _matmul(together, taps.T).reshape(x.shape)
    kernel_cotangent = _matmul(x.reshape(-1, channels).T, together)
    kernel_cotangent = kernel_cotangent.reshape(channels, 3, 3, features).transpose(1, 2, 0, 3)
    return x_cotangent.astype(x.dtype), kernel_cotangent.astype(kernel.dtype)


def _pairs(x: jax.Array, start: int, axis: int) -> jax.Array:
    """Sums of every two neighbours from `start` on, as many as there are without the margins."""
    count = (x.shape[axis] - 2) // 2
    first, second = (
        jax.lax.slice_in_dim(x, start + i, start + i + 2 * count - 1, 2, axis) for i in (0, 1)
    )
    return first + second


upsample_conv3x3.defvjp(_upsample_conv3x3_forward, _upsample_conv3x3_backward)
