"""The scores of a split, as JSON and as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np

BOUNDARY = ("boundary_iou_0.02", "boundary_f_0.0075")  # of `boundary.metrics`, in the terminal


def split_report(
    scores: dict[str, Any], pixels: np.ndarray, names: Sequence[str], about: dict[str, Any]
) -> dict[str, Any]:
    """Collects the scores of one split.

    Args:
      scores: of `iou.metrics` and `boundary.metrics`: means, and arrays [C] of the same names.
      pixels: int64 [C], labelled pixels.
      about: what else the report holds, such as loss, num_images, data (which they are).

    Returns:
      The report; NaN where a score is undefined. `write_json` writes NaN as null. A class's
      accuracy is its recall; it has both names.
    """
    scores = {**scores, "recall": scores["accuracy"], "mean_recall": scores["mean_accuracy"]}
    return {
        **{k: v for k, v in scores.items() if isinstance(v, float)},
        **about,
        "per_class": {
            name: {k: float(v[i]) for k, v in scores.items() if isinstance(v, np.ndarray)}
            | {"pixels": int(pixels[i])}
            for i, name in enumerate(names)
        },
    }


def format_table(report: dict[str, Any]) -> str:
    """Lays a report of `split_report` out for the terminal: a row per class, then the means."""
    classes = report["per_class"]
    total = max(1, sum(row["pixels"] for row in classes.values()))
    columns = ("iou", "recall", "dice", *BOUNDARY)
    cells = [(*(r[k] for k in columns), r["pixels"] / total) for r in classes.values()]
    cells.append((*(report[f"mean_{k}"] for k in columns), 1.0))
    names = [*classes, "mean"]
    width = max(5, *map(len, names))
    header = f"{'class':<{width}}     IoU  recall    Dice  boundary IoU  boundary F   pixels"
    layout = "{:<{width}}  {:6.3f}  {:6.3f}  {:6.3f}  {:12.3f}  {:10.3f}  {:7.2%}"
    lines = [layout.format(name, *row, width=width) for name, row in zip(names, cells, strict=True)]
    summary = (
        f"pixel accuracy {report['pixel_accuracy']:.3f}, loss {report['loss']:.4f}, "
        f"step {report['checkpoint_step']}\n"
        f"{report['num_images']} images, {_listed(report['data'])}\n"
        f"pixels counted at: {report['resolution']}"
    )
    if report["num_tiled"]:
        summary += f"\ncut into tiles: {report['num_tiled']} images, too large to be taken whole"
    if report["tta"]:
        summary += f"\naveraged over: the images themselves, {', '.join(report['tta'])}"
    rule = "-" * len(header)
    return "\n".join([header, rule, *lines[:-1], rule, lines[-1], summary])


def _listed(data: dict[str, Any]) -> str:
    """Which data they are, in a line: their hash in short."""
    facts = {**data, "sha256": data.get("sha256", "")[:16]}
    return ", ".join(f"{key} {value}" for key, value in facts.items() if value)
