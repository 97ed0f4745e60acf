"""Self-attention over the pixels of a feature map, with keys and values at a lower resolution."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.convolutions import convolution
from segjax.models.layers.dense import Dense, dense_init, matmul


class Reduction(nn.Module):
    """Convolution of squares of `size` pixels that do not overlap: [B, H, W, C], as a product."""

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, *pixels, channels = x.shape
        size = self.size
        kernel = self.param("kernel", dense_init, (size, size, channels, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        height, width = (n // size for n in pixels)
        x = x[:, : height * size, : width * size].astype(self.dtype)
        x = x.reshape(batch, height, size, width, size, channels).swapaxes(2, 3)
        x = x.reshape(batch, height, width, size * size * channels)
        kernel = kernel.reshape(-1, channels).astype(self.dtype)
        return matmul(x, kernel) + bias[None, None, None].astype(self.dtype)

    def plain(self, x: jax.Array) -> jax.Array:
        """The same as a convolution."""
        kernel, bias = (self.get_variable("params", name) for name in ("kernel", "bias"))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return convolution(x, kernel, self.size, "VALID") + bias[None, None, None].astype(
            self.dtype
        )


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention of queries [B, N, heads, d] to keys and values [B, M, heads, d], as the queries.

    In bfloat16 by cuDNN's kernel, where there is one for the GPU and the shapes; otherwise by XLA.
    """
    if query.dtype == jnp.bfloat16 and jax.default_backend() == "gpu":
        try:  # it refuses what it has no kernel for while it is traced
            return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        except (NotImplementedError, RuntimeError, ValueError):
            pass
    return jax.nn.dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Efficient self-attention of SegFormer (Xie et al., NeurIPS 2021, section 3.1): [B, H, W, C].

    Fields:
      heads: of C / heads numbers each.
      reduction: keys and values come from squares of so many pixels, by a convolution and layer
        norm of `epsilon`; 1: from every pixel.
    """

    heads: int
    reduction: int
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        context = x
        if self.reduction > 1:
            context = Reduction(self.reduction, self.dtype, name="reduce")(context)
            context = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="reduce_norm")(context)
        query, key, value = (
            self._split(Dense(channels, self.dtype, name=name)(y))
            for name, y in (("query", x), ("key", context), ("value", context))
        )
        out = attend(query, key, value)
        out = out.reshape(batch, height, width, channels)
        return Dense(channels, self.dtype, name="out")(out)

    def _split(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H · W, heads, C / heads]."""
        batch, height, width, channels = x.shape
        return x.reshape(batch, height * width, self.heads, channels // self.heads)
