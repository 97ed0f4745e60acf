"""The Pix2Pix generator: an image and a coarse segmentation of it to a finer one, pixel by pixel.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section
3.2.1 and appendix 6.1.1: convolutions of stride 2, then their mirror image, with a skip at every
resolution. It differs in what two processor cores ask for (few channels, nearest neighbours and a
3×3 convolution in place of a transposed one), in having no noise, and in giving a correction of the
coarse logits, so that it changes nothing before it is trained.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.blocks import EPSILON, UpsampleConvNormAct, kernel_init
from segjax.models.layers.norm import NormAct
from segjax.models.segmenter import normalized


def leaky_relu(x: jax.Array) -> jax.Array:
    """With Pix2Pix's slope."""
    return nn.leaky_relu(x, 0.2)


class Refiner(nn.Module):
    """Images and coarse log-probabilities, [B, H, W, c + C], to float32 logits [B, H, W, C].

    The first channels are pixels as a segmenter takes them, the others, of the same pixels, what
    `refining.coarse_of_logits` gives. Any H and W: padding to a multiple of the largest stride is
    inside.

    Fields:
      channels: of the convolutions of stride 2, from fine to coarse.
      features: at the image's own resolution.
    """

    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    channels: Sequence[int] = (24, 48, 96, 128, 128)
    features: int = 16
    axis_name: str | None = None
    dtype: Any = jnp.float32
    image_channels: int = 3
    clip: bool = False

    @property
    def in_channels(self) -> int:
        """Of what it takes."""
        return self.image_channels + self.num_classes

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        image, coarse = x[..., : self.image_channels], x[..., self.image_channels :]
        coarse = coarse.astype(jnp.float32)
        image = normalized(image, self.mean, self.std, self.clip)
        x = jnp.concatenate([image, jnp.exp(coarse)], axis=-1)
        stride = 2 ** len(self.channels)
        below, right = (-(-n // stride) * stride - n for n in (height, width))
        x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))).astype(self.dtype)
        shared = dict(axis_name=self.axis_name, dtype=self.dtype)
        skips = []
        for i, channels in enumerate(self.channels):
            skips.append(x)
            x = nn.Conv(
                channels,
                (4, 4),
                strides=2,
                padding=1,
                use_bias=False,
                kernel_init=kernel_init,
                dtype=self.dtype,
                name=f"down{i}",
            )(x)
            x = NormAct(leaky_relu, epsilon=EPSILON, name=f"norm{i}", **shared)(x, train)
        for i in reversed(range(len(skips))):
            channels = self.channels[i - 1] if i else self.features
            x = UpsampleConvNormAct(channels, name=f"up{i}", **shared)(x, skips[i], train)
        head = nn.Conv(
            self.num_classes,
            (3, 3),
            padding=1,
            kernel_init=nn.initializers.zeros,
            dtype=jnp.float32,
            name="head",
        )
        return coarse + head(x)[:, :height, :width]
