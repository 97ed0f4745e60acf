"""Products with a matrix of weights whose gradients are fast on a CPU."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Of transformers: Touvron et al., "Training data-efficient image transformers", ICML 2021.
dense_init = nn.initializers.truncated_normal(0.02)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., C] times kernel [C, C']: [..., C'].

    The kernel's gradient is written out: of JAX's own XLA transposes one factor, computing it once
    more, and multiplies in an order that is slow on a CPU.
    """
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple:
    return matmul(x, kernel), (x, kernel)


def _backward(saved: tuple, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    flat = [a.reshape(-1, a.shape[-1]) for a in (x, cotangent)]
    return cotangent @ kernel.T, jax.lax.dot_general(*flat, (((0,), (0,)), ((), ())))


matmul.defvjp(_forward, _backward)


class Dense(nn.Module):
    """`nn.Dense`, its variables and function, by `matmul`."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", dense_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        return y + jnp.expand_dims(bias.astype(self.dtype), tuple(range(y.ndim - 1)))


class Weights(nn.Module):
    """The variables of a layer, for a caller that computes with several at once."""

    shape: tuple[int, ...]
    init: Callable[..., jax.Array]
    use_bias: bool = False

    @nn.compact
    def __call__(self) -> tuple[jax.Array, ...]:
        """The kernel, and with `use_bias` the bias [C']."""
        kernel = self.param("kernel", self.init, self.shape)
        if not self.use_bias:
            return (kernel,)
        return kernel, self.param("bias", nn.initializers.zeros, self.shape[-1:])
