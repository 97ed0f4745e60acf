"""SegFormer's decoder: features of all strides through a dense layer each, enlarged and fused.

Xie et al., "SegFormer", NeurIPS 2021, section 3.2. The head classifies at a quarter of the image's
resolution, and the logits are enlarged, as in the authors' code.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.models.layers.blocks import EPSILON, kernel_init
from segjax.models.layers.dense import Weights, dense_init, matmul
from segjax.models.layers.norm import NormAct
from segjax.models.layers.resize import enlarge
from segjax.models.layers.stochastic import dropout

DROPOUT_LAYER = 2**16  # no other layer has this number


class Fusion(nn.Module):
    """1×1 convolution of dense layers' outputs beside one another, batch norm, ReLU.

    Dense layers, enlargement and convolution are linear, and all channels are enlarged alike: so
    every feature is multiplied at its own resolution, with the product of its two matrices, and
    enlarged then. That is a tenth of the multiplications, and no array of all outputs.
    """

    channels: int
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: list[jax.Array], layers: list[tuple[jax.Array, ...]], train: bool
    ) -> jax.Array:
        """features: from fine to coarse; layers: kernel and bias for each; gives [B, h, w, C]."""
        shape, count = features[0].shape[1:3], len(features)
        (kernel,) = Weights(
            (1, 1, count * self.channels, self.channels), kernel_init, name="conv"
        )()
        parts = jnp.split(kernel[0, 0], count)[::-1]  # the coarsest is the first
        out = sum(bias @ part for (_, bias), part in zip(layers, parts, strict=True))
        out = out[None, None, None].astype(self.dtype)
        for x, (dense, _), part in zip(features, layers, parts, strict=True):
            y = matmul(x.astype(self.dtype), (dense @ part).astype(self.dtype))
            out = out + (y if y.shape[1:3] == shape else enlarge(y, shape))
        return NormAct(nn.relu, self.axis_name, self.dtype, EPSILON, name="norm")(out, train)


class Decoder(nn.Module):
    """Features at `strides`, from fine to coarse, to one at the finest, [B, h, w, channels].

    `align_corners` is of the enlargement of the logits, see `resize.enlarge`.
    """

    channels: int
    dropout: float
    align_corners: bool
    strides: Sequence[int]
    axis_name: str | None = None
    dtype: Any = jnp.float32
    multiple = 1
    head_kernel = 1
    head_init = staticmethod(dense_init)

    @property
    def stochastic(self) -> bool:
        """Whether training takes `keys`."""
        return self.dropout > 0

    @nn.compact
    def __call__(
        self, features: list[jax.Array], train: bool, keys: jax.Array | None = None
    ) -> jax.Array:
        layers = [
            Weights((x.shape[-1], self.channels), dense_init, use_bias=True, name=f"linear{i}")()
            for i, x in enumerate(features)
        ]
        fusion = Fusion(self.channels, self.axis_name, self.dtype, name="fuse")
        x = fusion(features, layers, train)
        return x if keys is None else dropout(x, keys, self.dropout, DROPOUT_LAYER)


def build(config: ConfigDict, strides: Sequence[int], **shared: Any) -> Decoder:
    """The decoder of `config.model.segformer`; ConfigError for a value that none has."""
    if config.channels < 1:
        raise ConfigError(
            f"config.model.segformer.channels is {config.channels}; it must be at least 1"
        )
    if not 0 <= config.dropout < 1:
        raise ConfigError(
            f"config.model.segformer.dropout is {config.dropout}; it must be in [0, 1)"
        )
    fields = config.channels, config.dropout, config.align_corners
    return Decoder(*fields, tuple(strides), **shared)
