"""The decoder's convolutions of doubled features: as they are written, and as they are computed.

  python experiments/throughput/upsample.py

Medians in ms for batch 8 of 96×128, width 1.0, forward and with gradients, in turns; writes
results/upsample.json.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
from absl import app

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.models import layers  # noqa: E402
from segjax.report import write_json  # noqa: E402

BATCH, ROUNDS = 8, 10
# Height, width and channels of what is doubled, channels of the skip, channels out.
LAYERS = (
    (3, 4, 1280, 96, 256),
    (6, 8, 256, 32, 128),
    (12, 16, 128, 24, 64),
    (24, 32, 64, 16, 32),
    (48, 64, 32, 0, 16),
)


def measured(height: int, width: int, channels: int, beside: int, out: int) -> dict[str, float]:
    """Milliseconds of one layer, by form and by whether there are gradients."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (BATCH, height, width, channels))
    doubled = (BATCH, 2 * height, 2 * width)
    skip = jax.random.normal(keys[1], (*doubled, beside)) if beside else None
    slope = jax.random.normal(keys[2], (*doubled, out))
    layer = layers.UpsampleConv(out)
    variables = layer.init(keys[3], x, skip)

    def ours(variables: dict, x: jax.Array, skip: jax.Array | None) -> jax.Array:
        return layer.apply(variables, x, skip)

    def plain(variables: dict, x: jax.Array, skip: jax.Array | None) -> jax.Array:
        with nn.intercept_methods(layers.as_convolution):
            return layer.apply(variables, x, skip)

    calls = {}
    for name, function in (("plain", plain), ("ours", ours)):
        calls[f"{name}, forward"] = jax.jit(function)
        calls[f"{name}, with gradients"] = jax.jit(
            lambda *inputs, function=function: jax.vjp(function, *inputs)[1](slope)
        )
    times = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):  # the first compiles
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(variables, x, skip))
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def main(_: list[str]) -> None:
    rows = [measured(*layer) for layer in LAYERS]
    result = {"layers": rows, "sum": {name: sum(row[name] for row in rows) for name in rows[0]}}
    write_json(HERE / "results" / "upsample.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
