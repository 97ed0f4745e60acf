"""Imports point downwards only: entry points, train, steps, then what they are made of."""

import ast
from pathlib import Path

import segjax

ROOT = Path(segjax.__file__).parent
ENTRY_POINTS = {f"segjax.{name}" for name in ("main", "evaluate", "predict", "export")}


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module and every name of a module that a file imports, at the top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


IMPORTS = {module_name(path): imports(path) for path in ROOT.rglob("*.py")}


def within(names, *packages):
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)}


def test_segjax_imports_neither_configs_nor_tensorflow():
    for module, names in IMPORTS.items():
        assert not within(names, "configs", "tensorflow"), module


def test_models_know_nothing_of_training_and_data():
    for module in within(IMPORTS, "segjax.models"):
        own = within(IMPORTS[module], "segjax")
        assert own == within(own, "segjax.models", "segjax.errors"), module


def test_data_know_nothing_of_models_and_training():
    above = (
        "models",
        "train",
        "steps",
        "gan_step",
        "state",
        "setup",
        "losses",
        "optim",
        "evaluator",
    )
    for module in within(IMPORTS, "segjax.data"):
        assert not within(IMPORTS[module], *(f"segjax.{name}" for name in above)), module


def test_leaves_import_nothing_of_segjax():
    for module in ("errors", "iou"):
        assert not within(IMPORTS[f"segjax.{module}"], "segjax"), module


def test_nothing_imports_an_entry_point():
    for module, names in IMPORTS.items():
        assert not within(names, *ENTRY_POINTS), module


def test_only_entry_points_import_the_training_loop():
    importers = {module for module, names in IMPORTS.items() if within(names, "segjax.train")}
    assert importers and importers <= ENTRY_POINTS
