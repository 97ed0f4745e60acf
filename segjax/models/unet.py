"""U-Net: an encoder's features, decoded step by step to the image's own resolution.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
with the decoder of segmentation_models.pytorch: upsample, concatenate the skip, two convolutions.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.blocks import (
    ConvNormAct,
    UpsampleConvNormAct,
    UpsampleTranspose,
    kernel_init,
    upsample_bilinear,
)

STRIDE = 32


class Decoder(nn.Module):
    """Features at strides 2 … 32 to one feature map at stride 1, [B, H, W, channels[-1]].

    `upsample` is `nearest`, `bilinear` or `transpose` (the Pix2Pix block).
    """

    channels: Sequence[int]
    upsample: str
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: list[jax.Array], train: bool) -> jax.Array:
        shared = dict(axis_name=self.axis_name, dtype=self.dtype)
        x, *skips = reversed(features)
        for i, channels in enumerate(self.channels):
            skip = skips[i] if i < len(skips) else None
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


class UNet(nn.Module):
    """The whole function: images [B, H, W, 3] of any size to float32 logits [B, H, W, num_classes].

    Pixels are uint8, or floats in the same range 0 … 255. Normalisation, padding to a multiple of
    32 and cropping back happen here, so that no caller can do them differently.
    """

    encoder: nn.Module
    decoder: nn.Module
    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    freeze_encoder: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        height, width = image.shape[1:3]
        mean, std = (jnp.array(v)[None, None, None] for v in (self.mean, self.std))
        x = (image.astype(jnp.float32) - mean) / std
        below, right = (-(-n // STRIDE) * STRIDE - n for n in (height, width))
        x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
        features = self.encoder(x.astype(self.dtype), train and not self.freeze_encoder)
        if self.freeze_encoder:
            features = jax.lax.stop_gradient(features)
        x = self.decoder(features, train)
        # In float32 whatever `dtype` is: rounded logits are equal in many pixels, and the first
        # class of them would win.
        head = nn.Conv(
            self.num_classes,
            (3, 3),
            padding=1,
            kernel_init=kernel_init,
            dtype=jnp.float32,
            name="head",
        )
        return head(x)[:, :height, :width]
