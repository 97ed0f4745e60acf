"""What devices tell one another in a training step, and what that costs on paper.

  python experiments/throughput/traffic.py

Counts the sums over devices in the traced step of configs/camvid.py, and their bytes. The table is
arithmetic, not a measurement: a ring moves 2 (n - 1) / n of the bytes at the given bandwidth, and
every layer with batch norm waits once forward and once backward for the given latency.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import camvid
from segjax.runtime.devices import AXIS, Parallel
from segjax.training import build

CLASSES = 11
FLAGS = flags.FLAGS
flags.DEFINE_float("step_ms", 20.0, "Assumed time of a step on one GPU with its share of a batch.")
# (GPUs, GB/s of each, microseconds): NVLink within a machine of 8, then 400 Gbit/s each between.
NETWORKS = ((8, 300.0, 15.0), (32, 40.0, 40.0), (128, 40.0, 60.0), (256, 40.0, 70.0))


def sums(jaxpr: Any) -> Iterator[int]:
    """Bytes of every sum over devices in a program, and in the programs in it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("psum"):
            yield sum(v.aval.size * v.aval.dtype.itemsize for v in equation.invars)
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "jaxpr"):
                inner = inner.jaxpr
            if hasattr(inner, "eqns"):
                yield from sums(inner)


def main(_: list[str]) -> None:
    config = camvid.get_config()
    config.parallel = "pmap"
    height, width = config.data.size
    devices = Parallel(config.parallel)
    compiled = build.compile_steps(config, devices, CLASSES, np.ones(CLASSES), total_steps=100)
    state = devices.replicate(build.create_state(compiled, CLASSES, 0))
    batch = devices.shard(
        {
            "image": np.zeros((config.batch_size, height, width, 3), np.uint8),
            "label": np.zeros((config.batch_size, height, width), np.uint8),
            "size": np.zeros((config.batch_size, 2), np.int32),
            "index": np.zeros(config.batch_size, np.int32),
        }
    )
    found = sorted(sums(jax.make_jaxpr(compiled.train_step)(state, batch).jaxpr), reverse=True)
    layers = sum(path[-1].key == "mean" for path, _ in jax.tree.leaves_with_path(state.batch_stats))
    print(f"{len(found)} sums over {AXIS!r}, {sum(found) / 1e6:.2f} MB; {layers} layers with norm")
    for count, bandwidth, latency in NETWORKS:
        moved = 2 * (count - 1) / count * sum(found) / 1e6 / bandwidth
        waited = 2 * layers * latency / 1000
        efficiency = FLAGS.step_ms / (FLAGS.step_ms + moved + waited)
        print(f"| {count} | {moved:.2f} ms | {waited:.1f} ms | {efficiency:.0%} |")


if __name__ == "__main__":
    app.run(main)
