"""Which data are scored: a run's own wherever they lie, others whole and under another name."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from families import SEGFORMER, UNET, use
from PIL import Image
from test_export import write_run

from segjax.data import check
from segjax.data.label_table import LabelTable
from segjax.errors import ConfigError, DataError
from segjax.evaluation import scored
from segjax.inference import predictor
from segjax.training.evaluate_run import evaluate_run

TABLE = LabelTable.of_names(["low", "middle", "high"])


def write_images(root, numbers, values=(0, 1, 2), suffix=".png"):
    """ROOT/{images,masks}: the mask tells how bright the image is."""
    for i in numbers:
        rng = np.random.default_rng(i)
        gray = np.kron(rng.integers(0, 256, (4, 5)), np.ones((6, 6))).astype(np.uint8)
        label = np.array(values, np.uint8)[gray // 86]
        for part, pixels in (("images", np.stack([gray] * 3, -1)), ("masks", label)):
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / part / f"{i}{suffix}")


@pytest.fixture
def run(request, tmp_path, tiny_config):
    """The folder of a run on ROOT/{train,val}, which was not trained, and its data's root."""
    root = tmp_path / "data"
    write_images(root / "train", range(4))
    write_images(root / "val", range(4, 7))
    (root / "classes.json").write_text(TABLE.to_json())
    use(tiny_config, *getattr(request, "param", UNET))
    tiny_config.data.update(source="folder", root=str(root), fit="pad")
    write_run(tmp_path / "run", tiny_config, TABLE)
    check.check(tiny_config.data, cache=tmp_path / "run" / "data.json")
    return tmp_path / "run", tiny_config.data


def find(run, split="val", **options):
    return scored.find(run[0], run[1], TABLE, split, **options)


def test_moved_data_are_the_run_s_own_whatever_their_files_are_called(run, tmp_path):
    own = find(run)
    assert (own.name, own.report.num_images) == ("val", {"val": 3})
    shutil.copytree(run[1].root, tmp_path / "moved")
    (tmp_path / "moved" / "classes.json").unlink()
    for part in ("images", "masks"):
        folder = tmp_path / "moved" / "val" / part
        (folder / "4.png").rename(folder / "z.png")
    moved = find(run, root=str(tmp_path / "moved"))
    assert moved.name == "val" and moved.report.sha256 == own.report.sha256

    write_images(tmp_path / "moved" / "val", [9])
    assert find(run, root=str(tmp_path / "moved")).name == "moved_val"
    for part in ("images", "masks"):  # as many as before, and others
        (tmp_path / "moved" / "val" / part / "z.png").unlink()
    assert find(run, root=str(tmp_path / "moved")).name == "moved_val"


def test_data_that_changed_where_they_are_are_told(run, caplog):
    find(run)
    assert not caplog.records
    write_images(Path(run[1].root) / "val", [9])
    assert find(run).name == "val"
    assert "val is not what it was when the run was trained: 3 images then, 4 now" in caplog.text


def test_the_own_root_named_again_is_the_own_data(run, caplog):
    write_images(Path(run[1].root) / "val", [9])
    assert find(run, root=f"{run[1].root}/../data").name == "val"
    assert "val is not what it was when the run was trained" in caplog.text


def test_moved_data_of_another_division_are_refused(run, tmp_path):
    (run[0] / "checkpoints" / "1").mkdir(parents=True)
    write_images(tmp_path / "flat", range(20, 32))
    shutil.copy(Path(run[1].root) / "classes.json", tmp_path / "flat")
    run[1].root = str(tmp_path / "flat")
    check.check(run[1], cache=run[0] / "data.json")  # as if the new division were the run's
    (run[0] / "splits.json").write_text('{"val": "another"}')
    shutil.copytree(tmp_path / "flat", tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"images were added.* would be others"):
        find(run, root=str(tmp_path / "moved"))


def test_masks_may_lie_below_their_images_and_all_faults_are_named(run, tmp_path):
    write_images(tmp_path / "a", range(20, 23))
    folder = (tmp_path / "a" / "images").rename(tmp_path / "photos")
    masks = (tmp_path / "a" / "masks").rename(folder / "masks")
    options = {"images": str(folder), "masks": str(masks)}
    assert find(run, **options).report.num_images == {"test": 3}
    (masks / "20.png").unlink()
    (folder / "21.png").write_bytes(b"")
    with pytest.raises(DataError, match="has no mask") as error:
        find(run, **options)
    assert "21.png: an empty file" in str(error.value)


def test_an_earlier_run_knows_its_data_by_their_pixel_counts(run, tmp_path):
    recorded = json.loads((run[0] / "data.json").read_text())
    for later in ("sha256", "sizes"):
        del recorded[later]
    (run[0] / "data.json").write_text(json.dumps(recorded))
    shutil.copytree(run[1].root, tmp_path / "moved")
    assert find(run, root=str(tmp_path / "moved")).name == "val"
    write_images(tmp_path / "moved" / "val", [4], values=(0, 2, 1))
    assert find(run, root=str(tmp_path / "moved")).name == "moved_val"


def test_a_flat_folder_is_scored_whole(run, tmp_path):
    write_images(tmp_path / "test", range(20, 32))
    found = find(run, root=str(tmp_path / "test"))
    assert found.report.num_images == {"val": 12}
    assert found.name == "other_test"  # report/test.json is of the run's own data
    both = {part: str(tmp_path / "test" / part) for part in ("images", "masks")}
    again = find(run, **both)
    assert again.name == "other_test" and again.place == both
    assert again.report.sha256["test"] == found.report.sha256["val"]
    with pytest.raises(ConfigError, match="give both"):
        find(run, images=both["images"])


def test_other_data_name_the_same_classes_and_may_have_other_mask_values(run, tmp_path):
    write_images(tmp_path / "a", range(20, 23))
    write_images(tmp_path / "b", range(20, 23), values=(7, 100, 200))
    content = {"classes": list(TABLE.names), "values": [7, 100, 200]}
    (tmp_path / "b" / "classes.json").write_text(json.dumps(content))
    plain, other = (find(run, root=str(tmp_path / name)).report for name in "ab")
    assert plain.sha256 == other.sha256
    folders = {part: str(tmp_path / "b" / part) for part in ("images", "masks")}
    assert find(run, **folders).report.sha256["test"] == plain.sha256["val"]
    content["classes"] = ["low", "middle", "top"]
    (tmp_path / "b" / "classes.json").write_text(json.dumps(content))
    for options in ({"root": str(tmp_path / "b")}, folders):
        with pytest.raises(ConfigError, match="the same classes: low, middle, high"):
            find(run, **options)


def test_what_training_left_out_is_not_scored(run):
    write_images(Path(run[1].root) / "train", [5])
    run[1].on_error = "skip"
    found = find(run, "train")
    assert found.report.num_images["train"] == 4 and len(found.report.skipped["train"]) == 1
    assert any("same pixels" in warning for warning in found.report.warnings)


@pytest.mark.parametrize(
    ("run", "tta"),
    [(UNET, ["flip"]), pytest.param(SEGFORMER, ["0.75"], marks=pytest.mark.slow)],
    indirect=["run"],
    ids=["unet", "segformer"],
)
def test_other_data_get_a_report_of_their_own_and_tta_is_that_of_prediction(run, tta, tmp_path):
    folder = run[0]
    write_images(tmp_path / "photos", range(20, 23))
    folders = {part: str(tmp_path / "photos" / part) for part in ("images", "masks")}
    (folder / "report").mkdir()
    (folder / "report" / "val.json").write_text("{}")
    report = evaluate_run(folder, **folders, tta=tta)
    name = f"photos_tta_{'_'.join(tta)}"
    written = folder / "report" / f"{name}.json"
    assert json.loads(written.read_text())["data"] == report["data"]
    assert (folder / "report" / "val.json").read_text() == "{}"
    assert (folder / "report" / f"{name}_predictions.png").is_file()
    assert report["tta"] == tta and report["num_images"] == 3
    write_images(tmp_path / "b" / "photos", range(30, 33))
    others = {part: str(tmp_path / "b" / "photos" / part) for part in ("images", "masks")}
    with pytest.raises(ConfigError, match=rf"{name}\.json is of other data of this name; give"):
        evaluate_run(folder, **others, tta=tta)
    assert report["data"]["images"] == folders["images"] and len(report["data"]["sha256"]) == 64

    model = predictor.load(folder, tta=tta)
    right, found = [], set()
    for path in Path(folders["images"]).iterdir():
        truth = cv2.imread(str(Path(folders["masks"]) / path.name), cv2.IMREAD_GRAYSCALE)
        label = model.label(cv2.imread(str(path)))
        right.append(label == truth)
        found.update(np.unique(label))
    assert len(found) > 1
    assert np.mean(right) == pytest.approx(report["pixel_accuracy"], abs=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"name": "val"}, {"name": "test_2"}, {"name": "a/b"}, {"output": "scores.txt"},
     {"name": "a", "output": "b.json"}, {"output": "run/report/val.json"}],
)  # fmt: skip
def test_no_report_takes_the_place_of_a_split_s(run, options, monkeypatch):
    monkeypatch.chdir(run[0].parent)
    with pytest.raises(ConfigError, match=r"--name|--output"):
        evaluate_run(run[0], **options)


def test_a_mistyped_split_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="split is 'tset'; choose one of"):
        evaluate_run(tmp_path, split="tset")
