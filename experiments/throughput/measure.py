"""One process, one setting: images/s of segjax's training step and inference, as a line of JSON.

  python experiments/throughput/measure.py --height=96 --width=128 --batch=8
  python experiments/throughput/measure.py --devices=2 --parallel=pmap    # the processor as two
  python experiments/throughput/measure.py --network=segformer --height=256 --width=256

The whole step is timed: augmentation, forward, backward, update, metrics. Beside it stand two times
for scale, neither of them a floor. `plain_flops_ms`: the floating-point operations of plain
convolutions, at the rate of a large matrix product in the same process; segjax's forms make fewer.
`bytes_ms`: what XLA's operations read and write, at the rate of a large copy; of a loop XLA counts
one turn, and caches hold a part.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

START = time.perf_counter()

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2]))

from configs import camvid  # noqa: E402
from segjax.models.layers import blocks  # noqa: E402
from segjax.runtime import process  # noqa: E402
from segjax.runtime.devices import Parallel  # noqa: E402
from segjax.training import build  # noqa: E402

CLASSES = 11
FLAGS = flags.FLAGS
flags.DEFINE_integer("height", 96, "Of the images, in pixels.")
flags.DEFINE_integer("width", 128, "Of the images, in pixels.")
flags.DEFINE_integer("batch", 8, "Images per step, over all devices.")
flags.DEFINE_integer("repeats", 10, "Steps that are timed.")
flags.DEFINE_enum("network", "unet", ["unet", "segformer"], "MobileNetV2's U-Net or SegFormer B0.")
flags.DEFINE_float("network_width", 1.0, "MobileNetV2's width.")
flags.DEFINE_list("decoder", ["256", "128", "64", "32", "16"], "Channels of the decoder.")
flags.DEFINE_string("dtype", "float32", "float32 or bfloat16.")
flags.DEFINE_string("parallel", "auto", "jit, pmap or auto.")
flags.DEFINE_integer("devices", 0, "As how many devices to use a processor; 0 leaves it alone.")
flags.DEFINE_bool("plain", False, "XLA's own convolutions in place of segjax's forms.")


def median_ms(step: Callable[[], Any]) -> float:
    """Of `repeats` calls, after two that compile and warm up."""
    times = []
    for _ in range(FLAGS.repeats + 2):
        start = time.perf_counter()
        jax.block_until_ready(step())
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def for_scale(step: Any, flops: float, dtype: str) -> dict[str, float]:
    """Operations and bytes, at the rates of a matrix product of 2048 and of a copy of 256 MiB."""
    square = jnp.ones((2048, 2048), dtype)
    product = jax.jit(jnp.matmul)
    gflops = 2 * 2048**3 / 1e6 / median_ms(lambda: product(square, square))
    large = jnp.ones(2**26)
    copy = jax.jit(jnp.negative)
    gigabytes = 2 * large.nbytes / 1e6 / median_ms(lambda: copy(large))
    traffic = step.cost_analysis()["bytes accessed"]
    return {
        "plain_gflop": flops / 1e9,
        "train_gb": traffic / 1e9,
        "matmul_gflops": gflops,
        "copy_gb_per_s": gigabytes,
        "plain_flops_ms": flops / 1e6 / gflops,
        "bytes_ms": traffic / 1e6 / gigabytes,
    }


def plain_flops(train_step: Any, state: Any, batch: Any) -> float:
    """Of a step of plain convolutions, the same whatever form they are computed in."""
    with nn.intercept_methods(blocks.as_convolution):
        jax.clear_caches()  # or the step that was traced before would be counted
        return train_step.lower(state, batch).cost_analysis()["flops"]


def make_batch() -> dict[str, np.ndarray]:
    """Random images and labels."""
    rng, shape = np.random.default_rng(0), (FLAGS.batch, FLAGS.height, FLAGS.width)
    return {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "label": rng.integers(0, CLASSES, shape, dtype=np.uint8),
        "size": np.tile(np.int32(shape[1:]), (FLAGS.batch, 1)),
        "index": np.arange(FLAGS.batch, dtype=np.int32),
    }


def measure() -> dict[str, Any]:
    """Everything of one setting."""
    config = camvid.get_config("cpu")
    config.data.size = (FLAGS.height, FLAGS.width)
    config.batch_size = FLAGS.batch
    config.model.dtype = FLAGS.dtype
    if FLAGS.network == "unet":
        config.model.mobilenet_v2.width = FLAGS.network_width
        config.model.unet.channels = tuple(map(int, FLAGS.decoder))
    else:
        config.model.encoder, config.model.name = "mit", "segformer"
    config.loss.dice = 0.0  # cross entropy alone, as the peer
    devices = Parallel(FLAGS.parallel)
    compiled = build.compile_steps(config, devices, CLASSES, np.ones(CLASSES), total_steps=10_000)
    state = devices.replicate(build.create_state(compiled, CLASSES, 0))
    batch = devices.shard(make_batch())

    begin = time.perf_counter()
    train = compiled.train_step.lower(state, batch).compile()
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
        "peak_mib": peak_mib(devices.devices[0]),
    }
    if len(devices.devices) == 1:
        variables = jax.device_get(state.variables)
        image = jax.device_get(batch["image"])
        predict = jax.jit(lambda x: compiled.model.apply(variables, x, train=False).argmax(-1))
        result["infer_images_per_s"] = 1000 * FLAGS.batch / median_ms(lambda: predict(image))
        result |= for_scale(train, plain_flops(compiled.train_step, state, batch), FLAGS.dtype)
        result["share_of_matmul_rate"] = result["plain_flops_ms"] / train_ms
    return result


def peak_mib(device: jax.Device) -> float:
    """Of the device's memory, or of the process's where the device has none of its own."""
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (device.memory_stats() or {}).get("peak_bytes_in_use", process) / 2**20


def main(_: list[str]) -> None:
    process.use_kept_memory()
    if FLAGS.devices:
        jax.config.update("jax_num_cpu_devices", FLAGS.devices)
    plain = nn.intercept_methods(blocks.as_convolution) if FLAGS.plain else nullcontext()
    with plain:
        print(json.dumps(measure()))


if __name__ == "__main__":
    app.run(main)
