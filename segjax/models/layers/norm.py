"""Batch norm and the activation behind it as one function, with one backward pass.

Ioffe and Szegedy, "Batch Normalization", ICML 2015. Of every layer the backward pass keeps the
input alone; JAX by itself keeps several arrays of that size, and goes over them more often.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

MOMENTUM = 0.9  # PyTorch counts from the other end and says 0.1
Activation = Callable[[jax.Array], jax.Array]


def _mean(sums: list[jax.Array], x: jax.Array, axis_name: str | None) -> list[jax.Array]:
    """Sums [C] over the pixels of a batch like x, divided by their number on all devices."""
    count = x.size / x.shape[-1]
    if axis_name is not None:
        sums, count = jax.lax.psum((sums, count), axis_name)
    return [total / count for total in sums]


def _per_channel(x: jax.Array) -> jax.Array:
    """[C] to [1, 1, 1, C]."""
    return x[None, None, None]


def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, inverse: jax.Array
) -> jax.Array:
    mean, factor, bias = map(_per_channel, (mean, inverse * scale, bias))
    return ((x - mean) * factor + bias).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def norm_act(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    act: Activation,
    epsilon: float,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """act of x [B, H, W, C] normalised by its own batch, and the float32 [C] mean and variance.

    Gradients with respect to the mean and variance that are returned are left out: they are kept
    for evaluation, no loss is made of them.
    """
    return _norm_act_forward(x, scale, bias, act, epsilon, axis_name)[0]


def _norm_act_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    act: Activation,
    epsilon: float,
    axis_name: str | None,
) -> tuple:
    wide, pixels = x.astype(jnp.float32), (0, 1, 2)
    mean, square = _mean([wide.sum(pixels), (wide * wide).sum(pixels)], x, axis_name)
    variance = jnp.maximum(square - mean * mean, 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = act(_normalize(x, scale, bias, mean, inverse))
    return (y, mean, variance), (x, scale, bias, mean, inverse)


def _norm_act_backward(
    act: Activation, epsilon: float, axis_name: str | None, saved: tuple, cotangents: tuple
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, bias, mean, inverse = saved
    (cotangent,) = jax.vjp(act, _normalize(x, scale, bias, mean, inverse))[1](cotangents[0])
    cotangent, centred = cotangent.astype(jnp.float32), x.astype(jnp.float32) - _per_channel(mean)
    bias_cotangent = cotangent.sum((0, 1, 2))
    scale_cotangent = (cotangent * centred).sum((0, 1, 2)) * inverse
    # The batch's mean and variance move with every pixel, on every device.
    mean_bias, mean_scale = _mean([bias_cotangent, scale_cotangent], x, axis_name)
    mean_bias, spread, factor = map(
        _per_channel, (mean_bias, inverse * mean_scale, inverse * scale)
    )
    x_cotangent = (cotangent - mean_bias - centred * spread) * factor
    return x_cotangent.astype(x.dtype), scale_cotangent, bias_cotangent


norm_act.defvjp(_norm_act_forward, _norm_act_backward)


class NormAct(nn.Module):
    """Batch norm with PyTorch's momentum, and an activation; the variables of `nn.BatchNorm`.

    `axis_name` is the pmap axis over which batch statistics are shared.
    """

    act: Activation
    axis_name: str | None
    dtype: Any
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        x = x.astype(self.dtype)
        if not train:
            inverse = jax.lax.rsqrt(variance.value + self.epsilon)
            return self.act(_normalize(x, scale, bias, mean.value, inverse))
        axis_name = None if self.is_initializing() else self.axis_name
        y, *batch = norm_act(x, scale, bias, self.act, self.epsilon, axis_name)
        if not self.is_initializing():
            for average, new in zip((mean, variance), batch, strict=True):
                average.value = MOMENTUM * average.value + (1 - MOMENTUM) * new
        return y
