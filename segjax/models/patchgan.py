"""The Pix2Pix discriminator: which patches of a segmentation could be the labels of their image?

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section
3.2.2 and appendix 6.1.2. It judges the image together with class probabilities, as Luc et al.,
"Semantic Segmentation using Adversarial Networks", 2016, do.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

NORMS = ("instance", "batch", "none")
KERNEL = 4


def receptive_field(num_channels: int) -> int:
    """Height and width in pixels of the patch behind one score: 70 for four convolutions and one.

    16 for two, as in the paper.
    """
    field = KERNEL  # of the last convolution, to one channel
    for i in reversed(range(num_channels)):
        field = (field - 1) * _stride(i, num_channels) + KERNEL
    return field


def num_patches(length: int, num_channels: int) -> int:
    """How many scores a side of an image of `length` pixels gets; below 1 there are none."""
    for i in range(num_channels + 1):
        length = (length + 2 - KERNEL) // (_stride(i, num_channels) if i < num_channels else 1) + 1
    return length


def stride(num_channels: int) -> int:
    """Pixels from one score to the next, 8 for four convolutions and one.

    Score number i is of a patch whose middle pixels are those from (i + 1) · stride on.
    """
    return 2 ** (num_channels - 1)


def _stride(i: int, num_channels: int) -> int:
    return 1 if i == num_channels - 1 else 2


class PatchGAN(nn.Module):
    """Images [B, H, W, 3] in 0 … 255 and class probabilities [B, H, W, C] to scores [B, h, w].

    A score is a logit, high for "real". (64, 128, 256, 512) is C64-C128-C256-C512 with patches of
    70×70 pixels. `norm` is instance, batch or none; the first convolution never has one. Batch
    norm always uses the statistics of its batch, and shares them over the pmap axis `axis_name`.
    What the convolutions give is sown as `features`, for who makes `intermediates` mutable.
    """

    channels: Sequence[int] = (64, 128, 256, 512)
    norm: str = "instance"
    spectral_norm: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, probabilities: jax.Array, train: bool) -> jax.Array:
        """`train` is False where only the segmenter learns: spectral norm keeps its statistics."""
        x = jnp.concatenate([image.astype(jnp.float32) / 127.5 - 1, probabilities], axis=-1)
        for i, features in enumerate(self.channels):
            x = self._conv(x, features, _stride(i, len(self.channels)), f"conv{i}", train)
            if i > 0:
                x = self._norm(x, f"norm{i}")
            x = nn.leaky_relu(x, 0.2)
            self.sow("intermediates", "features", x)
        return self._conv(x, 1, 1, "head", train)[..., 0].astype(jnp.float32)

    def _conv(self, x: jax.Array, features: int, stride: int, name: str, train: bool) -> jax.Array:
        conv = nn.Conv(
            features,
            (KERNEL, KERNEL),
            strides=stride,
            padding=1,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name=name,
        )
        if self.spectral_norm:
            return nn.SpectralNorm(conv, name=f"{name}_spectral")(x, update_stats=train)
        return conv(x)

    def _norm(self, x: jax.Array, name: str) -> jax.Array:
        if self.norm == "instance":
            return nn.InstanceNorm(epsilon=1e-5, dtype=self.dtype, name=name)(x)
        if self.norm == "batch":
            return nn.BatchNorm(
                use_running_average=False,
                epsilon=1e-5,
                axis_name=None if self.is_initializing() else self.axis_name,
                dtype=self.dtype,
                name=name,
            )(x)
        return x
