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
from segjax.models.layers.attention import dense_init
from segjax.models.layers.blocks import EPSILON, ConvNormAct
from segjax.models.layers.resize import enlarge
from segjax.models.layers.stochastic import dropout

DROPOUT_LAYER = 2**16  # no other layer has this number


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
        shape = features[0].shape[1:3]
        mapped = []
        for i, feature in enumerate(features):
            x = nn.Dense(
                self.channels, kernel_init=dense_init, dtype=self.dtype, name=f"linear{i}"
            )(feature)
            mapped.append(x if x.shape[1:3] == shape else enlarge(x, shape))
        x = jnp.concatenate(mapped[::-1], axis=-1)
        shared = dict(axis_name=self.axis_name, dtype=self.dtype, epsilon=EPSILON)
        x = ConvNormAct(self.channels, kernel=1, name="fuse", **shared)(x, train)
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
