import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from segjax import defaults
from segjax.run import workdir
from segjax.runtime import cli
from segjax.runtime.files import expand

ROOT = Path(__file__).parents[1]
QUICKSTART = "--config=configs/quickstart.py"
TINY = (QUICKSTART, "--config.data.num_train=16", "--config.data.num_val=6")


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"segjax.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def split_errors(done):
    """What a program wrote on stderr, and the names of the packages that it imported."""
    lines = done.stderr.splitlines()
    timed = [line for line in lines if line.startswith("import time:")]
    packages = {line.rpartition("|")[2].strip().partition(".")[0] for line in timed}
    return "\n".join(line for line in lines if line not in timed), packages


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--config is missing"]),
        (
            [QUICKSTART, "--config.optim.learning_rat=1"],
            ["optim.learning_rat:", "mean --config.optim.learning_rate?"],
        ),
        (
            [QUICKSTART, "--config.optm.learning_rate=1"],
            ["optm", "mean --config.optim.learning_rate"],
        ),
        (
            [QUICKSTART, "--config.optim.lr=1"],
            ["optim.lr: no", "mean --config.optim.learning_rate"],
        ),
        ([QUICKSTART, "--config.model.decoder_channels=8"], ["mean --config.model.unet.channels?"]),
        ([QUICKSTART, "--config.classes=camvid"], ["mean --config.data.classes?"]),
        ([QUICKSTART, "--confg.batch_size=2"], ["confg.batch_size", "mean --config.batch_size?"]),
        ([QUICKSTART, "--batch_size=2"], ["'batch_size'", "mean --config.batch_size or"]),
        ([QUICKSTART, "--config.optim=adamw"], ["config.optim is a section", "learning_rate"]),
        (["--config", "configs/foldr.py"], ["foldr.py", "mean configs/folder.py?"]),
        (["--config=quickstrat"], ["No such file", "quickstrat; did you mean quickstart?"]),
        ([QUICKSTART, "--config.batch_size=many"], ["config.batch_size=many"]),
        ([QUICKSTART, "--config.batch_size=2.5"], ["config.batch_size=2.5"]),
        ([QUICKSTART, "--workdri=runs/x"], ["workdri", "Did you mean: workdir"]),
        ([QUICKSTART, "runs/x"], ["unexpected argument 'runs/x'", "--name=value"]),
        (["--config="], ["--config"]),
        (["--config=quickstart", "--config=nope"], ["No such file", "nope"]),
        (["--config=configs/nope.py"], ["No such file", "configs/nope.py"]),
        (["--config=configs/nope.py", "--config.seed=1"], ["No such file", "configs/nope.py"]),
        (["--config=configs/camvid.py:gpu"], ["no variant 'gpu'", ":cpu"]),
        (["--config=configs/quickstart.py:cpu"], ["no variant 'cpu'", ":segformer"]),
        (["--config=configs/folder.py:cpu"], ["folder.py:cpu", "has no variants"]),
    ],
)
def test_a_mistake_on_the_command_line_is_reported_in_one_line_and_at_once(arguments, expected):
    done = run("main", *arguments)
    message, packages = split_errors(done)
    assert done.returncode == 1
    first, *rest = message.splitlines()
    assert all(part in first for part in expected), message
    assert rest in ([], ["See --help."])
    assert "absl" in packages and "jax" not in packages


@pytest.fixture
def parse(monkeypatch):
    """Parses arguments as the command line of a program with --config and --workdir."""

    def parse(*arguments):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        monkeypatch.setattr(cli, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        cli._parse(["main", *arguments])
        return values

    monkeypatch.chdir(ROOT)
    return parse


def test_one_number_is_a_square(parse):
    parse(QUICKSTART, "--config.data.size=256")
    assert cli.config().data.size == (256, 256)
    parse(QUICKSTART, "--config.data.size=256,320")
    assert cli.config().data.size == (256, 320)


def test_a_tilde_is_the_home_folder_in_every_flag_and_field(parse, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = (ROOT / "configs/quickstart.py").read_text()
    text = text.replace("    return config", "    config.init_from = '~/run'\n    return config")
    (tmp_path / "mine.py").write_text(text)
    changed = ("data.root", "data.name", "data.classes", "pretrained.path")
    values = parse("--config=~/mine.py", "--workdir=~/x", *(f"--config.{f}=~/{f}" for f in changed))
    config = cli.config()
    assert values.workdir == f"{tmp_path}/x" and config.init_from == f"{tmp_path}/run"
    assert [config[s][f] for s, f in (field.split(".") for field in changed)] == [
        f"{tmp_path}/{field}" for field in changed
    ]
    assert parse("--workdir", "~/y").workdir == f"{tmp_path}/y"
    assert parse("--workdir=a/~/b").workdir == "a/~/b"
    assert expand("~nobody-of-this-name/x") == "~nobody-of-this-name/x"


def test_paths_of_earlier_runs_are_expanded_and_equal_the_new_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = defaults.get_config()
    run = tmp_path / "run"
    (run / "checkpoints" / "1").mkdir(parents=True)
    config.pretrained.path = "~/w.pth"
    (run / "config.json").write_text(config.to_json_best_effort())
    config.pretrained.path = f"{tmp_path}/w.pth"
    workdir.require_same_run(run, config)


def test_without_home_and_user_programs_run_and_a_tilde_is_refused():
    code = """
import os, pwd, runpy, sys
del os.environ["HOME"]
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
sys.argv = ["main", *sys.argv[1:]]
runpy.run_module("segjax.main", run_name="__main__")
"""
    for argument, expected in (
        ("--help", "--workdir"),
        ("--workdir=~/x", "there is no home folder"),
    ):
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert expected in done.stdout + done.stderr and "Traceback" not in done.stderr, done


@pytest.mark.parametrize(
    ("module", "names"),
    [("main", ["--config", "--workdir"]), ("evaluate", ["--workdir", "--split", "--checkpoint"])],
)
def test_help_shows_examples_and_flags_at_once(module, names):
    done = run(module, "--help")
    assert done.returncode == 0
    assert f"python -m segjax.{module} --" in done.stdout
    assert all(f"\n  {flag}: " in done.stdout for flag in names)
    assert "jax" not in split_errors(done)[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give --workdir, the folder of a run, or --pretrained, weights of another library"),
        (["--split=tset"], "<train|val|test>"),
        (["--workdir=configs"], "configs/config.json is missing; train first"),
    ],
)
def test_evaluate_says_which_run_it_lacks(arguments, expected):
    done = run("evaluate", *arguments)
    message, _ = split_errors(done)
    assert done.returncode == 1
    assert expected in message and "Traceback" not in message


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    done = run("main", *TINY, f"--workdir={path}")
    message, _ = split_errors(done)
    assert done.returncode == 1
    assert message.splitlines() == [
        f"ConfigError: --workdir {path} cannot be written (File exists); choose another"
    ]
    assert path.read_text() == "mine"


def test_a_value_that_cannot_work_is_refused_before_anything_is_written(tmp_path):
    done = run("main", *TINY, "--config.model.mobilenet_v2.width=0.6", f"--workdir={tmp_path}/run")
    message, _ = split_errors(done)
    assert done.returncode == 1
    (line,) = message.splitlines()
    assert line.startswith("ConfigError: config.model.mobilenet_v2.width is 0.6; choose one of")
    assert not (tmp_path / "run").exists()
