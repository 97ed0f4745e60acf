"""From the pixels of an image to logits of its size: the same for every encoder and decoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers.blocks import kernel_init


class Segmenter(nn.Module):
    """The whole function: images [B, H, W, 3] of any size to float32 logits [B, H, W, num_classes].

    Pixels are uint8, or floats in the same range 0 … 255. Normalisation, padding to a multiple of
    the encoder's largest stride and cropping back happen here, so that no caller can do them
    differently.

    Fields:
      encoder: called with float images [B, H, W, 3] and `train`, and, if its attribute `stochastic`
        is true, with `keys` in training; gives features of its `strides`, from fine to coarse.
      decoder: called with these features and `train`; gives [B, H, W, C'].
    """

    encoder: nn.Module
    decoder: nn.Module
    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    freeze_encoder: bool = False
    dtype: Any = jnp.float32
    in_channels = 3

    @property
    def stochastic(self) -> bool:
        """Whether training takes `keys`: of dropout or stochastic depth in the encoder."""
        return getattr(self.encoder, "stochastic", False) and not self.freeze_encoder

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """keys: typed PRNG keys [B], in training of a `stochastic` network."""
        height, width = image.shape[1:3]
        mean, std = (jnp.array(v)[None, None, None] for v in (self.mean, self.std))
        x = (image.astype(jnp.float32) - mean) / std
        stride = max(self.encoder.strides)
        below, right = (-(-n // stride) * stride - n for n in (height, width))
        x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))
        randomness = {"keys": keys} if self.stochastic and train else {}
        features = self.encoder(
            x.astype(self.dtype), train and not self.freeze_encoder, **randomness
        )
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

    def is_decayed(self, params: Any) -> Any:
        """A tree like `params`: True where weight decay acts.

        That is on parameters of several axes (kernels, and not norms and biases), or on what the
        encoder or decoder says by a method `is_decayed` of its own.
        """
        return {
            name: getattr(getattr(self, name, None), "is_decayed", has_several_axes)(part)
            for name, part in params.items()
        }


def has_several_axes(params: Any) -> Any:
    """A tree like `params`: True for kernels, False for norms and biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
