"""The tables of refine.py's and filters.py's results: mean ± standard deviation over seeds.

  python experiments/gan_refinement/refine_table.py --split=test

Reads results/refine/FIELD_SEED_ARM.json and prints Markdown, in per cent; the rows below an arm's
are its differences from the segmenter, paired by seed.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from summarize import SCORES, cell  # noqa: E402

ARMS = ("segmenter", "guided", "densecrf", "higher", "joint", "refiner", "refiner-gan")
flags.DEFINE_bool("tries", False, "Also arms that were tried on the validation split.")


def read(split: str) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Scores in per cent, by field, arm and seed."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted((HERE / "results" / "refine").glob("*_*_*.json")):
        field, seed, arm = path.stem.split("_", 2)
        report = json.loads(path.read_text()).get(split)
        if report and (arm in ARMS or flags.FLAGS.tries):
            found[field][arm][int(seed)] = [100 * report[name] for name in SCORES]
    return found


def main(_: list[str]) -> None:
    columns = ["data", "arm", "seeds", *SCORES.values()]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for field, arms in read(flags.FLAGS.split).items():
        base = arms["segmenter"]
        for arm in sorted(arms, key=lambda arm: (ARMS.index(arm) if arm in ARMS else 99, arm)):
            rows = [(arm, "", np.array(list(arms[arm].values())))]
            both = sorted(arms[arm].keys() & base.keys())
            if arm != "segmenter" and both:
                gain = np.array([np.subtract(arms[arm][s], base[s]) for s in both])
                rows.append((f"{arm} - segmenter, paired", "+", gain))
            for name, sign, values in rows:
                cells = [cell(column, sign) for column in values.T]
                print("| " + " | ".join([field, name, str(len(values)), *cells]) + " |")


if __name__ == "__main__":
    app.run(main)
