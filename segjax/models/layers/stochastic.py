"""Layers that draw random numbers, from a key for every example.

A key is a function of the seed, the step and the example (`training.steps.example_keys`), so an
example meets the same numbers on any number of devices and after a resume.
"""

from functools import partial

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, keys: jax.Array, rate: float, layer: int) -> jax.Array:
    """x [B, …] with a share `rate` of its numbers set to 0, and the others divided by 1 - rate.

    Args:
      keys: typed PRNG keys [B].
      layer: a number that no other layer of the network has; it makes their draws independent.

    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR
    2014.
    """
    draw = partial(jax.random.bernoulli, p=1 - rate, shape=x.shape[1:])
    keep = jax.vmap(lambda key: draw(jax.random.fold_in(key, layer)))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


def drop_path(x: jax.Array, keys: jax.Array, rate: float, layer: int) -> jax.Array:
    """x [B, …], where a share `rate` of the examples is 0, and the others divided by 1 - rate.

    Args and source: see `dropout`; Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """
    draw = partial(jax.random.bernoulli, p=1 - rate, shape=(1,) * (x.ndim - 1))
    keep = jax.vmap(lambda key: draw(jax.random.fold_in(key, layer)))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
