"""segjax and PyTorch on the same work, in turns.

  python experiments/throughput/run.py --peer=peer/bin/python

Every setting is measured --rounds times by each, one process after the other, so that what else the
machine does meets both; medians of the rounds go to results/DEVICE_SIZES.json. Without --peer only
segjax is measured. See measure.py and peer.py for what is timed.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from absl import app, flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.report import write_json  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("peer", None, "A Python with torch and segmentation-models-pytorch.")
flags.DEFINE_integer("rounds", 3, "How often each setting is measured.")
flags.DEFINE_list("sizes", ["96x128", "192x256"], "HEIGHTxWIDTH of the images.")
flags.DEFINE_list("batches", ["8"], "Images per step.")
flags.DEFINE_string("dtype", "float32", "segjax's; the peer takes bfloat16 on a GPU.")


def measured(command: list[str], cache: str) -> dict[str, float]:
    """The JSON line that a process ends with; `cache` keeps what it compiles."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict]) -> dict:
    """Of every number; texts as they are."""
    return {
        key: statistics.median(r[key] for r in rounds) if isinstance(value, int | float) else value
        for key, value in rounds[0].items()
    }


def main(_: list[str]) -> None:
    rows = []
    for size in FLAGS.sizes:
        for batch in FLAGS.batches:
            height, width = size.split("x")
            work = [f"--height={height}", f"--width={width}", f"--batch={batch}"]
            commands = {
                "segjax": [sys.executable, HERE / "measure.py", *work, f"--dtype={FLAGS.dtype}"]
            }
            if FLAGS.peer:
                commands["peer"] = [FLAGS.peer, HERE / "peer.py", *work]
            rounds = {name: [] for name in commands}
            with TemporaryDirectory() as cache:
                for _ in range(FLAGS.rounds):
                    for name, command in commands.items():
                        rounds[name].append(measured([str(part) for part in command], cache))
            row = {"size": size, "batch": int(batch), "dtype": FLAGS.dtype}
            row |= {name: medians(each) for name, each in rounds.items()}
            row["segjax"]["first_step_s_by_round"] = [r["first_step_s"] for r in rounds["segjax"]]
            if FLAGS.peer:
                row["ratio"] = {
                    key: row["segjax"][key] / row["peer"][key]
                    for key in ("train_images_per_s", "infer_images_per_s")
                }
            rows.append(row)
            print(json.dumps(row, indent=2), flush=True)
    device = rows[0]["segjax"]["device"].replace(" ", "_").lower()
    name = f"{device}_{'_'.join(FLAGS.sizes)}.json"
    write_json(HERE / "results" / name, {"rounds": FLAGS.rounds, "rows": rows})


if __name__ == "__main__":
    app.run(main)
