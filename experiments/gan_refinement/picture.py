"""Boundaries, enlarged: image, labels, and the predictions of the arms, on test images.

  python experiments/gan_refinement/picture.py --data=camvid --seed=0 --arms=plain,hinge

The images are those at a quarter, a half and three quarters of the test split; of each, the part
with most class edges in its labels. Nothing else chooses what is shown. Writes
boundaries_DATA.png.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from parts import busiest  # noqa: E402

from segjax.data import check  # noqa: E402
from segjax.evaluation.evaluator import evaluate  # noqa: E402
from segjax.run import workdir  # noqa: E402
from segjax.run.checkpoints import Checkpoints  # noqa: E402
from segjax.runtime.devices import Parallel  # noqa: E402
from segjax.training import build  # noqa: E402

SHARE = 0.4  # of height and width that a part shows
FLAGS = flags.FLAGS
flags.DEFINE_string("data", "camvid", "As in run.py.")
flags.DEFINE_integer("seed", 0, "As in run.py.")
flags.DEFINE_list("arms", ["plain", "hinge"], "As in run.py.")
flags.DEFINE_string("runs", "runs/gan_refinement", "As in run.py.")


def predictions(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image, label and prediction of five test images, evenly spread."""
    config, table, counts = workdir.load(folder)
    devices = Parallel("jit")
    data = check.check(config.data, splits=("test",), cache=folder.parent / "test_data.json")
    compiled = build.compile_steps(config, devices, len(table.names), counts, total_steps=1)
    checkpoints = Checkpoints(folder)
    like = build.create_state(compiled, len(table.names), 0).ema
    variables = checkpoints.restore_ema(like, checkpoints.find("best"))
    checkpoints.close()
    return evaluate(
        devices.replicate(variables),
        build.eval_examples(config, "test", data),
        step=compiled.eval_step,
        loss=compiled.loss,
        logits=compiled.logits,
        devices=devices,
        batch_size=config.eval.batch_size,
        num_pictures=5,
    ).pictures


def main(_: list[str]) -> None:
    folder = Path(FLAGS.runs) / FLAGS.data / str(FLAGS.seed)
    arms = {arm: predictions(folder / arm)[1:4] for arm in FLAGS.arms}
    table = workdir.load(folder / FLAGS.arms[0])[1]
    palette = np.vstack([table.palette, np.full((256 - len(table.names), 3), 255)])
    columns = ["image", "labels", *arms]
    figure = Figure(figsize=(3.2 * len(columns), 7.6), dpi=100, layout="constrained")
    axes = figure.subplots(3, len(columns))
    for row, of_arms in enumerate(zip(*arms.values(), strict=True)):
        image, label, _ = of_arms[0]
        part = busiest(label, SHARE)
        maps = [label, *(prediction for _, _, prediction in of_arms)]
        tiles = [image[part], *(palette[m[part]].astype(np.uint8) for m in maps)]
        for axis, tile, title in zip(axes[row], tiles, columns, strict=True):
            axis.imshow(tile, interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    figure.savefig(HERE / f"boundaries_{FLAGS.data}.png")


if __name__ == "__main__":
    app.run(main)
