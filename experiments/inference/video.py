"""How many frames/s from file to file? And what does it look like?

  python experiments/inference/video.py --workdir=runs/NAME --images=data/camvid/test/images

Makes a video of the images, in the order of their names, segments it with segjax.predict in a
process of its own, --rounds times, and keeps the median round in results/video_WIDTHxHEIGHT.json
and four frames in video.png.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from segjax.runtime.files import write_json  # noqa: E402

RATE = 15
FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The trained run.", required=True)
flags.DEFINE_string("images", None, "A folder of frames.", required=True)
flags.DEFINE_string("size", "256x192", "WIDTHxHEIGHT of the video.")
flags.DEFINE_float("smoothing", 0.0, "See segjax.predict.")
flags.DEFINE_integer("rounds", 3, "How often it is segmented.")


def frames_of(video: str) -> list[np.ndarray]:
    """Four frames, spread over the video, BGR."""
    capture = cv2.VideoCapture(video)
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = []
    for i in range(4):
        capture.set(cv2.CAP_PROP_POS_FRAMES, (2 * i + 1) * count // 8)
        frames.append(capture.read()[1])
    capture.release()
    return frames


def main(_: list[str]) -> None:
    size = tuple(map(int, FLAGS.size.split("x")))
    with TemporaryDirectory() as folder:
        source = f"{folder}/frames.mp4"
        writer = cv2.VideoWriter(source, cv2.VideoWriter_fourcc(*"mp4v"), RATE, size)
        for path in sorted(Path(FLAGS.images).iterdir()):
            writer.write(cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_AREA))
        writer.release()
        command = [sys.executable, "-m", "segjax.predict", f"--input={source}"]
        command += [f"--workdir={Path(FLAGS.workdir).absolute()}", f"--output={folder}/out"]
        command += [f"--smoothing={FLAGS.smoothing}"]
        rounds = []
        for _ in range(FLAGS.rounds):
            subprocess.run(command, cwd=ROOT, check=True)
            rounds.append(json.loads(Path(f"{folder}/out/summary.json").read_text()))
        rows = zip(frames_of(source), frames_of(f"{folder}/out/frames.mp4"), strict=True)
        strip = np.hstack([np.vstack(pair) for pair in rows])
        cv2.imwrite(str(HERE / "video.png"), strip)
    rounds.sort(key=lambda summary: summary["frames_per_s"])
    median = rounds[len(rounds) // 2]
    config = json.loads((Path(FLAGS.workdir) / "config.json").read_text())
    kept = ("size", "frames", "frames_per_s", "latency_ms", "busy")
    result = {
        **{key: median[key] for key in kept},
        "rounds_frames_per_s": [summary["frames_per_s"] for summary in rounds],
        "smoothing": FLAGS.smoothing,
        "network_size": config["data"]["size"],
        "network_width": config["model"]["mobilenet_v2"]["width"],
        "decoder_channels": config["model"]["unet"]["channels"],
    }
    write_json(HERE / "results" / f"video_{FLAGS.size}.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
