"""The commands in README.md, docs/ and configs/: modules, flags, fields and files exist."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import segjax
from segjax import __main__ as command_line
from segjax import defaults
from segjax.errors import ConfigError
from segjax.runtime import recipes, suggestions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIELDS = set(suggestions.fields(defaults.get_config()))
START = re.compile(r"\s*(?:srun .*?|\S*)\bpython -m segjax\.(\w+) (.*)|\s*segjax (\w+) (.*)")


def commands(path):
    """Entry point and arguments of every command in the code blocks of a page or a docstring."""
    text = path.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL) if path.suffix == ".md" else [text]
    for line in "\n".join(blocks).splitlines():
        if found := START.match(line):
            module, arguments, command, others = found.groups()
            module = module or {"train": "main"}.get(command, command)
            yield module, shlex.split(arguments or others, comments=True)


CASES = [
    (path.relative_to(ROOT), *command)
    for path in [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]
    for command in commands(path)
]


@cache
def flags(module):
    """The names of the flags that an entry point's --help lists."""
    done = subprocess.run(
        [sys.executable, "-m", f"segjax.{module}", "--help"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(re.findall(r"--(?:\[no\])?(\w+)", done.stdout))


def test_commands_are_found_on_every_page():
    pages = {path.name for path, *_ in CASES}
    assert {"README.md", "data.md", "deploy.md", "models.md", "camvid.py"} <= pages


@pytest.mark.parametrize(("path", "module", "arguments"), CASES, ids=str)
def test_a_command_has_the_flags_fields_and_files_that_it_is_given(path, module, arguments):
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        if name.startswith("--config."):
            assert name.removeprefix("--config.") in FIELDS
            continue
        assert name.removeprefix("--") in flags(module)
        if name == "--config":
            assert recipes.load(value or following)
        if name == "--search":
            assert (value or following).partition("=")[0] in FIELDS


def test_every_script_of_experiments_that_is_named_exists():
    for page in PAGES:
        for script in re.findall(r"experiments/[\w/]+\.py", page.read_text()):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"


def test_the_version_to_cite_is_that_of_the_package():
    assert f"\nversion: {segjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_command_segjax_knows_every_entry_point():
    modules = {path.stem for path in Path(segjax.__file__).parent.glob("*.py")}
    modules -= {"__init__", "__main__", "defaults", "errors", "main"}
    assert command_line.COMMANDS.keys() - {"train"} == modules


@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        ([], "  sweep     search", 0),
        (["--version"], f"segjax {segjax.__version__}\n", 0),
        (["trian"], "no command 'trian'; did you mean train?", 1),
        (["train", "--config=quickstrat"], "quickstrat; did you mean quickstart?", 1),
        (["prepare", "--help"], "prepare voc2012 --source DIR", 0),
        (["evaluate", "--split=tset"], "<train|val|test>", 1),
    ],
)
def test_the_command_segjax_runs_entry_points_from_any_folder(arguments, expected, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "segjax", *arguments],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code and expected in done.stdout + done.stderr, done
    assert "Traceback" not in done.stderr


def test_without_optuna_the_sweep_says_what_it_needs():
    code = """
import runpy, sys
sys.modules["optuna"] = None
sys.argv = ["sweep", "--config=quickstart", "--search=loss.dice=float:0:2"]
runpy.run_module("segjax.sweep", run_name="__main__")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("ConfigError: the sweep needs Optuna") and "pip install optuna" in line


def test_a_configuration_is_found_by_name_or_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipes.load("camvid:cpu").data.size == (96, 128)
    assert recipes.load("shapes_gan").gan.objective == "hinge"
    assert recipes.load("camvid_gan:cpu").init_from == "runs/camvid-cpu"
    text = recipes.find("quickstart").read_text()
    (tmp_path / "quickstart").mkdir()  # a folder of the user's is no configuration
    (tmp_path / "mine.py").write_text(text.replace("num_epochs = 4", "num_epochs = 7"))
    assert recipes.load("mine.py").num_epochs == 7
    for name, message in (
        ("quickstrat", "did you mean quickstart"),
        ("configs/camvdi.py", "did you mean camvid"),
        ("quickstart:cpu", "no variant 'cpu'"),
        ("folder:cpu", "has no variants"),
        ("camvid:gpu", "no variant 'gpu'"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipes.load(name)


def test_an_installed_package_brings_its_configurations(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "first.py").write_text("def get_config(): return 1")
    monkeypatch.setattr(recipes, "FOLDER", tmp_path / "configs")
    assert recipes.load("first") == 1 and recipes.names() == ["first"]


def test_fields_are_changed_by_name():
    config = recipes.load("quickstart")
    changed = recipes.changed(config, {"optim.learning_rate": 0.5, "num_epochs": 9})
    assert (changed.optim.learning_rate, changed.num_epochs) == (0.5, 9)
    assert config.num_epochs == 4
    with pytest.raises(ConfigError, match=r"optim\.lr: no such field; did you mean optim\.learn"):
        recipes.changed(config, {"optim.lr": 0.5})
    with pytest.raises(ConfigError, match="num_epochs"):
        recipes.changed(config, {"num_epochs": "many"})


@pytest.mark.parametrize("name", ["check", "prepare"])
def test_the_commands_of_before_say_what_they_are_called_now(name):
    done = subprocess.run(
        [sys.executable, "-m", f"segjax.data.{name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"python -m segjax.{name} now" in done.stderr
