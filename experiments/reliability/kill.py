"""Kills a training at random moments until it has died often enough; is the end the same?

  python experiments/reliability/kill.py --kills=30
  python experiments/reliability/kill.py --kills=30 --gan

The same command is started again after every `kill -9`. In the end parameters, optimiser state,
averages, batch statistics, discriminator, the history of scores and every TensorBoard point (but
images/s and waiting time) have to equal those of a run that nobody killed, bit for bit.
"""

import json
import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from segjax.runtime.files import write_json  # noqa: E402
from segjax.training.loop import Trainer  # noqa: E402

CONFIG = {
    "data.size": "(32,32)",
    "data.num_train": 64,
    "data.num_val": 8,
    "data.allow_missing_classes": True,
    "model.unet.channels": "(8,8,8,8,8)",
    "batch_size": 4,
    "num_epochs": 20,
    "log_every": 5,
}
GAN = {"gan.objective": "hinge", "gan.channels": "(8,16)", "gan.start_epoch": 4}
MOST_LINES = 8  # in TensorBoard, of a life; an epoch writes five
NOT_REPEATED = {"train/images_per_s", "train/data_wait"}
FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 30, "How often to kill.")
flags.DEFINE_integer("seed", 0, "Of the moments.")
flags.DEFINE_bool("gan", False, "With a discriminator after epoch 4.")


def start(folder: Path) -> subprocess.Popen:
    fields = CONFIG | (GAN if FLAGS.gan else {})
    command = [sys.executable, "-m", "segjax.main", "--config", "configs/quickstart.py"]
    command += [f"--workdir={folder}", *(f"--config.{k}={v}" for k, v in fields.items())]
    log = (folder.parent / f"{folder.name}.log").open("a")
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def finish(folder: Path) -> None:
    if start(folder).wait():
        sys.exit((folder.parent / f"{folder.name}.log").read_text()[-2000:])


def kill_often(parent: Path) -> tuple[list[Path], list[bool]]:
    """Starts and kills; returns the runs, and whether each kill met a half-written checkpoint.

    A run that comes to its end between two kills is followed by another.
    """
    rng, folders, halves = random.Random(FLAGS.seed), [parent / "killed0"], []
    while len(halves) < FLAGS.kills:
        folder = folders[-1]
        process = start(folder)
        for _ in range(rng.randint(1, MOST_LINES)):
            size = written(folder)
            while process.poll() is None and written(folder) == size:
                time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            folders.append(parent / f"killed{len(folders)}")
            continue
        checkpoints = sorted(p.name for p in folder.glob("checkpoints/*"))
        halves.append(any("tmp" in name for name in checkpoints))
        print(f"kill {len(halves)}: {folder.name}, checkpoints {checkpoints}", flush=True)
    finish(folders[-1])
    return folders, halves


def written(folder: Path) -> int:
    """Bytes of TensorBoard's files."""
    return sum(p.stat().st_size for p in folder.glob("tensorboard/*"))


def everything(folder: Path) -> tuple[dict, list, dict]:
    """State, history and TensorBoard points of a finished run."""
    run = Trainer(ConfigDict(json.loads((folder / "config.json").read_text())), folder)
    run.checkpoints.close()
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = sorted(set(events.Tags()["scalars"]) - NOT_REPEATED)
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    return run.start_state, run.epochs, points


def main(_: list[str]) -> None:
    logging.getLogger("absl").setLevel(logging.WARNING)
    with TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        finish(whole)
        folders, halves = kill_often(Path(temporary))
        state, history, points = everything(whole)
        others = [everything(folder) for folder in folders]
    leaves = jax.tree.leaves(state)
    result = {
        "kills": len(halves),
        "while a checkpoint was written": sum(halves),
        "runs that were killed": len(folders),
        "arrays compared": len(leaves),
        "state is equal": all(
            all(map(np.array_equal, leaves, jax.tree.leaves(other))) for other, _, _ in others
        ),
        "history is equal": all(history == other for _, other, _ in others),
        "tensorboard points": sum(map(len, points.values())),
        "tensorboard is equal": all(points == other for _, _, other in others),
    }
    write_json(HERE / "results" / f"kill{'_gan' if FLAGS.gan else ''}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
