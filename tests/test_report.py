import json
import math

import numpy as np
import pytest

from segjax.evaluation import boundary, iou, report
from segjax.runtime.files import write_json

NAMES = ["Road", "Car", "Tree"]
CONFUSION = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])  # Tree is absent.
EDGES = {
    "band": np.array([[[3, 1, 0], [4, 2, 0], [5, 1, 0]], [[1, 1, 0], [2, 1, 0], [2, 1, 0]]]),
    "outline": np.array([[4, 1, 0], [2, 1, 0], [4, 2, 0], [2, 1, 0]]),
}


@pytest.fixture
def split():
    scores = iou.metrics(CONFUSION) | boundary.metrics(EDGES)
    about = {"loss": 0.5, "num_images": 7, "num_tiled": 2, "checkpoint_step": 1200}
    about |= {"resolution": "each label's own size", "tta": ["flip"]}
    about |= {"data": {"root": "cells", "split": "val", "num_skipped": 0, "sha256": "0123" * 16}}
    return report.split_report(scores, CONFUSION.sum(axis=1), NAMES, about)


def test_report_holds_the_scores(split):
    assert split["mean_iou"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert split["pixel_accuracy"] == 0.8
    assert split["per_class"]["Car"] == {
        "iou": 0.5,
        "accuracy": 1.0,
        "recall": 1.0,
        "dice": pytest.approx(4 / 6),
        "boundary_iou_0.02": 0.5,
        "boundary_iou_0.005": 1.0,
        "boundary_f_0.0075": pytest.approx(2 / 3),
        "pixels": 2,
    }
    assert math.isnan(split["per_class"]["Tree"]["iou"])
    assert (split["loss"], split["num_images"], split["checkpoint_step"]) == (0.5, 7, 1200)
    assert split["mean_recall"] == split["mean_accuracy"] == 0.875


def test_json_has_null_for_nan_and_leaves_no_temporary_file(split, tmp_path):
    path = tmp_path / "report" / "val.json"
    write_json(path, split | {"loss": float("inf")})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read["per_class"]["Tree"]["pixels"] == 0
    assert all(v is None for k, v in read["per_class"]["Tree"].items() if k != "pixels")
    assert read["loss"] is None
    assert read["per_class"]["Road"] == split["per_class"]["Road"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "val.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_table_lines_up_and_shows_every_class(split):
    header, rule, road, car, tree, _, mean, *summary = report.format_table(split).splitlines()
    assert header.split()[:4] == ["class", "IoU", "recall", "Dice"]
    assert {len(line) for line in (header, rule, road, car, tree, mean)} == {len(header)}
    assert road.split() == ["Road", "0.750", "0.750", "0.857", "0.500", "0.500", "80.00%"]
    assert tree.split() == ["Tree", *["nan"] * 5, "0.00%"]
    assert mean.split() == ["mean", "0.625", "0.875", "0.762", "0.500", "0.583", "100.00%"]
    assert summary == [
        "pixel accuracy 0.800, loss 0.5000, step 1200",
        "7 images, root cells, split val, sha256 0123012301230123",
        "pixels counted at: each label's own size",
        "cut into tiles: 2 images, too large to be taken whole",
        "averaged over: the images themselves, flip",
    ]
