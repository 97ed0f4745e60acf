"""What `import segjax` gives: the calls of a notebook, as their docstrings show them."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segjax
from segjax.errors import ConfigError
from segjax.runtime import recipes

ROOT = Path(__file__).parents[1]
TINY = {
    "num_epochs": 1,
    "batch_size": 4,
    "parallel": "jit",
    "data.size": (32, 32),
    "data.num_train": 8,
    "data.num_val": 4,
    "data.allow_missing_classes": True,
    "eval.batch_size": 4,
}


def example(function):
    """The indented lines of a docstring before its arguments."""
    text = textwrap.dedent(function.__doc__.partition("\n")[2]).partition("Args:")[0]
    return textwrap.dedent("\n".join(line for line in text.splitlines() if line.startswith("    ")))


def test_the_examples_of_the_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quickstart = recipes.load("quickstart")
    quickstart = recipes.changed(quickstart, TINY)
    monkeypatch.setattr(recipes, "load", lambda name: {"quickstart": quickstart}[name])
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Path("photos").mkdir()
    Image.fromarray(image).save("photos/a.png")
    names = {"segjax": segjax, "image": image}
    for function in (segjax.train, segjax.evaluate, segjax.load, segjax.predict):
        code = compile(example(function), function.__name__, "exec")
        assert code.co_names
        exec(code, names)
    assert names["report"]["num_images"] == 4
    assert names["label"].shape == (40, 30) and names["picture"].shape == image.shape
    assert Path("out/a_overlay.png").is_file() and len(names["summary"]["images"]) == 1


def test_a_field_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.num_epoch: .* did you mean num_epochs"):
        segjax.train("quickstart", tmp_path / "run", {"num_epoch": 1})
    assert not (tmp_path / "run").exists()


def test_importing_segjax_imports_nothing_that_is_slow():
    code = "import sys, segjax; assert not {'jax', 'numpy', 'absl'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
