"""Imports point downwards only: entry points, then the rooms in the order of RANKS."""

import ast
from pathlib import Path

import segjax

ROOT = Path(segjax.__file__).parent
# A room imports from the rooms before it, and from itself; rooms of one line not from each other.
RANKS = (
    {"errors", "defaults"},
    {"runtime"},
    {"models", "data"},
    {"run"},
    {"evaluation", "weights"},
    {"training", "inference"},
    {"tuning"},
)


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
ROOMS = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
ENTRY_POINTS = {name for name in IMPORTS if name.count(".") == 1} - {f"segjax.{r}" for r in ROOMS}


def room(module):
    return module.split(".")[1] if "." in module else ""


def within(names, *packages):
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)}


def test_every_room_has_a_place_in_the_order():
    folders = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")}
    assert folders == ROOMS.keys() - {"errors"}


def test_imports_point_downwards():
    upwards = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in within(names, "segjax")
        if room(module) in ROOMS and room(name) and room(name) != room(module)
        if ROOMS.get(room(name), len(RANKS)) >= ROOMS[room(module)]
    ]
    assert upwards == []


def test_segjax_imports_neither_configs_nor_tensorflow():
    for module, names in IMPORTS.items():
        assert not within(names, "configs", "tensorflow"), module


def test_only_the_runtime_knows_the_command_line():
    for module in IMPORTS.keys() - ENTRY_POINTS:
        if room(module) != "runtime":
            assert not within(IMPORTS[module], "absl"), module


def test_nothing_imports_an_entry_point():
    for module, names in IMPORTS.items():
        assert not within(names, *ENTRY_POINTS), module
