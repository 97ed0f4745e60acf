"""From the pixels of an image to logits of its size: the same for every encoder and decoder."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import core

from segjax.models.layers.blocks import kernel_init
from segjax.models.layers.resize import enlarge


def normalized(
    image: jax.Array, mean: Sequence[float], std: Sequence[float], clip: bool
) -> jax.Array:
    """(image - mean) / std of every channel [B, H, W, c], float32, with `clip` to [-1, 1].

    One channel becomes as many as there are means: windows of a CT image, by level and half width.
    """
    mean, std = (jnp.array(values, jnp.float32)[None, None, None] for values in (mean, std))
    x = (image.astype(jnp.float32) - mean) / std
    return x.clip(-1, 1) if clip else x


class Segmenter(nn.Module):
    """The whole function: images [B, H, W, in_channels] of any size to float32 logits [B, H, W, C].

    Pixels are what files hold, of any type: uint8, uint16, int16, float32. Normalisation, padding
    to a multiple of the encoder's largest stride and cropping back happen here, so that no caller
    can do them differently.

    Fields:
      encoder: called with float images [B, H, W, c] and `train`; gives features of its `strides`,
        from fine to coarse.
      decoder: called with these features and `train`; gives [B, H/s, W/s, C'], for the head, a
        convolution of `head_kernel` and `head_init` if it has such attributes; logits of s > 1 are
        enlarged, with its `align_corners`.

    In training either is called with `keys`, too, if its attribute `stochastic` is true. Images are
    padded to a multiple of the attribute `multiple` of both (without one, of the largest stride),
    and to the encoder's `smallest`, if it has one. Its `patch` is the size that training needs.
    """

    encoder: nn.Module
    decoder: nn.Module
    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    freeze_encoder: bool = False
    dtype: Any = jnp.float32
    in_channels: int = 3
    clip: bool = False

    @property
    def stochastic(self) -> bool:
        """Whether training takes `keys`: of dropout or stochastic depth."""
        return self._is_stochastic(self.encoder) or self._is_stochastic(self.decoder)

    @property
    def patch(self) -> int:
        """Height and width below which an image would not fill a patch of the encoder."""
        return getattr(self.encoder, "patch", 1)

    def _is_stochastic(self, part: nn.Module) -> bool:
        is_frozen = part is self.encoder and self.freeze_encoder
        return getattr(part, "stochastic", False) and not is_frozen

    def _padded(self, shape: tuple[int, int]) -> tuple[int, int]:
        largest = max(self.encoder.strides)
        multiple = max(getattr(p, "multiple", largest) for p in (self.encoder, self.decoder))
        smallest = getattr(self.encoder, "smallest", 1)
        # Not `max`: an exported program has symbols for sizes.
        return tuple(core.max_dim(-(-n // multiple) * multiple, smallest) for n in shape)

    @nn.compact
    def __call__(
        self, image: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """keys: typed PRNG keys [B], in training of a `stochastic` network."""
        height, width = image.shape[1:3]
        x = normalized(image, self.mean, self.std, self.clip)
        padded = self._padded(image.shape[1:3])
        below, right = padded[0] - height, padded[1] - width
        x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))

        randomness = [
            {"keys": keys} if train and self._is_stochastic(part) else {}
            for part in (self.encoder, self.decoder)
        ]
        is_trained = train and not self.freeze_encoder
        features = self.encoder(x.astype(self.dtype), is_trained, **randomness[0])
        if self.freeze_encoder:
            features = jax.lax.stop_gradient(features)
        x = self.decoder(features, train, **randomness[1])
        # In float32 whatever `dtype` is: rounded logits are equal in many pixels, and the first
        # class of them would win.
        kernel = getattr(self.decoder, "head_kernel", 3)
        head = nn.Conv(
            self.num_classes,
            (kernel, kernel),
            padding=kernel // 2,
            kernel_init=getattr(self.decoder, "head_init", kernel_init),
            dtype=jnp.float32,
            name="head",
        )
        logits = head(x)
        if logits.shape[1:3] != padded:
            logits = enlarge(logits, padded, getattr(self.decoder, "align_corners", False))
        return logits[:, :height, :width]

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
