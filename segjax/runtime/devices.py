"""The only file that names devices: one step function, run by jit over a mesh or by pmap.

Under `jit` the batch is sharded over a one-dimensional mesh of all devices and the step sees the
global batch. Under `pmap` every device sees its share and sums are taken over `axis_name`. With
several processes (`jax.distributed`) every one has some of the devices, and feeds those.
"""

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from segjax.errors import ConfigError

AXIS = "batch"
MODES = ("auto", "jit", "pmap")


def psum(tree: Any, axis_name: str | None) -> Any:
    """Sum over devices; the identity where `axis_name` is None."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def global_sum(tree: Any, axis_name: str | None) -> Any:
    """The sum over devices, with the gradient of this device's share alone.

    A loss made of such sums has the right value on every device, and its gradients add up to the
    gradient of the global loss under one `psum`. (The gradient of `psum` itself would count every
    device's share once per device.)
    """
    if axis_name is None:
        return tree
    others = jax.tree.map(lambda total, x: total - x, psum(tree, axis_name), tree)
    return jax.tree.map(jnp.add, tree, jax.lax.stop_gradient(others))


def _mesh(devices: list[jax.Device]) -> jax.sharding.Mesh:
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


class Parallel:
    """How steps are compiled and arrays are placed; `auto` is jit, over a mesh of all devices."""

    def __init__(self, mode: str = "auto", devices: list[jax.Device] | None = None) -> None:
        if mode not in MODES:
            raise ConfigError(f"config.parallel is {mode!r}; choose one of {MODES}")
        self.devices = devices or jax.devices()
        self.process = jax.process_index(), jax.process_count()
        self._local = [d for d in self.devices if d.process_index == self.process[0]]
        counts = Counter(d.process_index for d in self.devices)
        if len(set(counts.values())) > 1:
            raise ConfigError(
                f"the processes have {sorted(counts.values())} devices; give all of them as many"
            )
        self.mode = mode = "jit" if mode == "auto" else mode
        self.axis_name = AXIS if mode == "pmap" else None
        self._replicated = NamedSharding(_mesh(self.devices), PartitionSpec())
        # pmap takes what its own process's devices get, jit the whole.
        fed = self._local if mode == "pmap" else self.devices
        self._sharded = NamedSharding(_mesh(fed), PartitionSpec(AXIS))

    @property
    def is_first(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.process[0] == 0

    @property
    def is_alone(self) -> bool:
        """True where there is no other process."""
        return self.process[1] == 1

    def any(self, flag: bool) -> bool:
        """True where any process says so; every process has to ask."""
        if self.is_alone:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def require_same(self, text: str, what: str) -> None:
        """Raises ConfigError where the processes do not all have the same text."""
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        if not self.is_alone and np.ptp(multihost_utils.process_allgather(digest), axis=0).any():
            raise ConfigError(f"{what} differ between the processes; start all of them alike")

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ConfigError where the devices cannot share a batch evenly."""
        if batch_size < 1 or batch_size % len(self.devices):
            raise ConfigError(
                f"config.batch_size is {batch_size}; it must be a positive multiple of the "
                f"{len(self.devices)} devices"
            )

    def compile(self, step: Callable, donate_state: bool = False, split: Any = False) -> Callable:
        """`step(state, batch)`, compiled; with `donate_state` the old state's memory is reused.

        split: which outputs are divided over the devices by a leading batch axis, for `unshard`;
          the others are the same everywhere, for `unreplicate`. One bool, or a tree of them that
          the outputs' begins with.
        """
        donate = (0,) if donate_state else ()
        if self.mode == "pmap":
            return jax.pmap(step, AXIS, devices=self.devices, donate_argnums=donate)
        places = jax.tree.map(lambda divided: self._sharded if divided else self._replicated, split)
        return jax.jit(step, donate_argnums=donate, out_shardings=places)

    def replicate(self, tree: Any) -> Any:
        """A tree that every process has, to a copy on every device; the host needs one only."""
        # From the host: other processes' devices take nothing from this one's. Not by
        # jax.device_put, which sends all of it between the processes to compare it.
        return jax.tree.map(self._on_every_device, jax.device_get(tree))

    def _on_every_device(self, x: np.ndarray) -> jax.Array:
        if self.mode == "pmap":  # which wants a leading axis of devices
            shape, sharding, x = (len(self._local), *x.shape), self._sharded, x[None]
        else:
            shape, sharding = x.shape, self._replicated
        return jax.make_array_from_callback(shape, sharding, lambda _: x)

    def unreplicate(self, tree: Any) -> Any:
        """One copy, as host arrays."""
        if self.mode == "jit":
            assert all(x.is_fully_replicated for x in jax.tree.leaves(tree))
        copy = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), tree))
        if self.mode == "pmap":
            copy = jax.tree.map(lambda x: x.reshape(x.shape[1:]), copy)
        return copy

    def shard(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Splits the leading axis, this process's share of the batch, over its devices."""
        if self.mode == "pmap":
            count = len(self._local)
            batch = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
        return {
            k: jax.make_array_from_process_local_data(self._sharded, v) for k, v in batch.items()
        }

    def unshard(self, x: jax.Array) -> np.ndarray:
        """This process's share of a step's output with a leading batch axis, as one host array."""
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        x = np.concatenate([shard.data for shard in shards])
        return x.reshape(-1, *x.shape[2:]) if self.mode == "pmap" else x

    def prefetch(self, batches: Iterable[dict[str, np.ndarray]], size: int = 2) -> Iterator:
        """Places batches on the devices `size` ahead, while the step before them still runs."""
        queue: deque = deque()
        batches = iter(batches)
        for batch in itertools.islice(batches, size):
            queue.append(self.shard(batch))
        while queue:
            yield queue.popleft()
            for batch in itertools.islice(batches, 1):
                queue.append(self.shard(batch))
