"""Does a Pix2Pix refiner redraw masks better than what one would do without it?

  python experiments/gan_refinement/refine.py --field=camvid --source=ROOT --seed=0 --test
  python experiments/gan_refinement/refine.py --field=nuclei --source=ROOT --seed=0 --arms=refiner

Every arm builds on the same segmenter, trained at a low resolution, and all are scored at the
labels' own resolution. Scores go to results/refine/FIELD_SEED_ARM.json, of the validation split,
and with --test of the test split as well. What is there is not trained again. --change tries other
values on the validation split, under another name: --arms=refiner --name=deep
--change=refiner.damage=0.5.
"""

import ast
import json
import logging
import sys
import time
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import fields  # noqa: E402

from configs import refine  # noqa: E402
from segjax.runtime import process, recipes  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.training import loop  # noqa: E402
from segjax.training.evaluate_run import evaluate_run  # noqa: E402

# Epochs of the refiner, and of the segmenter that goes on for as long at the images' resolution.
EPOCHS = {
    "camvid": (40, 14),
    "camvid-192": (40, 14),
    "nuclei": (60, 14),
    "satellite": (150, 13),
    "shapes": (10, 10),
}
# Chosen on the validation split, where they are not those of configs/refine.py.
CHOSEN = {"nuclei": dict(disturbance=1.0, damage=0.25)}
ADVERSARY = dict(objective="hinge", weight=0.02, channels=(32, 64, 128))
ARMS = ("refiner", "refiner-gan", "higher", "joint")
FLAGS = flags.FLAGS
flags.DEFINE_enum("field", "camvid", tuple(fields.SETTINGS), "Data and segmenter.")
flags.DEFINE_string("source", "", "The data's folder; shapes are drawn.")
flags.DEFINE_integer("seed", 0, "Of weights, order and augmentation.")
flags.DEFINE_list("arms", [*ARMS], f"Of {', '.join(ARMS)}.")
flags.DEFINE_bool("test", False, "Evaluate on the test split too.")
flags.DEFINE_string("runs", "runs/refine", "Where the work directories go.")
flags.DEFINE_string("name", "", "What the results of changed arms are called.")
flags.DEFINE_multi_string("change", [], "FIELD=VALUE of the arm's configuration.")


def arm_config(arm: str, field: str, seed: int, root: Path, segmenter: Path) -> ConfigDict:
    """What is trained after the segmenter."""
    config = fields.segmenter(field, seed, root)
    refiner_epochs, higher_epochs = EPOCHS[field]
    if arm.startswith("refiner"):
        own = config.augment
        config = refine.get_config()
        config.seed, config.num_epochs = seed, refiner_epochs
        config.data.allow_missing_classes = True
        config.augment.flip_vertical = own.flip_vertical
        config.refiner.update(CHOSEN.get(field, {}))
    elif arm == "higher":
        # Larger windows than the segmenter's images were: context counts.
        config.data.fit = "pad"
        config.data.size = tuple(2 * n for n in config.data.size)
        config.num_epochs = higher_epochs
        config.optim.learning_rate /= 2
    else:
        config.num_epochs = max(1, config.num_epochs // 3)
        config.optim.learning_rate /= 4
    if arm in ("refiner-gan", "joint"):
        config.gan.update(ADVERSARY)
    config.init_from = str(segmenter)
    config.eval.every_epochs = max(1, config.num_epochs // 4)
    return config


def main(_: list[str]) -> None:
    process.start_anew(__file__)
    process.use_kept_memory()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("segjax").setLevel(logging.INFO)
    field, seed, runs = FLAGS.field, FLAGS.seed, Path(FLAGS.runs)
    root = fields.prepare(field, Path(FLAGS.source), runs / "data" / field)
    folder = runs / field / str(seed)
    changes = {k: ast.literal_eval(v) for k, v in (c.split("=", 1) for c in FLAGS.change)}
    for arm in ("segmenter", *FLAGS.arms):
        name = FLAGS.name if FLAGS.name and arm != "segmenter" else arm
        path = HERE / "results" / "refine" / f"{field}_{seed}_{name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        if "val" not in content:
            if arm == "segmenter":
                config = fields.segmenter(field, seed, root)
            else:
                config = arm_config(arm, field, seed, root, folder / "segmenter")
                config = recipes.changed(config, changes)
            start = time.time()
            content["val"] = loop.train_and_evaluate(config, folder / name)[1]
            content = {"seconds": round(time.time() - start), "changes": changes} | content
        if FLAGS.test and "test" not in content:
            content["test"] = evaluate_run(folder / name, "test")
        for split in ("val", "test"):  # where the data are is of no interest to others
            content.get(split, {}).get("data", {}).pop("root", None)
        write_json(path, content)


if __name__ == "__main__":
    app.run(main)
