"""Test-time augmentation: logits averaged over changes of the image."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from segjax.errors import ConfigError


def scales(tta: Sequence[str], fixed_size: bool = False) -> list[float]:
    """The scales that are averaged over, 1 among them.

    Raises ConfigError for what is neither `flip` nor a number, and for scales where the size is
    fixed.
    """
    given = f"--tta={','.join(tta)}"
    try:
        found = [1.0, *(float(name) for name in tta if name != "flip")]
    except ValueError as error:
        raise ConfigError(f"{given}: give flip, scales, or both, such as flip,0.75") from error
    if not all(0.1 <= scale <= 10 for scale in found):
        raise ConfigError(f"{given}: scales go from 0.1 to 10")
    if fixed_size and len(found) > 1:
        raise ConfigError(f"{given}: an ONNX file has one size; only --tta=flip works with it")
    return found


def averaged(logits: Callable[[Any], Any], tta: Sequence[str]) -> Callable[[Any], Any]:
    """A function of images [B, H, W, c]: the mean of its logits [B, H, W, C] over changes of them.

    tta: beside the image itself, `flip` adds the mirrored one, and a number such as `0.75` the
      image at that scale.
    """
    if not tta:
        return logits

    def mean(images: Any) -> jax.Array:
        total = 0.0
        for scale in scales(tta):
            scaled = _resized(images, scale)
            scores = logits(scaled)
            if "flip" in tta:
                scores = (scores + logits(scaled[:, :, ::-1])[:, :, ::-1]) / 2
            shape = (*images.shape[:3], scores.shape[-1])
            total += jax.image.resize(scores, shape, "linear")
        return total / len(scales(tta))

    return mean


def _resized(images: jax.Array, scale: float) -> jax.Array:
    if scale == 1:
        return images
    batch, height, width, channels = images.shape
    shape = (batch, max(1, round(height * scale)), max(1, round(width * scale)), channels)
    resized = jax.image.resize(jnp.float32(images), shape, "linear")
    is_whole = jnp.issubdtype(images.dtype, jnp.integer)
    return (resized.round() if is_whole else resized).astype(images.dtype)
