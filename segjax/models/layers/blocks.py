"""Layers shared by the encoder and the decoder. All arrays are [B, H, W, C]."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.convolutions import (
    conv3x3,
    convolution,
    depthwise,
    upsample_conv3x3,
    upsample_nearest,
)
from segjax.models.layers.norm import NormAct

# He initialisation by fan-out, as in torchvision's MobileNetV2.
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
EPSILON = 1e-5  # of batch norm in PyTorch


def zeros_around(stride: int, padding: str) -> list[tuple[int, int]]:
    """Rows and columns of zeros before and after, for a 3×3 window on an even size.

    PyTorch's are `symmetric`. TensorFlow's `same` puts no more than a window needs, so that at
    stride 2 all are on one side, and every window sits one pixel further down and to the right.
    """
    return [(0, 1) if padding == "same" and stride == 2 else (1, 1)] * 2


def _kernel_of(layer: nn.Module) -> jax.Array:
    return layer.get_variable("params", "kernel").astype(layer.dtype)


class PointwiseConv(nn.Module):
    """1×1 convolution, written as the matrix product it is (2 to 3 times faster on a CPU)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init, (1, 1, x.shape[-1], self.features))
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel[0, 0].astype(self.dtype)
        return flat.reshape(*x.shape[:-1], self.features)

    def plain(self, x: jax.Array) -> jax.Array:
        """The same as a convolution."""
        return convolution(x.astype(self.dtype), _kernel_of(self), 1, [(0, 0), (0, 0)])


class DepthwiseConv(nn.Module):
    """3×3 convolution of every channel on its own; its kernel is [3, 3, 1, C]."""

    stride: int = 1
    dtype: Any = jnp.float32
    padding: str = "symmetric"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init, (3, 3, 1, x.shape[-1])).astype(self.dtype)
        around = [(0, 0), *zeros_around(self.stride, self.padding), (0, 0)]
        y = depthwise(jnp.pad(x.astype(self.dtype), around), kernel, self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
            y = y + bias[None, None, None].astype(self.dtype)
        return y

    def plain(self, x: jax.Array) -> jax.Array:
        """The same as a convolution with groups."""
        around = zeros_around(self.stride, self.padding)
        x = x.astype(self.dtype)
        y = convolution(x, _kernel_of(self), self.stride, around, groups=x.shape[-1])
        if self.use_bias:
            y = y + self.get_variable("params", "bias")[None, None, None].astype(self.dtype)
        return y


class Conv3x3(nn.Module):
    """3×3 convolution of stride 1, without a bias."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init, (3, 3, x.shape[-1], self.features))
        return conv3x3(x.astype(self.dtype), kernel.astype(self.dtype))

    def plain(self, x: jax.Array) -> jax.Array:
        """The same."""
        return conv3x3(x.astype(self.dtype), _kernel_of(self))


class UpsampleConv(nn.Module):
    """3×3 convolution of x, doubled by repetition, and a skip beside it."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None) -> jax.Array:
        """x: [B, H, W, C]; skip: [B, 2H, 2W, C'] or None; gives [B, 2H, 2W, features]."""
        channels = x.shape[-1]
        total = channels + (0 if skip is None else skip.shape[-1])
        kernel = self.param("kernel", kernel_init, (3, 3, total, self.features))
        kernel = kernel.astype(self.dtype)
        out = upsample_conv3x3(x.astype(self.dtype), kernel[:, :, :channels])
        if skip is None:
            return out
        return out + conv3x3(skip.astype(self.dtype), kernel[:, :, channels:])

    def plain(self, x: jax.Array, skip: jax.Array | None) -> jax.Array:
        """The same, of arrays that are doubled and concatenated first."""
        x = upsample_nearest(x.astype(self.dtype))
        if skip is not None:
            x = jnp.concatenate([x, skip.astype(self.dtype)], axis=-1)
        return conv3x3(x, _kernel_of(self))


def as_convolution(
    next_method: Callable, arguments: tuple, keywords: dict, context: nn.module.InterceptorContext
) -> Any:
    """Computes layers by their method `plain`, if they have one; for `nn.intercept_methods`.

    That is the operation as other programs know it and run it fast; slower under XLA on a CPU.
    """
    plain = getattr(context.module, "plain", None)
    if plain is None or context.method_name != "__call__":
        return next_method(*arguments, **keywords)
    return plain(*arguments, **keywords)


def identity(x: jax.Array) -> jax.Array:
    """No activation."""
    return x


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation; for `padding` see `zeros_around`."""

    features: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    act: Any = nn.relu
    axis_name: str | None = None
    dtype: Any = jnp.float32
    epsilon: float = EPSILON
    padding: str = "symmetric"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.depthwise:
            x = DepthwiseConv(self.stride, self.dtype, self.padding, name="conv")(x)
        elif self.kernel == 1:
            x = PointwiseConv(self.features, self.dtype, name="conv")(x)
        elif self.stride == 1:
            x = Conv3x3(self.features, self.dtype, name="conv")(x)
        else:
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                strides=self.stride,
                padding=zeros_around(self.stride, self.padding),
                use_bias=False,
                kernel_init=kernel_init,
                dtype=self.dtype,
                name="conv",
            )(x)
        norm = NormAct(self.act, self.axis_name, self.dtype, self.epsilon, name="norm")
        return norm(x, train)


def upsample_bilinear(x: jax.Array) -> jax.Array:
    """Doubles height and width linearly, half-pixel centres: [B, H, W, C] to [B, 2H, 2W, C]."""
    for axis in (1, 2):
        size = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


class UpsampleTranspose(nn.Module):
    """The Pix2Pix block: 4×4 transposed convolution of stride 2, batch norm, ReLU.

    A kernel that is a multiple of the stride leaves no checkerboard (Isola et al. 2017, appendix).
    """

    features: int
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.ConvTranspose(
            self.features,
            (4, 4),
            strides=(2, 2),
            padding="SAME",
            use_bias=False,
            kernel_init=kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return NormAct(nn.relu, self.axis_name, self.dtype, EPSILON, name="norm")(x, train)


class UpsampleConvNormAct(nn.Module):
    """`UpsampleConv`, batch norm, ReLU; its variables are those of a 3×3 `ConvNormAct`."""

    features: int
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None, train: bool) -> jax.Array:
        x = UpsampleConv(self.features, self.dtype, name="conv")(x, skip)
        return NormAct(nn.relu, self.axis_name, self.dtype, EPSILON, name="norm")(x, train)
