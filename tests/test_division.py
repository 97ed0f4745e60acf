"""How one folder is divided: the right counts, the same names everywhere, nothing moved unseen."""

from itertools import chain

import pytest
from test_train import write_folder

from segjax import defaults
from segjax.data.check import check
from segjax.data.division import divide, draw, split_counts
from segjax.errors import ConfigError
from segjax.run import workdir
from segjax.training import evaluate_run, loop
from segjax.training import trainer as run_module
from segjax.weights import runs
from segjax.weights.runs import Trained

NAMES = [f"{i:02d}" for i in range(20)]
BY_THRESHOLDS = ["16", "05", "10"]  # val of NAMES and seed 0, as the first version had them


def config_of(**changes):
    config = defaults.get_config().data
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (30, (0.15, 0.15), (5, 5)),
        (12, (0.15, 0.15), (2, 2)),
        (1000, (0.15, 0.1), (150, 100)),
        (3, (0.15, 0.15), (1, 1)),
        (2, (0.15, 0.15), (1, 0)),
        (1, (0.15, 0.15), (0, 0)),
        (0, (0.15, 0.15), (0, 0)),
        (3, (0.5, 0.4), (1, 1)),
        (100, (0.001, 0.0), (1, 0)),
        (10, (0.0, 0.0), (0, 0)),
        (5, (1.0, 0.0), (5, 0)),
        (4, (0.5, 0.5), (2, 2)),
    ],
)
def test_shares_are_rounded_and_leave_training_an_image(count, shares, expected):
    assert split_counts(count, *shares) == expected
    parts = divide(
        config_of(val_fraction=shares[0], test_fraction=shares[1]), [str(i) for i in range(count)]
    )
    assert (len(parts["val"]), len(parts["test"])) == expected
    assert sorted(chain(*parts.values())) == sorted(str(i) for i in range(count))


def test_the_order_is_that_of_the_hashes_and_thresholds_are_those_of_earlier_versions():
    assert draw(0, "05") == draw(0, "05") < 0.2 < draw(1, "05")
    assert draw(0, "e\u0301") == draw(0, "\u00e9")
    old = divide(config_of(divide="thresholds", val_fraction=0.2, test_fraction=0.1), NAMES)
    assert sorted(old["val"]) == sorted(BY_THRESHOLDS)
    new = divide(config_of(val_fraction=0.2, test_fraction=0.1), NAMES)
    assert len(new["val"]) == 4 and new["val"][:3] == old["val"]
    assert len(new["test"]) == 2
    added = divide(
        config_of(divide="thresholds", val_fraction=0.2, test_fraction=0.1), [*NAMES, "new"]
    )
    assert all(set(old[split]) <= set(added[split]) for split in old)


def test_the_test_of_cross_validation_is_the_share_too():
    for divided, num_test in (("shares", 3), ("thresholds", 2)):
        folds = [
            divide(config_of(folds=4, fold=i, divide=divided, test_fraction=0.14), NAMES)
            for i in range(4)
        ]
        assert {tuple(parts["test"]) for parts in folds} == {tuple(folds[0]["test"])}
        assert len(folds[0]["test"]) == num_test
        validated = [name for parts in folds for name in parts["val"]]
        assert sorted(validated + folds[0]["test"]) == NAMES


def test_a_run_of_another_division_is_neither_resumed_nor_scored(tmp_path):
    workdir.write_json(tmp_path / "splits.json", {"val": "c", "test": "b"})
    workdir.require_division(tmp_path, {"val": "a", "test": "b"})  # nothing is trained yet
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    workdir.require_division(tmp_path, {"val": "c", "test": "b"})
    workdir.require_division(tmp_path, {"test": "b"})
    workdir.require_division(tmp_path, {})  # of a data set in folders of splits
    with pytest.raises(ConfigError, match=r"images were added.* and val would be others"):
        workdir.require_division(tmp_path, {"val": "a", "test": "b"})
    (tmp_path / "splits.json").unlink()  # as earlier versions left it
    workdir.require_division(tmp_path, {"val": "a"})


def test_images_added_to_a_divided_folder_stop_resuming_and_scoring(
    tiny_config, tmp_path, monkeypatch
):
    class NoCheckpoints:
        """In place of those that a training would have left."""

        def __init__(self, folder, reads_only=False):
            if not reads_only:
                raise StopIteration

    monkeypatch.setattr(run_module, "Checkpoints", NoCheckpoints)
    monkeypatch.setattr(runs, "restore", lambda f, _: Trained(None, {}, *workdir.load(f)[:2], 1))
    write_folder(tmp_path / "data", [(32, 32)] * 9)
    root, run = tmp_path / "data" / "train", tmp_path / "run"
    (tmp_path / "data" / "classes.json").rename(root / "classes.json")
    tiny_config.data.update(source="folder", root=str(root))
    with pytest.raises(StopIteration):  # all is well up to here
        loop.Trainer(tiny_config, run)
    tiny_config.data.update(bands="rgb", channels=3, dtype="uint8", normalize="given")
    workdir.save(run, tiny_config, check(tiny_config.data))
    (run / "checkpoints" / "1").mkdir(parents=True)
    record = (run / "data.json").read_text()
    for part in ("images", "masks"):
        (tmp_path / "data" / "val" / part / "0.png").rename(root / part / "added.png")
    for act in (
        lambda: loop.Trainer(tiny_config, run),
        lambda: evaluate_run.evaluate_run(run, "val"),
        lambda: evaluate_run.evaluate_run(run, "val", data_root=str(root)),
    ):
        with pytest.raises(ConfigError, match=r"images were added.* would be others"):
            act()
        assert (run / "data.json").read_text() == record


def test_a_run_of_earlier_versions_is_resumed_with_its_division(tmp_path):
    config = defaults.get_config()
    assert workdir.as_trained(config, tmp_path).data.divide == "shares"
    held = workdir.as_json(config)
    del held["data"]["divide"], held["data"]["subfolders"]
    workdir.write_json(tmp_path / "config.json", held)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    resumed = workdir.as_trained(config, tmp_path)
    assert (resumed.data.divide, resumed.data.subfolders) == ("thresholds", False)
    workdir.require_same_run(tmp_path, resumed)
    resumed = workdir.as_trained(config, tmp_path)  # config.json has the fields now
    assert resumed.data.divide == "thresholds"
    workdir.require_same_run(tmp_path, resumed)
    with pytest.raises(ConfigError, match="another configuration"):
        config.seed = 3
        workdir.require_same_run(tmp_path, workdir.as_trained(config, tmp_path))
