import json
import math

import numpy as np
import pytest

from segjax import report

NAMES = ["Road", "Car", "Tree"]
CONFUSION = np.array([[6, 2, 0], [0, 2, 0], [0, 0, 0]])  # Tree is absent.


@pytest.fixture
def split():
    return report.split_report(CONFUSION, NAMES, 0.5, 7, 1200, "native")


def test_report_holds_the_scores(split):
    assert split["mean_iou"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert split["pixel_accuracy"] == 0.8
    assert split["per_class"]["Car"] == {
        "iou": 0.5,
        "accuracy": 1.0,
        "dice": pytest.approx(4 / 6),
        "pixels": 2,
    }
    assert math.isnan(split["per_class"]["Tree"]["iou"])
    assert (split["loss"], split["num_images"], split["checkpoint_step"]) == (0.5, 7, 1200)
    assert split["resolution"] == "native"


def test_json_has_null_for_nan_and_leaves_no_temporary_file(split, tmp_path):
    path = tmp_path / "report" / "val.json"
    report.write_json(path, split | {"loss": float("inf")})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read["per_class"]["Tree"] == {"iou": None, "accuracy": None, "dice": None, "pixels": 0}
    assert read["loss"] is None
    assert read["per_class"]["Road"] == split["per_class"]["Road"]
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "val.json"
    report.write_json(path, {"loss": 1.0})
    with pytest.raises(TypeError):
        report.write_json(path, {"loss": object()})
    assert json.loads(path.read_text()) == {"loss": 1.0}


def test_table_lines_up_and_shows_every_class(split):
    header, rule, road, car, tree, _, mean, summary = report.format_table(split).splitlines()
    assert {len(line) for line in (header, rule, road, car, tree, mean)} == {len(header)}
    assert road.split() == ["Road", "0.750", "0.750", "0.857", "80.00%"]
    assert tree.split() == ["Tree", "nan", "nan", "nan", "0.00%"]
    assert mean.split() == ["mean", "0.625", "0.875", "0.762", "100.00%"]
    assert "pixel accuracy 0.800" in summary and "step 1200" in summary
