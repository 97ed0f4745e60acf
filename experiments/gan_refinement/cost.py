"""What the adversarial step costs over the plain one: time and memory.

  python experiments/gan_refinement/cost.py

For the experiment's network, batch 4 of 96×128, 11 classes: the median time of 20 steps, and what
the compiled step allocates besides its arguments. Writes results/cost.json.
"""

import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import camvid, quickstart  # noqa: E402
from segjax.runtime.devices import Parallel  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.training import build  # noqa: E402

STEPS = 20
CHANNELS = {
    "none": None,
    "C32-C64-C128-C256, patches of 70": (32, 64, 128, 256),
    "C64-C128-C256-C512, patches of 70 (Pix2Pix)": (64, 128, 256, 512),
}


def measure(channels: tuple[int, ...] | None) -> dict[str, float]:
    """Milliseconds per step and MiB of temporary memory."""
    config = camvid.get_config("cpu")
    config.model = quickstart.get_config().model
    config.parallel = "jit"
    if channels:
        config.gan.objective, config.gan.channels = "hinge", channels
    devices = Parallel(config.parallel, jax.devices()[:1])
    compiled = build.compile_steps(config, devices, 11, np.ones(11), total_steps=1000)
    step = compiled.gan.step if compiled.gan else compiled.train_step
    state = devices.replicate(build.create_state(compiled, 11, 0))
    rng = np.random.default_rng(0)
    shape = (config.batch_size, *config.data.size)
    batch = devices.shard(
        {
            "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "label": rng.integers(0, 11, shape, dtype=np.uint8),
            "size": np.tile(np.int32(config.data.size), (config.batch_size, 1)),
            "index": np.arange(config.batch_size, dtype=np.int32),
        }
    )
    compiled = step.lower(state, batch).compile()
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        times.append(1000 * (time.perf_counter() - start))
    temporary = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return {"ms_per_step": statistics.median(times), "temporary_mib": temporary}


def main(_: list[str]) -> None:
    results = {name: measure(channels) for name, channels in CHANNELS.items()}
    write_json(HERE / "results" / "cost.json", results)
    for name, row in results.items():
        print(f"{name}: {row['ms_per_step']:.0f} ms, {row['temporary_mib']:.0f} MiB")


if __name__ == "__main__":
    app.run(main)
