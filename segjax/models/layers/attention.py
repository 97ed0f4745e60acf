"""Self-attention over the pixels of a feature map, with keys and values at a lower resolution."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Of transformers: Touvron et al., "Training data-efficient image transformers", ICML 2021.
dense_init = nn.initializers.truncated_normal(0.02)


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
            size = (self.reduction, self.reduction)
            context = nn.Conv(
                channels,
                size,
                strides=size,
                padding="VALID",
                kernel_init=dense_init,
                dtype=self.dtype,
                name="reduce",
            )(context)
            context = nn.LayerNorm(self.epsilon, dtype=self.dtype, name="reduce_norm")(context)
        query, key, value = (
            self._split(nn.Dense(channels, kernel_init=dense_init, dtype=self.dtype, name=name)(y))
            for name, y in (("query", x), ("key", context), ("value", context))
        )
        out = jax.nn.dot_product_attention(query, key, value)
        out = out.reshape(batch, height, width, channels)
        return nn.Dense(channels, kernel_init=dense_init, dtype=self.dtype, name="out")(out)

    def _split(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H · W, heads, C / heads]."""
        batch, height, width, channels = x.shape
        return x.reshape(batch, height * width, self.heads, channels // self.heads)
