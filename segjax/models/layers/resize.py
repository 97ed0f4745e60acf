"""Bilinear enlargement to any size, as products with two matrices of weights."""

import jax
import jax.numpy as jnp


def enlarge(x: jax.Array, shape: tuple[int, int], align_corners: bool = False) -> jax.Array:
    """x [B, h, w, C] at a height and width that are not smaller: [B, *shape, C].

    Pixels are squares and their centres are interpolated, edges repeated; with `align_corners` the
    centres of the corner pixels stay at the corners, as in PyTorch.
    """
    rows, columns = (
        _weights(n, m, align_corners).astype(x.dtype)
        for n, m in zip(x.shape[1:3], shape, strict=True)
    )
    batch, height, width, channels = x.shape
    x = x.reshape(batch * height, width, channels)
    x = jnp.broadcast_to(columns, (x.shape[0], *columns.shape)) @ x
    x = x.reshape(batch, height, -1)
    x = jnp.broadcast_to(rows, (batch, *rows.shape)) @ x
    return x.reshape(batch, *shape, channels)


def _weights(length: int, size: int, align_corners: bool) -> jax.Array:
    """Of `length` pixels for each of `size`: float32 [size, length]."""
    if align_corners:
        at = jnp.arange(size) * ((length - 1) / jnp.maximum(size - 1, 1))
    else:
        at = (jnp.arange(size) + 0.5) * (length / size) - 0.5
    at = at.clip(0.0, length - 1.0)
    return jax.nn.relu(1 - jnp.abs(at[:, None] - jnp.arange(length)[None]))
