"""How much memory does a picture of 10,000×10,000 pixels take, and how long?

  python experiments/inference/large.py --workdir=runs/NAME

Writes a picture, segments it with segjax.predict in a process of its own and asks the system for
that process's largest resident size. Writes results/large.json.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from segjax.data.fitting import TILE  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A run; with data.fit=pad it cuts tiles.", required=True)
flags.DEFINE_integer("size", 10_000, "Height and width of the picture, in pixels.")


def main(_: list[str]) -> None:
    workdir = Path(FLAGS.workdir).absolute()
    config = json.loads((workdir / "config.json").read_text())
    size = FLAGS.size
    with TemporaryDirectory() as folder:
        small = np.random.default_rng(0).integers(0, 256, (size // 50, size // 50, 3), np.uint8)
        picture = cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"{folder}/large.png", picture)
        del picture
        command = [sys.executable, "-m", "segjax.predict", f"--workdir={workdir}"]
        command += [f"--input={folder}/large.png", f"--output={folder}/out"]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        summary = json.loads(Path(f"{folder}/out/summary.json").read_text())
    result = {
        "picture": [size, size],
        "fit": config["data"]["fit"],
        "tile": [TILE, TILE] if config["data"]["fit"] == "pad" else None,
        "width": config["model"]["mobilenet_v2"]["width"],
        "classes": len(summary["images"][0]["class_shares"]),
        "peak_resident_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        "seconds": seconds,
    }
    write_json(HERE / "results" / f"large_{result['fit']}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
