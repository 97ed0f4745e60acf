"""One process, one setting: images/s of segjax's training step and inference, as a line of JSON.

  python experiments/throughput/measure.py --height=96 --width=128 --batch=8

The whole step is timed: augmentation, forward, backward, update, metrics. `floor_ms` is the time
that the step's floating-point operations, as XLA counts them, would take at the rate that a large
matrix product reaches on the same machine in the same process.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import camvid  # noqa: E402
from segjax import setup  # noqa: E402
from segjax.parallel import Parallel  # noqa: E402

CLASSES = 11
FLAGS = flags.FLAGS
flags.DEFINE_integer("height", 96, "Of the images, in pixels.")
flags.DEFINE_integer("width", 128, "Of the images, in pixels.")
flags.DEFINE_integer("batch", 8, "Images per step, over all devices.")
flags.DEFINE_integer("repeats", 10, "Steps that are timed.")
flags.DEFINE_float("network_width", 1.0, "MobileNetV2's width.")
flags.DEFINE_list("decoder", ["256", "128", "64", "32", "16"], "Channels of the decoder.")
flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")
flags.DEFINE_string("parallel", "auto", "jit, pmap or auto.")


def median_ms(step: Callable[[], Any]) -> float:
    """Of `repeats` calls, after two that compile and warm up."""
    times = []
    for _ in range(FLAGS.repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(step())
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def matmul_gflops(dtype: str) -> float:
    """What a square matrix product of 2048 reaches."""
    square = jnp.ones((2048, 2048), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * 2048**3 / 1e6 / median_ms(lambda: product(square, square))


def main(_: list[str]) -> None:
    config = camvid.get_config("cpu")
    config.data.size = (FLAGS.height, FLAGS.width)
    config.batch_size = FLAGS.batch
    config.parallel = FLAGS.parallel
    config.model.update(width=FLAGS.network_width, dtype=FLAGS.dtype)
    config.model.decoder_channels = tuple(map(int, FLAGS.decoder))
    config.loss.dice = 0.0  # cross entropy alone, as the peer
    devices = Parallel(config.parallel)
    functions = setup.build(config, devices, CLASSES, np.ones(CLASSES), total_steps=10_000)
    state = devices.replicate(setup.create_state(functions, CLASSES, 0))
    rng, shape = np.random.default_rng(0), (FLAGS.batch, FLAGS.height, FLAGS.width)
    batch = {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, shape, dtype=np.uint8),
        "size": np.tile(np.int32(config.data.size), (FLAGS.batch, 1)),
        "index": np.arange(FLAGS.batch, dtype=np.int32),
    }
    batch = devices.shard(batch)

    begin = time.perf_counter()
    train = functions.train_step.lower(state, batch).compile()
    compilation = time.perf_counter() - begin
    first_step = None

    def train_once() -> Any:
        nonlocal state, first_step
        state, metrics = train(state, batch)
        if first_step is None:
            jax.block_until_ready(metrics)
            first_step = time.perf_counter() - START
        return metrics

    train_ms = median_ms(train_once)
    result = {
        "train_images_per_s": 1000 * FLAGS.batch / train_ms,
        "train_ms": train_ms,
        "compilation_s": compilation,
        "first_step_s": first_step,
        "devices": len(devices.devices),
        "device": devices.devices[0].device_kind,
    }
    if devices.mode == "jit":
        variables = jax.device_get(state.variables)
        image = jax.device_get(batch["image"])
        predict = jax.jit(lambda x: functions.model.apply(variables, x, train=False).argmax(-1))
        infer_ms = median_ms(lambda: predict(image))
        rate = matmul_gflops(FLAGS.dtype)
        flops = train.cost_analysis()["flops"]
        result |= {
            "infer_images_per_s": 1000 * FLAGS.batch / infer_ms,
            "train_gflop": flops / 1e9,
            "matmul_gflops": rate,
            "floor_ms": flops / 1e6 / rate,
        }
    statistics_of_device = devices.devices[0].memory_stats() or {}
    peak = statistics_of_device.get(
        "peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    print(json.dumps(result | {"peak_mib": peak / 2**20}))


if __name__ == "__main__":
    app.run(main)
