"""A loss as sums, so that it means the same on any number of devices and in batches of any size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from segjax.runtime.devices import global_sum


@dataclass(frozen=True)
class Loss:
    """sums: of logits and labels, a pytree that adds up over images; value: the loss, of those.

    Called, it is the loss of the global batch, of which every device has some.
    """

    sums: Callable[[jax.Array, jax.Array], Any]
    value: Callable[[Any], jax.Array]

    def __call__(
        self, logits: jax.Array, label: jax.Array, axis_name: str | None = None
    ) -> jax.Array:
        return self.value(global_sum(self.sums(logits, label), axis_name))
