"""What training changes from step to step, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct


class TrainState(struct.PyTreeNode):
    """`step` counts the updates done; `ema` averages params and batch_stats, for evaluation."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes when training."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(model: nn.Module, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """A state at step 0, the same for the same seed on any number of devices."""
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    # Runs once: compiling it with all optimisations would take longer than running it ever could.
    init = jax.jit(
        lambda key: model.init(key, image, train=False),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    variables = init(jax.random.key(seed))
    variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step donates its buffers, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, variables),
        **variables,
    )
