"""A run against its exports: do they predict the same, and how fast is each?

  python experiments/inference/run.py --workdir=runs/camvid-cpu --data_root=data/camvid

Exports both formats, predicts every image of a split with each of them and with test-time
augmentation, then times the networks alone, in turns. Writes results/formats.json.
"""

import json
import logging
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.data import check  # noqa: E402
from segjax.data.pipeline import resize_image  # noqa: E402
from segjax.data.sources import Source  # noqa: E402
from segjax.evaluation import iou  # noqa: E402
from segjax.inference import exporters, networks  # noqa: E402
from segjax.inference.networks import Network  # noqa: E402
from segjax.inference.predictor import Predictor  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.weights import runs  # noqa: E402

TTA = {"flip": ["flip"], "flip, 0.75, 1.25": ["flip", "0.75", "1.25"]}
BATCHES = (1, 8)
ROUNDS, CALLS = 9, 4
FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The trained run.", required=True)
flags.DEFINE_string("data_root", None, "Where the data are, if not where they were.")
flags.DEFINE_string("split", "test", "The images to predict.")


def predicted(network: Network, source: Source) -> tuple[list[np.ndarray], dict[str, float]]:
    """Labels of all images, their mIoU, and the median time for one, file reading left out."""
    model, labels, times = Predictor(network), [], []
    confusion = np.zeros((len(network.table.names),) * 2, np.int64)
    for i in tqdm(range(len(source)), disable=None):
        example = source[i]
        start = time.perf_counter()
        labels.append(model.label(example["image"]))
        times.append(1000 * (time.perf_counter() - start))
        confusion += iou.confusion_matrix(example["label"], labels[-1], len(confusion))
    score = float(iou.metrics(confusion)["mean_iou"])
    return labels, {"mean_iou": score, "ms_per_image": statistics.median(times)}


def network_speed(functions: dict[str, Network], image: np.ndarray) -> dict[str, dict[str, float]]:
    """Images/s of the networks alone, from uint8 on the host to float32 scores on the host."""
    speed = {name: {} for name in functions}
    for batch in BATCHES:
        images, times = np.repeat(image[None], batch, axis=0), {name: [] for name in functions}
        for _ in range(ROUNDS):
            for name, network in functions.items():
                for _ in range(CALLS):
                    start = time.perf_counter()
                    np.asarray(network.logits(images))
                    seconds = time.perf_counter() - start
                times[name].append(seconds)  # the last call: the threads of the others are asleep
        for name, seconds in times.items():
            speed[name][f"images_per_s_batch_{batch}"] = batch / statistics.median(seconds)
    return speed


def main(_: list[str]) -> None:
    logging.getLogger("absl").setLevel(logging.WARNING)
    trained = runs.restore(FLAGS.workdir, dtype="float32")
    data = trained.config.data
    data.update(root=FLAGS.data_root or data.root, allow_missing_classes=True)
    source = check.usable(data, FLAGS.split, check.check(data, splits=(FLAGS.split,)))
    with TemporaryDirectory() as folder:
        functions, sizes = {"run": networks.of(trained)}, {}
        for name, write in (("StableHLO", exporters.to_stablehlo), ("ONNX", exporters.to_onnx)):
            path = Path(folder) / name
            write(trained, path)
            functions[name], _ = networks.read_file(path)
            sizes[name] = path.stat().st_size / 2**20
    for name, tta in TTA.items():
        functions[f"run, {name}"] = networks.averaged(functions["run"], tta)
    rows, expected = {}, None
    for name, network in functions.items():
        labels, rows[name] = predicted(network, source)
        expected = expected or labels
        wrong = sum(int((a != b).sum()) for a, b in zip(labels, expected, strict=True))
        rows[name]["different"] = wrong / sum(label.size for label in expected)
        print(name, rows[name], flush=True)
    image = resize_image(source[0]["image"], networks.of(trained).fit.size)
    for name, speed in network_speed(functions, image).items():
        rows[name] |= speed
    result = {
        "split": FLAGS.split,
        "images": len(source),
        "size": list(trained.config.data.size),
        "width": trained.config.model.mobilenet_v2.width,
        "device": jax.devices()[0].device_kind,
        "file_mib": sizes,
        "networks": rows,
    }
    write_json(HERE / "results" / "formats.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)
