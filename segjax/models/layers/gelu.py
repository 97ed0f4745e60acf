"""The exact GELU in a form that is fast on a CPU, forward and backward."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x · Φ(x) (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016), of any shape.

    By erf, as in PyTorch: JAX's own takes erfc, which is slower on a CPU. The backward pass keeps x
    alone.
    """
    return (x * _cumulative(x)).astype(x.dtype)


def _cumulative(x: jax.Array) -> jax.Array:
    """Φ, in float32."""
    return 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5))


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((cotangent * (_cumulative(x) + wide * density)).astype(x.dtype),)


gelu.defvjp(_forward, _backward)
