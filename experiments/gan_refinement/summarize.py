"""Tables of mean ± standard deviation over seeds, and of differences paired by seed.

  python experiments/gan_refinement/summarize.py --split=val

Reads results/DATA_SEED_ARM.json, writes results/SPLIT.json, prints Markdown.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from absl import app, flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from segjax.runtime.files import write_json  # noqa: E402

SCORES = {
    "mean_iou": "mIoU",
    "mean_boundary_iou_0.02": "Boundary IoU 0.02",
    "mean_boundary_iou_0.005": "Boundary IoU 0.005",
    "mean_boundary_f_0.0075": "boundary F",
}
flags.DEFINE_enum("split", "val", ("val", "test"), "Of the reports.")


def read(split: str) -> dict[tuple[str, str], dict[int, list[float]]]:
    """{(data, arm): {seed: scores}} in per cent."""
    found = defaultdict(dict)
    for path in sorted((HERE / "results").glob("*_*_*.json")):
        data, seed, arm = path.stem.split("_", 2)
        report = json.loads(path.read_text()).get(split)
        if report:
            found[data, arm][int(seed)] = [100 * report[name] for name in SCORES]
    return found


def cell(values: np.ndarray, sign: str = "") -> str:
    """'1.2 ± 0.3' of several seeds, '1.2' of one."""
    spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{spread}"


def main(_: list[str]) -> None:
    split = flags.FLAGS.split
    found, content = read(split), {}
    columns = ["data", "arm", "seeds", *SCORES.values()]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for (data, arm), of_seed in sorted(found.items()):
        rows = [(arm, "", np.array(list(of_seed.values())))]
        plain = found.get((data, "plain"), {})
        both = sorted(of_seed.keys() & plain.keys())
        if arm not in ("plain", "base") and both:
            gain = np.array([np.subtract(of_seed[s], plain[s]) for s in both])
            rows.append((f"{arm} - plain, paired", "+", gain))
        for name, sign, values in rows:
            cells = [cell(column, sign) for column in values.T]
            print("| " + " | ".join([data, name, str(len(values)), *cells]) + " |")
            content[f"{data}, {name}"] = dict(zip(SCORES, values.T.tolist(), strict=True))
    write_json(HERE / "results" / f"{split}.json", content)


if __name__ == "__main__":
    app.run(main)
