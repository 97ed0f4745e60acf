"""What one would do without a refiner: a guided filter, or a dense CRF, on a segmenter's output.

  pip install opencv-contrib-python-headless pydensecrf2     # in an environment of its own
  python experiments/gan_refinement/filters.py --field=camvid --source=ROOT --filter=guided
  python experiments/gan_refinement/filters.py --field=camvid --source=ROOT --filter=densecrf

Both take the class probabilities at the image's resolution. Their parameters are those of SETTINGS
that give the highest mIoU on images of the validation split. Writes FIELD_SEED_FILTER.json beside
the results of refine.py, which trains the segmenter.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import fields  # noqa: E402

from segjax.data.sources import Source, build_source  # noqa: E402
from segjax.evaluation import boundary, iou  # noqa: E402
from segjax.evaluation.report import split_report  # noqa: E402
from segjax.evaluation.step import counts  # noqa: E402
from segjax.inference import predictor  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402

NUM_CHOOSING = 24  # validation images that parameters are chosen on
SETTINGS = {
    # Radius in pixels, ε of images in 0 … 1 (He et al., ECCV 2010).
    "guided": list(itertools.product((4, 8, 16), (1e-4, 1e-3, 1e-2))),
    # σ of position and colour, weight of the bilateral term (Krähenbühl and Koltun, NIPS 2011).
    "densecrf": list(itertools.product((20, 60), (5, 13), (4, 10))),
}
FLAGS = flags.FLAGS
flags.DEFINE_enum("field", "camvid", tuple(fields.SETTINGS), "Data and segmenter.")
flags.DEFINE_string("source", "", "The data's folder; shapes are drawn.")
flags.DEFINE_integer("seed", 0, "The segmenter's.")
flags.DEFINE_enum("filter", "guided", tuple(SETTINGS), "What is tried.")
flags.DEFINE_bool("test", False, "Evaluate on the test split too.")
flags.DEFINE_string("runs", "runs/refine", "Where the work directories are.")


def guided(image: np.ndarray, probabilities: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Class ids [H, W]: every class's probability follows the image's edges."""
    guide = np.float32(image) / 255
    filtered = [
        cv2.ximgproc.guidedFilter(guide, np.float32(p), radius, epsilon)
        for p in np.moveaxis(probabilities, -1, 0)
    ]
    return np.argmax(filtered, axis=0)


def densecrf(
    image: np.ndarray, probabilities: np.ndarray, position: int, color: int, weight: int
) -> np.ndarray:
    """Class ids [H, W] after five mean-field iterations; the smoothness term is the authors'."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    height, width, num_classes = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, num_classes)
    scores = np.ascontiguousarray(np.moveaxis(np.float32(probabilities), -1, 0))
    crf.setUnaryEnergy(unary_from_softmax(scores.clip(1e-5)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(
        sxy=position, srgb=color, rgbim=np.ascontiguousarray(image), compat=weight
    )
    return np.argmax(crf.inference(5), axis=0).reshape(height, width)


_counts = jax.jit(counts, static_argnames="num_classes")


def score(
    model: predictor.Predictor, source: Source, indices: list[int], apply: Callable
) -> dict[str, Any]:
    """The report of some images, as the evaluator's."""
    total, num_classes = None, len(model.table.names)
    for i in tqdm(indices, disable=None):
        example = source[i]
        label = apply(example["image"], model.probabilities(example["image"]))
        size = np.array([label.shape], np.int32)
        sums = _counts(
            example["label"][None],
            np.uint8(label)[None],
            size,
            boundary.widths(size),
            num_classes=num_classes,
        )
        sums = jax.tree.map(lambda x: np.int64(x), sums)
        total = jax.tree.map(np.add, total, sums) if total else sums
    scores = iou.metrics(total["confusion"]) | boundary.metrics(total["boundary"])
    pixels = total["confusion"].sum(axis=1)
    return split_report(scores, pixels, model.table.names, {"num_images": len(indices)})


def main(_: list[str]) -> None:
    field, name = FLAGS.field, FLAGS.filter
    root = fields.prepare(field, Path(FLAGS.source), Path(FLAGS.runs) / "data" / field)
    config = fields.segmenter(field, FLAGS.seed, root).data
    model = predictor.load(Path(FLAGS.runs) / field / str(FLAGS.seed) / "segmenter")
    function = {"guided": guided, "densecrf": densecrf}[name]
    val = build_source(config, "val")
    some = np.unique(np.linspace(0, len(val) - 1, NUM_CHOOSING).astype(int)).tolist()
    tried = {}
    for setting in SETTINGS[name]:
        report = score(model, val, some, lambda image, p, s=setting: function(image, p, *s))
        tried[setting] = report["mean_iou"]
    best = max(tried, key=tried.get)
    content = {"setting": best, "tried": {str(k): v for k, v in tried.items()}}
    for split in ("val", "test") if FLAGS.test else ("val",):
        source = build_source(config, split)
        apply = lambda image, p: function(image, p, *best)  # noqa: E731
        content[split] = score(model, source, list(range(len(source))), apply)
    write_json(HERE / "results" / "refine" / f"{field}_{FLAGS.seed}_{name}.json", content)


if __name__ == "__main__":
    app.run(main)
