"""3×3 convolutions in the forms that are fast, forward and backward; each equals XLA's own.

XLA's convolutions are slow on a CPU where they have groups or are differentiated by a wide kernel.
Here those are sums of shifted products and products of matrices. All arrays are [B, H, W, C], all
kernels [3, 3, C, C'].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

AROUND = [(1, 1), (1, 1)]
# What fits a processor's cache: the backward pass goes over a picture nine times.
CACHED_PIXELS = 4096
# From so many products of channels on matrices are faster than XLA's convolution.
MIN_PRODUCTS = 512


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


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution with zeros around: [B, H, W, C] to [B, H, W, C']."""
    return convolution(x, kernel, 1, AROUND)


def _conv3x3_forward(x: jax.Array, kernel: jax.Array) -> tuple:
    return conv3x3(x, kernel), (x, kernel)


def _conv3x3_backward(saved: tuple, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    by_xla = _kernel_slope_by_xla
    by_image = by_xla if kernel[0, 0].size < MIN_PRODUCTS else _kernel_slope_by_image
    kernel_slope = jax.lax.platform_dependent(x, slope, cpu=by_image, default=by_xla)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return conv3x3(slope, turned), kernel_slope.astype(kernel.dtype)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


def _kernel_slope_by_xla(x: jax.Array, slope: jax.Array) -> jax.Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], slope.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: convolution(x, kernel, 1, AROUND), kernel)
    return transpose(slope)[0].astype(jnp.float32)


def _kernel_slope_by_image(x: jax.Array, slope: jax.Array) -> jax.Array:
    """The same, float32, from matrix products of a few images at a time."""

    def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, slope = images
        height, width = x.shape[1:3]
        around = jnp.pad(slope, ((0, 0), *AROUND, (0, 0)))
        # A slope shifted one way is an image shifted the other way.
        beside = jnp.concatenate([around[:, :, i : i + width] for i in (2, 1, 0)], -1)
        return total + _products(x, [beside[:, i : i + height] for i in (2, 1, 0)]), None

    total, _ = jax.lax.scan(add, _zero_products(x, slope), _few_images(x, slope))
    return _as_kernel(total)


def _few_images(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Splits batches into parts that a processor's cache can hold: [parts, images, H, W, C]."""
    batch, height, width, _ = arrays[0].shape
    few = [n for n in range(1, batch + 1) if batch % n == 0 and n * height * width <= CACHED_PIXELS]
    return tuple(array.reshape(-1, max(few, default=1), *array.shape[1:]) for array in arrays)


def _zero_products(x: jax.Array, slope: jax.Array) -> jax.Array:
    return jnp.zeros((3, x.shape[-1], 3 * slope.shape[-1]))


def _products(x: jax.Array, rows: list[jax.Array]) -> jax.Array:
    """Slopes of a kernel's rows: float32 [3, C, 3 C'], from [B, H, W, C] and three [..., 3 C']."""
    columns = x.reshape(-1, x.shape[-1]).T
    flat = [row.reshape(-1, row.shape[-1]) for row in rows]
    return jnp.stack([jnp.matmul(columns, row, preferred_element_type=jnp.float32) for row in flat])


def _as_kernel(total: jax.Array) -> jax.Array:
    """[3, C, 3 C'] to [3, 3, C, C']."""
    return jnp.stack([jnp.stack(jnp.split(row, 3, axis=-1)) for row in total])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolution of every channel on its own, without zeros around, as nine multiply-adds.

    kernel: [3, 3, 1, C].
    """
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
    taps = kernel.reshape(9, -1)
    return sum(tap * window for tap, window in zip(taps, _windows(padded, stride), strict=True))


def _depthwise_forward(padded: jax.Array, kernel: jax.Array, stride: int) -> tuple:
    return depthwise(padded, kernel, stride), (padded, kernel)


def _depthwise_backward(stride: int, saved: tuple, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    padded, kernel = saved
    padded_slope = _padded_slope(slope, kernel, stride)[:, : padded.shape[1], : padded.shape[2]]
    # First over a few rows, in one pass: XLA's sum over all axes is several times slower on a CPU.
    few = max(n for n in range(1, 9) if slope.shape[1] % n == 0)
    slope = slope.astype(jnp.float32)
    products = [
        sum(slope[:, i::few] * window[:, i::few] for i in range(few))
        for window in _windows(padded, stride)
    ]
    kernel_slope = jnp.stack(products).sum((1, 2, 3)).reshape(kernel.shape)
    return padded_slope, kernel_slope.astype(kernel.dtype)


def _padded_slope(slope: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The transpose of `_depthwise`, without the scattered sums that JAX makes of it."""
    if stride == 1:
        around = jnp.pad(slope, ((0, 0), (2, 2), (2, 2), (0, 0)))
        return _depthwise(around, kernel[::-1, ::-1], 1)
    batch, height, width, channels = slope.shape
    around = jnp.pad(slope, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # On each axis pixel 2m meets taps 0 and 2, of windows m and m - 1; pixel 2m + 1 tap 1 of m.
    meets = (((0, 1), (2, 0)), ((1, 1),))
    parts = [
        [
            sum(
                kernel[i, j, 0] * around[:, y : y + height + 1, x : x + width + 1]
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
    products = [(flat @ tap).reshape(*x.shape[:3], -1) for row in kernel for tap in row]
    return _add_up(products)


def _add_up(products: list[jax.Array]) -> jax.Array:
    """The products of x and every tap, each [B, H, W, C'], to [B, 2H, 2W, C']."""
    rows = [_interleave(*products[i : i + 3], axis=2) for i in (0, 3, 6)]
    return _interleave(*rows, axis=1)


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


def _upsample_conv3x3_backward(saved: tuple, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    def doubled_first(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> tuple:
        return jax.vjp(_doubled_first, x, kernel)[1](slope)

    return jax.lax.platform_dependent(
        *saved, slope, cpu=_taps_first_backward, default=doubled_first
    )


def _taps_first_backward(
    x: jax.Array, kernel: jax.Array, slope: jax.Array
) -> tuple[jax.Array, jax.Array]:
    taps = [tap for row in kernel for tap in row]

    def add(total: jax.Array, images: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, slope = images
        product = jax.ShapeDtypeStruct((*x.shape[:3], slope.shape[-1]), slope.dtype)
        (slopes,) = jax.linear_transpose(_add_up, [product] * 9)(slope)
        rows = [jnp.concatenate(slopes[i : i + 3], -1) for i in (0, 3, 6)]
        x_slope = sum(each @ tap.T for each, tap in zip(slopes, taps, strict=True))
        return total + _products(x, rows), x_slope

    total, x_slope = jax.lax.scan(add, _zero_products(x, slope), _few_images(x, slope))
    return x_slope.reshape(x.shape), _as_kernel(total).astype(kernel.dtype)


upsample_conv3x3.defvjp(_upsample_conv3x3_forward, _upsample_conv3x3_backward)
