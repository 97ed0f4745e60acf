"""What training changes from step to step, as one pytree."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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

    def with_variables(self, variables: dict[str, Any]) -> "TrainState":
        """The same with other params and batch_stats, averages included."""
        return self.replace(ema=jax.tree.map(jnp.copy, variables), **variables)


class DiscriminatorState(struct.PyTreeNode):
    """What the discriminator's updates change."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `discriminator.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class GanState(struct.PyTreeNode):
    """The segmenter, which is what is evaluated and shipped, and its discriminator."""

    generator: TrainState
    discriminator: DiscriminatorState

    @property
    def step(self) -> jax.Array:
        """Updates done."""
        return self.generator.step

    @property
    def ema(self) -> dict[str, Any]:
        """The segmenter's averages, for evaluation."""
        return self.generator.ema

    @property
    def params(self) -> Any:
        """The segmenter's."""
        return self.generator.params

    def with_variables(self, variables: dict[str, Any]) -> "GanState":
        """The same with another segmenter."""
        return self.replace(generator=self.generator.with_variables(variables))


def fingerprint(params: Any) -> str:
    """Sixteen characters that are equal for two runs only if all their parameters are, bit by bit.

    params: host arrays.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def create(model: nn.Module, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """A state at step 0, the same for the same seed on any number of devices."""
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    variables = _init(model, seed, image)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        # A copy: the step donates its buffers, and one buffer cannot be donated twice.
        ema=jax.tree.map(jnp.copy, variables),
        **variables,
    )


def add_discriminator(
    generator: TrainState,
    discriminator: nn.Module,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    seed: int,
) -> GanState:
    """The segmenter's state with that of a new discriminator, the same for the same seed."""
    image, probabilities = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, 64, 64, num_classes))
    variables = _init(discriminator, seed, image, probabilities)
    opt_state = optimizer.init(variables["params"])
    return GanState(generator, DiscriminatorState(opt_state=opt_state, **variables))


def _init(model: nn.Module, seed: int, *inputs: jax.Array) -> dict[str, Any]:
    # Runs once: compiling it with all optimisations would take longer than running it ever could.
    init = jax.jit(
        lambda key: model.init(key, *inputs, train=False),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    variables = init(jax.random.key(seed))
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
