import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    ("arguments", "told"),
    [
        ([], ["--config is missing"]),
        ([QUICKSTART, "--config.optim.learning_rat=1"], ["learning_rat", '"learning_rate"']),
        ([QUICKSTART, "--config.optm.learning_rate=1"], ["optm", '"optim"']),
        ([QUICKSTART, "--config.batch_size=many"], ["config.batch_size=many"]),
        ([QUICKSTART, "--config.batch_size=2.5"], ["config.batch_size=2.5"]),
        ([QUICKSTART, "--workdri=runs/x"], ["workdri", "Did you mean: workdir"]),
        ([QUICKSTART, "runs/x"], ["unexpected argument 'runs/x'", "--name=value"]),
        (["--config=configs/nope.py"], ["No such file", "configs/nope.py"]),
        (["--config=configs/nope.py", "--config.seed=1"], ["No such file", "configs/nope.py"]),
        (["--config=configs/camvid.py:gpu"], ["no variant 'gpu'", ":cpu"]),
        (["--config=configs/quickstart.py:cpu"], ["quickstart.py:cpu", "has no variants"]),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line_and_at_once(arguments, told):
    done = run("main", *arguments)
    message, packages = split_errors(done)
    assert done.returncode == 1
    first, *rest = message.splitlines()
    assert all(part in first for part in told), message
    assert rest in ([], ["See --help."])
    assert "absl" in packages and "jax" not in packages


@pytest.mark.parametrize(
    ("module", "flags"),
    [("main", ["--config", "--workdir"]), ("evaluate", ["--workdir", "--split", "--checkpoint"])],
)
def test_help_shows_examples_and_flags_at_once(module, flags):
    done = run(module, "--help")
    assert f"python -m segjax.{module} --" in done.stdout
    assert all(f"\n  {flag}: " in done.stdout for flag in flags)
    assert "jax" not in split_errors(done)[1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--workdir is missing"),
        (["--split=tset"], "<train|val|test>"),
        (["--workdir=configs"], "configs/config.json is missing; train first"),
    ],
)
def test_evaluate_says_which_run_it_lacks(arguments, told):
    done = run("evaluate", *arguments)
    message, _ = split_errors(done)
    assert done.returncode == 1
    assert told in message and "Traceback" not in message


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
    done = run("main", *TINY, "--config.model.width=0.6", f"--workdir={tmp_path}/run")
    message, _ = split_errors(done)
    assert done.returncode == 1
    (line,) = message.splitlines()
    assert line.startswith("ConfigError: config.model.width is 0.6; choose one of")
    assert not (tmp_path / "run").exists()
