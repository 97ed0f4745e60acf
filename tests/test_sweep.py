"""A sweep: what it is given, what it tries, and what it survives."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from families import SEGFORMER, UNET, use
from matplotlib.figure import Figure

from segjax.defaults import MOVED
from segjax.errors import ConfigError, Interrupted, InUseError, TrainingError
from segjax.run import workdir
from segjax.training import loop

optuna = pytest.importorskip("optuna")
from segjax.tuning import space, study, trials  # noqa: E402

ROOT = Path(__file__).parents[1]
RATE = "optim.learning_rate=log:1e-4:1e-1"
# A process of its own, that takes trials whose training is `loop.train_and_evaluate` of FAKE.
PROCESS = """
import os, signal, sys, time
from pathlib import Path
from configs import quickstart
from segjax.tuning import space, study, trials
from segjax.training import loop

def fake(config, folder, on_epoch):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {config.optim.learning_rate}\\n")
    on_epoch([{"epoch": 1, "val_mean_iou": 0.5}])
    FAKE
    return None, {"mean_iou": 0.5}

loop.train_and_evaluate = fake
config = quickstart.get_config()
search = space.parse_search(config, ["optim.learning_rate=log:1e-4:1e-1"])
trials.run(study.Sweep(config, search, Path(sys.argv[1]), trials=TRIALS, grace=GRACE))
"""


@pytest.fixture
def tiny(tiny_config, tmp_path):
    """A sweep over the learning rate of a tiny configuration."""
    search = space.parse_search(tiny_config, [RATE])
    return study.Sweep(tiny_config, search, tmp_path / "study", trials=4)


def pretend(monkeypatch, score, picture=False):
    """Two epochs of `score(config)`, in no time; it may raise. Returns the folders, as trained."""
    folders = []

    def fake(config, folder, on_epoch):
        folders.append(folder)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        history = []
        for epoch in (1, 2):
            history.append({"epoch": epoch, "val_mean_iou": score(config) * epoch / 2})
            on_epoch(history)
        return None, {"mean_iou": score(config)}

    monkeypatch.setattr(loop, "train_and_evaluate", fake)
    if not picture:  # drawing takes longer than all the rest
        monkeypatch.setattr(trials, "picture", lambda table, search: Figure((1, 1)))
    return folders


def start(folder, fake, trials, grace):
    code = PROCESS.replace("FAKE", fake).replace("TRIALS", str(trials))
    return subprocess.Popen(
        [sys.executable, "-c", code.replace("GRACE", str(grace)), str(folder)], cwd=ROOT
    )


def read(folder):
    return json.loads((folder / "sweep.json").read_text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.learning_rat=log:1e-4:1", "no field .*did you mean optim.learning_rate"),
        ("optim=1,2", "is a section; .* accumulate"),
        ("seed.x=1,2", "no field 'seed.x'"),
        ("batch_size=float:1:4", "holds int, which float does not fit"),
        ("loss.dice=int:1:4", "holds float, which int does not fit"),
        ("model.unet.upsample=log:1:2", "holds str, which log does not fit"),
        ("batch_size=int:4:8.5", "'8.5' is no int"),
        ("loss.dice=float:2:1", "2.0 is not below 1.0"),
        ("loss.dice=log:0:1", "low > 0"),
        ("loss.dice=float:0", "write FIELD=float:LOW:HIGH"),
        ("loss.dice=0.1:1", "'0.1:1' is no float, as the field is; write FIELD="),
        ("batch_size=int:4:16:0", "step > 0"),
        ("model.unet.upsample=nearest", "at least|different values"),
        ("model.freeze_encoder=yes,no", "'yes' is no bool"),
    ],
)
def test_a_mistake_in_what_to_search_is_reported_with_the_field(tiny_config, text, expected):
    with pytest.raises(ConfigError, match=expected) as error:
        space.parse_search(tiny_config.lock(), [text])
    assert text in str(error.value)


def test_values_arrive_in_the_configuration_with_the_type_of_their_field(tiny_config):
    choices = {
        "batch_size": ("4", 4),
        "loss.dice": ("1", 1.0),
        "model.unet.upsample": ("bilinear", "bilinear"),
        "model.freeze_encoder": ("true", True),
        "data.size": ("(32,64)", (32, 64)),
    }
    texts = [f"{field}={text},{text}0" for field, (text, _) in choices.items()][:3]
    texts += ["model.freeze_encoder=true,false", "data.size=(32,64),(64,64)"]
    search = space.parse_search(tiny_config, texts)
    assert search["data.size"].choices == ("(32,64)", "(64,64)")
    params = {field: text for field, (text, _) in choices.items()}
    config = space.with_values(tiny_config, params)
    for field, (_, value) in choices.items():
        assert config[field] == value and type(config[field]) is type(value)
    assert space.as_flags(params).endswith("--config.data.size='(32,64)'")


def test_ranges_keep_to_whole_steps_and_decades(tiny_config):
    texts = ["batch_size=int:4:15:4", RATE, "num_epochs=log:1:100"]
    search = space.parse_search(tiny_config, texts)
    assert search["batch_size"] == optuna.distributions.IntDistribution(4, 12, step=4)
    assert search["optim.learning_rate"].log and search["num_epochs"].log
    with pytest.raises(ConfigError, match="twice"):
        space.parse_search(tiny_config, [RATE, RATE])
    with pytest.raises(ConfigError, match="--search is missing"):
        space.parse_search(tiny_config, [])


def test_a_choice_that_no_run_can_have_is_refused_before_the_first(tiny, tiny_config):
    search = space.parse_search(tiny_config, ["model.unet.upsample=nearest,bilinera"])
    with pytest.raises(ConfigError, match=r"--search model.unet.upsample: .*'bilinera'"):
        trials.check(replace(tiny, search=search))


def test_a_sweep_goes_on_with_other_values_and_ends_when_enough_are_finished(tiny, monkeypatch):
    folders = pretend(monkeypatch, lambda config: config.optim.learning_rate, picture=True)
    trials.run(replace(tiny, trials=3))
    best = trials.run(replace(tiny, trials=4))
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    found = read(tiny.folder)
    rates = [row["params"]["optim.learning_rate"] for row in found["trials"]]
    assert len(set(rates)) == 4
    assert found["best"] == best and best["mean_iou"] == max(rates)
    assert best["flags"] == f"--config.optim.learning_rate={max(rates)!r}"
    assert (tiny.folder / "sweep.png").stat().st_size > 10_000
    trials.run(replace(tiny, trials=4))
    assert len(folders) == 4

    again = replace(tiny, folder=tiny.folder.with_name("again"), trials=1)
    assert trials.run(again)["params"] == found["trials"][0]["params"]


def test_a_study_of_before_fields_were_moved_goes_on(tiny, monkeypatch):
    folders = pretend(monkeypatch, lambda config: 0.5)
    trials.run(replace(tiny, trials=1))
    names = {f"config.{new}": f"config.{old}" for old, new in MOVED.items()}
    later = {f"config.{field}" for field in workdir.LATER} - names.keys()
    with study.open_study(tiny) as opened:
        recorded = opened.user_attrs[study.COMMAND]
        assert names.keys() <= recorded.keys()
        past = {
            names.get(name, name): v
            for name, v in recorded.items()
            if not (name in later and v == workdir.LATER[name.removeprefix("config.")])
        }
        opened.set_user_attr(study.COMMAND, past)
    trials.run(replace(tiny, trials=2))
    assert len(folders) == 2
    other = tiny.config.copy_and_resolve_references()
    other.model.mobilenet_v2.width = 0.5
    with pytest.raises(ConfigError, match=r"config\.model\.mobilenet_v2\.width was 0\.35, is 0\.5"):
        trials.run(replace(tiny, config=other))
    with study.open_study(tiny) as opened:  # one that searched such a field
        opened.set_user_attr(study.COMMAND, past | {"search model.upsample": "any"})
    with pytest.raises(
        ConfigError, match=r"searches model\.upsample, which is model\.unet\.upsample"
    ):
        trials.run(tiny)


def test_another_sweep_in_the_same_folder_is_refused(tiny, monkeypatch):
    pretend(monkeypatch, lambda config: 0.5)
    trials.run(tiny)
    other = space.parse_search(tiny.config, ["loss.dice=float:0:2"])
    with pytest.raises(ConfigError, match=r"another sweep: .*loss\.dice.*Choose another --study"):
        trials.run(replace(tiny, search=other))
    with pytest.raises(ConfigError, match="nowhere cannot be opened"):
        trials.run(replace(tiny, storage="postgresql:nowhere"))


def test_bad_trials_are_pruned_and_only_good_ones_keep_their_checkpoints(tiny, monkeypatch):
    scores = iter([0.5] * 24 + [0.1, 0.1])  # three for a trial that is not pruned, in its first

    pretend(monkeypatch, lambda config: next(scores))
    trials.run(replace(tiny, trials=9))
    found = read(tiny.folder)
    assert [row["state"] for row in found["trials"]] == ["complete"] * 8 + ["pruned"]
    kept = [(tiny.folder / "trials" / str(i) / "checkpoints").exists() for i in range(9)]
    assert kept == [True] * 8 + [False]


def test_a_trial_that_fails_does_not_end_the_sweep_but_five_in_a_row_do(tiny, monkeypatch):
    def score(config):
        if config.optim.learning_rate > 3e-3:
            raise TrainingError("loss nan at step 6\nmore")
        return 0.5

    pretend(monkeypatch, score)
    trials.run(replace(tiny, seed=2))
    rows = read(tiny.folder)["trials"]
    failed = [row for row in rows if row["params"]["optim.learning_rate"] > 3e-3]
    assert failed and all(row["state"] == "failed" for row in failed)
    assert {row["error"] for row in failed} == {"loss nan at step 6"}
    assert len(rows) - len(failed) == 4
    assert not (tiny.folder / "trials" / str(failed[0]["trial"]) / "checkpoints").exists()

    def refuse(config):
        raise ConfigError("config.batch_size is 4")

    folders = pretend(monkeypatch, refuse)
    with pytest.raises(TrainingError, match=r"5 trials in a row .*config.batch_size is 4"):
        trials.run(replace(tiny, folder=tiny.folder.with_name("none")))
    assert len(folders) == 5


def test_a_trial_that_another_process_still_trains_is_left_alone_and_tried_again(tiny, monkeypatch):
    refusals = iter([True])

    def score(config):
        if next(refusals, False):
            raise InUseError("in use by process 1")
        return 0.5

    folders, waits = pretend(monkeypatch, score), []
    monkeypatch.setattr(trials.time, "sleep", waits.append)
    trials.run(replace(tiny, trials=1))
    assert folders == [tiny.folder / "trials" / "0"] * 2 and tiny.grace in waits
    (row,) = read(tiny.folder)["trials"]
    assert row["state"] == "complete" and "error" not in row


def test_a_trial_whose_process_is_killed_is_resumed_by_another(tmp_path):
    killed = start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", trials=1, grace=2)
    assert killed.wait(60) == -signal.SIGKILL
    assert start(tmp_path, "pass", trials=1, grace=2).wait(60) == 0
    (row,) = read(tmp_path)["trials"]
    assert row["trial"] == 0 and row["state"] == "complete"
    attempts = (tmp_path / "trials" / "0" / "attempts").read_text().split()
    assert attempts[0] != attempts[2] and attempts[1] == attempts[3]  # the same values
    assert attempts[1] == str(row["params"]["optim.learning_rate"])


def test_two_processes_share_a_sweep_and_leave_each_other_the_trials_they_have(tmp_path):
    fake = "time.sleep(6 if folder.name == '0' else 1)"
    both = [start(tmp_path, fake, trials=3, grace=4) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    rows = read(tmp_path)["trials"]
    assert [row["state"] for row in rows] == ["complete"] * 3
    lines = [(tmp_path / "trials" / str(i) / "attempts").read_text().split() for i in range(3)]
    assert all(len(line) == 2 for line in lines)  # nobody took over what was alive
    assert {process for process, _ in lines} == {str(process.pid) for process in both}
    assert len({rate for _, rate in lines}) == 3


@pytest.mark.parametrize(
    "network", [UNET, pytest.param(SEGFORMER, marks=pytest.mark.slow)], ids=" under ".join
)
def test_trials_that_really_train_and_one_that_is_interrupted(network, tiny, monkeypatch):
    use(tiny.config, *network)
    tiny.config.model.freeze_encoder = True  # compiles in less time
    # What is searched changes nothing, so that the interrupted trial has to equal the other one.
    search = space.parse_search(tiny.config, ["log_every=int:1:1000"])
    tiny = replace(tiny, search=search, trials=2)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests use them too
    validate = loop.Trainer.validate

    def press_ctrl_c(run, variables):
        os.kill(os.getpid(), signal.SIGINT)
        return validate(run, variables)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "validate", press_ctrl_c)
        with pytest.raises(Interrupted, match="stopped at step 4"):
            trials.run(tiny)
    (row,) = read(tiny.folder)["trials"]
    assert row["state"] == "interrupted" and row["mean_iou"] is None

    trials.run(tiny)
    resumed, other = read(tiny.folder)["trials"]
    assert (resumed["state"], other["state"]) == ("complete", "complete")
    assert resumed["params"] == row["params"] != other["params"]
    assert resumed["mean_iou"] == other["mean_iou"] > 0
    with study.open_study(tiny) as opened:
        first, second, third = (trial.intermediate_values for trial in opened.trials)
    assert first == {} and second == third and sorted(third) == [1, 2]
    report = json.loads((tiny.folder / "trials" / "0" / "report" / "val.json").read_text())
    assert report["mean_iou"] == resumed["mean_iou"]
