"""What a head start buys: CamVid from random weights and from weights that know only shapes.

  python experiments/transfer/run.py --root=ROOT

One network is trained on procedural shapes. Then, for every seed and share of CamVid's training
images, the same network makes the same updates twice: `scratch`, and `shapes` with the weights of
all but the last layer. Scores of both splits go to results/SHARE_SEED_ARM.json; what is there is
not trained again, and what was interrupted goes on. The last lines are the table.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from configs import camvid, quickstart  # noqa: E402
from segjax.runtime.files import write_json  # noqa: E402
from segjax.training import loop  # noqa: E402
from segjax.training.evaluate_run import evaluate_run  # noqa: E402

ARMS = ("scratch", "shapes")
# Every n-th training image, and the epochs that make about as many updates of any number of them.
SHARES = {25: (4, 60), 50: (2, 30), 100: (1, 15)}
FLAGS = flags.FLAGS
flags.DEFINE_string("root", "", "CamVid's folder.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Of order, augmentation and random weights.")
flags.DEFINE_string("runs", "runs/transfer", "Where the work directories go.")


def share_of(root: Path, every: int, out: Path) -> Path:
    """A folder like CamVid's with every n-th training image, by links."""
    for folder in sorted(root.glob("*/*/")):
        split, kind = folder.parts[-2:]
        (out / split / kind).mkdir(parents=True, exist_ok=True)
        for source in sorted(folder.iterdir())[:: every if split == "train" else 1]:
            target = out / split / kind / source.name
            if not target.is_symlink():
                target.symlink_to(source.resolve())
    return out


def shapes_config() -> ConfigDict:
    """The quick start, with the upsampling that is fastest on a CPU."""
    config = quickstart.get_config()
    config.model.unet.upsample = "nearest"
    return config


def camvid_config(root: Path, epochs: int, seed: int, init_from: str) -> ConfigDict:
    """The same network, width 0.35, on CamVid at 96×128."""
    config = camvid.get_config("cpu")
    config.model = shapes_config().model
    config.data.root = str(root)
    config.num_epochs = config.eval.every_epochs = epochs
    config.batch_size = 8
    config.optim.learning_rate = 4e-3
    config.seed = seed
    config.init_from = init_from
    config.pretrained.head = "drop"
    return config


def cell(values: np.ndarray) -> str:
    """'1.2 ± 0.3' of several seeds, '1.2' of one."""
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


def print_table(content: dict[tuple[int, int, str], dict]) -> None:
    """mIoU in per cent: mean ± standard deviation over seeds, and the difference paired by seed."""
    for split in ("val", "test"):
        for share in SHARES:
            values = {
                arm: np.array(
                    [
                        100 * content[key][split]["mean_iou"]
                        for key in sorted(content)
                        if key[0] == share and key[2] == arm
                    ]
                )
                for arm in ARMS
            }
            values["gain"] = values["shapes"] - values["scratch"]
            print(f"| {split} | {share} % | " + " | ".join(map(cell, values.values())) + " |")


def main(_: list[str]) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("segjax").setLevel(logging.INFO)
    runs, content = Path(FLAGS.runs), {}
    source = runs / "pretrained"
    if not (source / "report" / "val.json").exists():
        loop.train_and_evaluate(shapes_config(), source)
    for seed in map(int, FLAGS.seeds):
        for share, (every, epochs) in SHARES.items():
            root = share_of(Path(FLAGS.root), every, runs / "data" / str(share))
            for arm in ARMS:
                path = HERE / "results" / f"{share}_{seed}_{arm}.json"
                if not path.exists():
                    folder = runs / f"{share}_{seed}_{arm}"
                    start = str(source) if arm == "shapes" else ""
                    config = camvid_config(root, epochs, seed, start)
                    val = loop.train_and_evaluate(config, folder)[1]
                    write_json(path, {"val": val, "test": evaluate_run(folder, "test")})
                content[share, seed, arm] = json.loads(path.read_text())
    print_table(content)


if __name__ == "__main__":
    app.run(main)
