"""The Mix Transformer of SegFormer: features of strides 4, 8, 16 and 32.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, section 3.1 and table 6. It has no positions: a depthwise convolution in every block
tells where a pixel is, so that any image size will do.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.models.layers.attention import Attention
from segjax.models.layers.blocks import DepthwiseConv, kernel_init
from segjax.models.layers.dense import Dense
from segjax.models.layers.gelu import gelu
from segjax.models.layers.stochastic import drop_path

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
EXPANSION = 4  # of the channels within a block's MLP


class Variant(NamedTuple):
    """depths: blocks of each stage; channels: of its features."""

    depths: tuple[int, ...]
    channels: tuple[int, ...]


SMALL, LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
VARIANTS = {
    "b0": Variant((2, 2, 2, 2), SMALL),
    "b1": Variant((2, 2, 2, 2), LARGE),
    "b2": Variant((3, 4, 6, 3), LARGE),
    "b3": Variant((3, 4, 18, 3), LARGE),
    "b4": Variant((3, 8, 27, 3), LARGE),
    "b5": Variant((3, 6, 40, 3), LARGE),
}


class MixFFN(nn.Module):
    """The MLP of a block, with a 3×3 depthwise convolution and an exact GELU: [B, H, W, C]."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        hidden = EXPANSION * channels
        x = Dense(hidden, self.dtype, name="expand")(x)
        x = DepthwiseConv(dtype=self.dtype, use_bias=True, name="depthwise")(x)
        x = gelu(x)
        return Dense(channels, self.dtype, name="project")(x)


class Block(nn.Module):
    """Attention and MLP, each added to what goes in; `drop_rate` is of stochastic depth."""

    heads: int
    reduction: int
    drop_rate: float
    layer: int
    epsilon: float
    reduction_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        attention = Attention(
            self.heads, self.reduction, self.reduction_epsilon, self.dtype, name="attention"
        )
        mlp = MixFFN(self.dtype, name="mlp")
        for i, part in enumerate((attention, mlp)):
            y = part(nn.LayerNorm(self.epsilon, dtype=self.dtype, name=f"norm{i}")(x))
            if keys is not None and self.drop_rate:
                y = drop_path(y, keys, self.drop_rate, layer=2 * self.layer + i)
            x = x + y
        return x


class MiT(nn.Module):
    """Images [B, H, W, C], not below `smallest`, to features [B, ⌈H/s⌉, ⌈W/s⌉, c] of its strides.

    Fields:
      drop_path: of the last block; it grows linearly from 0 at the first (Huang et al., "Deep
        Networks with Stochastic Depth", ECCV 2016).
      epsilon: of the layer norms of blocks and stages; patch_epsilon: of those behind the
        convolutions of stride 2 or more.
    """

    depths: Sequence[int]
    channels: Sequence[int]
    drop_path: float = 0.1
    epsilon: float = 1e-5
    patch_epsilon: float = 1e-5
    dtype: Any = jnp.float32
    strides = (4, 8, 16, 32)
    multiple = 1
    patch = 4
    smallest = 32

    @property
    def stochastic(self) -> bool:
        """Whether training takes `keys`."""
        return self.drop_path > 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, keys: jax.Array | None = None) -> list[jax.Array]:
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        features, layer = [], 0
        for i, (depth, channels) in enumerate(zip(self.depths, self.channels, strict=True)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            x = nn.Conv(
                channels,
                (kernel, kernel),
                strides=stride,
                padding=kernel // 2,
                kernel_init=kernel_init,
                dtype=self.dtype,
                name=f"patches{i}",
            )(x)
            x = nn.LayerNorm(self.patch_epsilon, dtype=self.dtype, name=f"patches{i}_norm")(x)
            for j in range(depth):
                x = Block(
                    HEADS[i],
                    REDUCTIONS[i],
                    rates[layer],
                    layer,
                    self.epsilon,
                    self.patch_epsilon,
                    self.dtype,
                    name=f"stage{i}_block{j}",
                )(x, keys)
                layer += 1
            x = nn.LayerNorm(self.epsilon, dtype=self.dtype, name=f"stage{i}_norm")(x)
            features.append(x)
        return features


def build(config: ConfigDict, axis_name: str | None, dtype: Any) -> MiT:
    """The encoder of `config.model.mit`; ConfigError for a value that none has."""
    if config.variant not in VARIANTS:
        raise ConfigError(
            f"config.model.mit.variant is {config.variant!r}; choose one of {tuple(VARIANTS)}"
        )
    if not 0 <= config.drop_path < 1:
        raise ConfigError(f"config.model.mit.drop_path is {config.drop_path}; it must be in [0, 1)")
    for field in ("norm_epsilon", "patch_norm_epsilon"):
        if config[field] <= 0:
            raise ConfigError(f"config.model.mit.{field} is {config[field]}; it must be above 0")
    return MiT(
        *VARIANTS[config.variant],
        drop_path=config.drop_path,
        epsilon=config.norm_epsilon,
        patch_epsilon=config.patch_norm_epsilon,
        dtype=dtype,
    )
