"""What training changes from step to step, as one pytree."""

import hashlib
from collections.abc import Callable
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


def items(state: TrainState | GanState) -> dict[str, Any]:
    """The parts of a state by name: params, opt_state, …, and the discriminator if there is one."""
    if isinstance(state, GanState):
        return {**items(state.generator), "discriminator": vars(state.discriminator)}
    return vars(state)


def not_finite(state: TrainState | GanState) -> list[str]:
    """The parts of a state, of host arrays, that hold NaN or infinity."""

    def is_finite(leaf: np.ndarray) -> bool:
        return not jnp.issubdtype(leaf.dtype, jnp.floating) or bool(np.isfinite(leaf).all())

    return [
        name
        for name, item in items(state).items()
        if not all(map(is_finite, jax.tree.leaves(item)))
    ]


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

    def fresh(key: jax.Array) -> TrainState:
        channels = getattr(model, "in_channels", 3)
        variables = _init(model, key, jnp.zeros((1, 64, 64, channels), jnp.uint8))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            opt_state=optimizer.init(variables["params"]),
            # A copy: the step donates its buffers, and one buffer cannot be donated twice.
            ema=jax.tree.map(jnp.copy, variables),
            **variables,
        )

    return _run_once(fresh, seed)


def add_discriminator(
    generator: TrainState,
    discriminator: nn.Module,
    optimizer: optax.GradientTransformation,
    channels: tuple[int, int],
    seed: int,
) -> GanState:
    """The segmenter's state with that of a new discriminator, the same for the same seed.

    channels: of images, and of their segmentation.
    """

    def fresh(key: jax.Array) -> DiscriminatorState:
        image, probabilities = (jnp.zeros((1, 64, 64, count)) for count in channels)
        variables = _init(discriminator, key, image, probabilities)
        return DiscriminatorState(opt_state=optimizer.init(variables["params"]), **variables)

    return GanState(generator, _run_once(fresh, seed))


def _init(model: nn.Module, key: jax.Array, *inputs: jax.Array) -> dict[str, Any]:
    variables = model.init(key, *inputs, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def _run_once(fresh: Callable, seed: int) -> Any:
    # Compiling with all optimisations would take longer than running it once ever could.
    compiled = jax.jit(fresh, compiler_options={"xla_backend_optimization_level": 0})
    return compiled(jax.random.key(seed))
