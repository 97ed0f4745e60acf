"""What the training loop costs beside its step: data, summaries, checkpoints, Python.

  python experiments/throughput/loop.py --config=configs/quickstart.py
  python experiments/throughput/loop.py --config=configs/camvid.py:cpu --config.data.root=ROOT \
    --config.batch_size=8 --peer=peer/bin/python

The compiled step is timed on one batch, before and after a run of `segjax.main`'s loop for a few
epochs with the same step; the loop's rate is that of its log lines, which leave out steps that
compile, and both are medians over as many steps as lie between two lines. With --peer an epoch of
CamVid is measured with PyTorch's loop as well, with the same memory. Writes
results/loop_NAME.json.
"""

import json
import logging
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from absl import flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.runtime import cli, process  # noqa: E402

cli.define_config()
FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 3, "Of the run.")
flags.DEFINE_string("peer", None, "A Python with torch and segmentation-models-pytorch.")
flags.DEFINE_string("name", None, "Of the file of results; by default the configuration's.")


class Rates(logging.Handler):
    """Collects images/s and the share of waiting from the loop's log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"([\d.]+) images/s\s+waiting for data (\d+) %", record.getMessage())
        if found:
            self.lines.append((float(found[1]), float(found[2])))


def bare_rate(run: object, steps: int, repeats: int = 5) -> float:
    """Images/s of the step alone, on one batch: the median of times for `steps` of them."""
    import jax

    state = run.devices.replicate(run.start_state)
    batch = next(run.batches())
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = run.train_step(1, state, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    return steps * run.config.batch_size / statistics.median(times[1:])


def peer_epoch(peer: str, config: object) -> dict[str, float]:
    """Images/s of PyTorch's loop, with the better number of loading processes."""
    height, width = config.data.size
    work = f"--root={config.data.root} --height={height} --width={width}".split()
    command = [peer, str(HERE / "peer.py"), *work, f"--batch={config.batch_size}"]
    tried = []
    for workers in (0, 1, 2):
        done = subprocess.run(
            [*command, f"--workers={workers}"], stdout=subprocess.PIPE, text=True, check=True
        )
        tried.append(json.loads(done.stdout.splitlines()[-1]))
    return max(tried, key=lambda result: result["epoch_images_per_s"])


def main() -> None:
    from segjax.runtime.files import write_json
    from segjax.training import loop

    process.use_kept_memory()

    config = cli.config().copy_and_resolve_references()
    config.num_epochs = config.eval.every_epochs = FLAGS.epochs
    rates = Rates()
    logging.getLogger("segjax.run.progress").addHandler(rates)
    with TemporaryDirectory() as folder:
        run = loop.Trainer(config, Path(folder) / "bare")
        config.log_every = max(1, run.steps_per_epoch // 3)
        bare = [bare_rate(run, config.log_every)]
        loop.train_and_evaluate(config, Path(folder) / "run")
        bare.append(bare_rate(run, config.log_every))
        run.checkpoints.close()
    steady = np.array(rates.lines)
    loop = float(np.median(steady[:, 0]))
    result = {
        "loop_images_per_s": loop,
        "bare_step_images_per_s": bare,
        "share_of_bare": loop / float(np.mean(bare)),
        "data_wait": float(np.median(steady[:, 1]) / 100),
        "epoch_s": run.steps_per_epoch * config.batch_size / loop,
    }
    if FLAGS.peer:
        result["peer"] = peer_epoch(FLAGS.peer, config)
        result["ratio"] = loop / result["peer"]["epoch_images_per_s"]
    write_json(HERE / "results" / f"loop_{FLAGS.name or cli.config_name()}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    cli.run(main)
