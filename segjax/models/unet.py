"""The decoder of a U-Net: features, doubled step by step to the image's own resolution.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
in the form of segmentation_models.pytorch: upsample, concatenate the skip, two convolutions.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.models.layers.blocks import (
    ConvNormAct,
    UpsampleConvNormAct,
    UpsampleTranspose,
    upsample_bilinear,
)

UPSAMPLE = ("nearest", "bilinear", "transpose")


class Decoder(nn.Module):
    """Features at `strides` to one feature map at stride 1, [B, H, W, channels[-1]].

    Every doubling halves the stride; it takes the feature of that stride, if there is one, as skip.

    Fields:
      channels: of every doubling, as many as lead from the largest stride to 1.
      upsample: `nearest`, `bilinear` or `transpose` (the Pix2Pix block).
      strides: of the features, powers of 2 from fine to coarse.
    """

    channels: Sequence[int]
    upsample: str
    strides: Sequence[int] = (2, 4, 8, 16, 32)
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: list[jax.Array], train: bool) -> jax.Array:
        shared = dict(axis_name=self.axis_name, dtype=self.dtype)
        skips = dict(zip(self.strides, features, strict=True))
        stride = self.strides[-1]
        x = skips[stride]
        for i, channels in enumerate(self.channels):
            stride //= 2
            skip = skips.get(stride)
            first = f"block{i}_conv0"
            if self.upsample == "nearest":
                x = UpsampleConvNormAct(channels, name=first, **shared)(x, skip, train)
            else:
                if self.upsample == "transpose":
                    x = UpsampleTranspose(channels, name=f"up{i}", **shared)(x, train)
                else:
                    x = upsample_bilinear(x)
                x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
                x = ConvNormAct(channels, name=first, **shared)(x, train)
            x = ConvNormAct(channels, name=f"block{i}_conv1", **shared)(x, train)
        return x


def build(config: ConfigDict, strides: Sequence[int], **shared: Any) -> Decoder:
    """The decoder of `config.model.unet` over features of these strides.

    `shared` are axis_name and dtype of the layers. Raises ConfigError for a value that none has.
    """
    if config.upsample not in UPSAMPLE:
        raise ConfigError(
            f"config.model.unet.upsample is {config.upsample!r}; choose one of {UPSAMPLE}"
        )
    if any(stride & (stride - 1) for stride in strides):
        raise ConfigError(
            f"config.model.name is 'unet', which takes features of strides 1, 2, 4, 8, …; those of "
            f"the encoder are {tuple(strides)}; choose another decoder"
        )
    channels, doublings = tuple(config.channels), int(math.log2(max(strides)))
    are_whole = all(isinstance(n, int) and n >= 1 for n in channels)
    if len(channels) != doublings or not are_whole:
        raise ConfigError(
            f"config.model.unet.channels is {channels}; it needs {doublings} whole numbers of at "
            f"least 1, one for each doubling of the resolution from stride {max(strides)}"
        )
    return Decoder(channels, config.upsample, tuple(strides), **shared)
