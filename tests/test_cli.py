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


PAGES = """
import os, sys
from segjax import cli
cli.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_program_starts_anew_once_with_huge_pages_and_the_same_arguments(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PAGES)
    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    plain["PYTHONPATH"] = str(ROOT)

    def printed(*arguments, **options):
        command = [sys.executable, *arguments]
        return subprocess.check_output(command, text=True, timeout=60, **options).strip()

    huge = "glibc.malloc.hugetlb=1"
    assert printed(script, "a b", "--c", env=plain) == f"{huge} ['a b', '--c']"
    own = plain | {"GLIBC_TUNABLES": "glibc.malloc.check=0"}
    assert printed(script, env=own) == "glibc.malloc.check=0 []"
    # What is read from standard input cannot be read again.
    assert printed("-", "a", env=plain, input=PAGES) == "None ['a']"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_a_python_that_clears_the_environment_is_started_anew_once(tmp_path):
    """Otherwise it would be without end."""
    wrapper, script = tmp_path / "python", tmp_path / "script.py"
    wrapper.write_text(f'#!/bin/sh\nexec env -i PYTHONPATH={ROOT} {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    script.write_text(f"import sys\nsys.executable = {str(wrapper)!r}\n{PAGES}")
    command = [wrapper, script, "a"]
    assert subprocess.check_output(command, text=True, timeout=60).strip() == "None ['a']"
