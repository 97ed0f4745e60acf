"""Outlines before and after, enlarged: image, labels, the segmenter alone, refined.

  python experiments/gan_refinement/zoom.py --field=nuclei,shapes,satellite,camvid --seed=0

Of each field the test image whose gain of mIoU (its own, refined less segmenter) is the median, and
of it the part with most class edges in its labels; nothing else chooses what is shown. The runs are
those of refine.py. Writes outlines.png.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from parts import busiest  # noqa: E402

from segjax.data.sources import build_source  # noqa: E402
from segjax.evaluation import iou  # noqa: E402
from segjax.inference import predictor  # noqa: E402
from segjax.run import workdir  # noqa: E402

SHARE = 0.35  # of height and width that a part shows
COLUMNS = ("image", "labels", "segmenter", "refined")
FLAGS = flags.FLAGS
flags.DEFINE_list("field", ["camvid"], "As in refine.py.")
flags.DEFINE_integer("seed", 0, "As in refine.py.")
flags.DEFINE_string("refiner", "refiner", "The arm that is shown.")
flags.DEFINE_string("runs", "runs/refine", "As in refine.py.")


def median_example(field: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Image and label maps (labels, segmenter, refined), and the palette, of one test image."""
    folder = Path(FLAGS.runs) / field / str(FLAGS.seed)
    models = [predictor.load(folder / arm) for arm in ("segmenter", FLAGS.refiner)]
    config, table, _ = workdir.load(folder / "segmenter")
    source, found = build_source(config.data, "test"), []
    for i in range(len(source)):
        example = source[i]
        maps = [example["label"], *(model.label(example["image"]) for model in models)]
        scores = [
            iou.metrics(np.int64(iou.confusion_matrix(maps[0], m, len(table.names))))["mean_iou"]
            for m in maps[1:]
        ]
        found.append((scores[1] - scores[0], [example["image"], *maps]))
    found.sort(key=lambda each: each[0])
    return found[len(found) // 2][1], table.palette


def main(_: list[str]) -> None:
    figure = Figure(figsize=(13, 3 * len(FLAGS.field)), dpi=90, layout="constrained")
    axes = figure.subplots(len(FLAGS.field), len(COLUMNS), squeeze=False)
    for title, axis in zip(COLUMNS, axes[0], strict=True):
        axis.set_title(title)
    for row, field in zip(axes, FLAGS.field, strict=True):
        (image, *maps), palette = median_example(field)
        part = busiest(maps[0], SHARE)
        palette = np.vstack([palette, np.full((256 - len(palette), 3), 255)]).astype(np.uint8)
        tiles = [image[part], *(palette[m[part]] for m in maps)]
        for axis, tile in zip(row, tiles, strict=True):
            axis.imshow(tile, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(field)
    figure.savefig(HERE / "outlines.png")


if __name__ == "__main__":
    app.run(main)
