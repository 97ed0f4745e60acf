"""Does a discriminator sharpen what was trained without one? Base, then refined with and without.

  python experiments/gan_refinement/run.py --data=camvid --root=ROOT --seed=0
  python experiments/gan_refinement/run.py --data=quarter --root=ROOT --arms=plain,hinge

For every seed a base is trained. Every arm starts from its weights and makes the same updates with
the same batches; `plain` without a discriminator. Scores go to results/DATA_SEED_ARM.json, of the
validation split, and with --test of the test split as well. What is there is not trained again.
"""

import json
import logging
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import camvid, quickstart  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.training import loop  # noqa: E402
from segjax.training.evaluate_run import evaluate_run  # noqa: E402

DATA = ("camvid", "quarter", "shapes")
# Half of Pix2Pix's channels: what two processor cores afford. Patches of 70, 34 and 16 pixels.
PATCH_70, PATCH_34, PATCH_16 = (32, 64, 128, 256), (32, 64, 128), (32, 64)
# Changes of config.gan.
ARMS = {
    "plain": {},
    "hinge": dict(objective="hinge", weight=0.02, channels=PATCH_70),
    "hinge-spectral": dict(
        objective="hinge", weight=0.1, channels=PATCH_70, norm="none", spectral_norm=True
    ),
    "vanilla-16": dict(
        objective="vanilla", weight=0.1, channels=PATCH_16, learning_rate=5e-5, softening=0.7
    ),
    "lsgan-34-late": dict(objective="lsgan", weight=0.1, channels=PATCH_34, start_epoch=15),
}
FLAGS = flags.FLAGS
flags.DEFINE_enum("data", "camvid", DATA, "quarter: every fourth training image of CamVid.")
flags.DEFINE_string("root", "", "CamVid's folder.")
flags.DEFINE_integer("seed", 0, "Of weights, order and augmentation.")
flags.DEFINE_list("arms", ["plain", "hinge"], f"Of {', '.join(ARMS)}.")
flags.DEFINE_bool("test", False, "Evaluate on the test split too.")
flags.DEFINE_string("runs", "runs/gan_refinement", "Where the work directories go.")


def quarter(root: Path, out: Path) -> Path:
    """A folder like CamVid's with every fourth training image, by links."""
    for folder in sorted(root.glob("*/*/")):
        split, kind = folder.parts[-2:]
        (out / split / kind).mkdir(parents=True, exist_ok=True)
        for source in sorted(folder.iterdir())[:: 4 if split == "train" else 1]:
            target = out / split / kind / source.name
            if not target.is_symlink():
                target.symlink_to(source.resolve())
    return out


def base_config(data: str, seed: int, root: Path) -> ConfigDict:
    """A small network: width 0.35, 1.3 million parameters; CamVid at 96×128, shapes at 64×64."""
    config = quickstart.get_config()
    config.data.num_train = 2000
    if data != "shapes":
        small = config.model
        config = camvid.get_config("cpu")
        config.model = small
        config.data.root = str(root)
        config.optim.learning_rate = 4e-3
    config.num_epochs = {"camvid": 25, "quarter": 60, "shapes": 4}[data]
    config.seed = seed
    config.eval.every_epochs = config.num_epochs
    return config


def arm_config(data: str, seed: int, root: Path, base: Path, arm: str) -> ConfigDict:
    """The base's configuration, for fewer epochs at a lower rate, with the arm's discriminator."""
    config = base_config(data, seed, root)
    config.init_from = str(base)
    config.num_epochs = {"camvid": 6, "quarter": 30, "shapes": 1}[data]
    config.eval.every_epochs = config.num_epochs
    config.optim.learning_rate /= 4
    config.gan.update(ARMS[arm])
    return config


def main(_: list[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("segjax").setLevel(logging.INFO)
    data, seed = FLAGS.data, FLAGS.seed
    folder = Path(FLAGS.runs) / data / str(seed)
    root = Path(FLAGS.root)
    if data == "quarter":
        root = quarter(root, Path(FLAGS.runs) / "quarter_data")
    base = folder / "base"
    for arm in ("base", *FLAGS.arms):
        path = HERE / "results" / f"{data}_{seed}_{arm}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        if arm == "base":
            config = base_config(data, seed, root)
        else:
            config = arm_config(data, seed, root, base, arm)
        if "val" not in content:
            content["val"] = loop.train_and_evaluate(config, folder / arm)[1]
        if FLAGS.test and arm != "base" and "test" not in content:
            content["test"] = evaluate_run(folder / arm, "test")
        write_json(path, content)


if __name__ == "__main__":
    app.run(main)
