"""Configurations by name, camvid or camvid:cpu, or by file, mine.py or mine.py:variant."""

import inspect
import runpy
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax.errors import ConfigError
from segjax.runtime import suggestions

ROOT = Path(__file__).parents[1]
IN_CLONE = (ROOT.parent / "pyproject.toml").is_file()
FOLDER = (ROOT.parent if IN_CLONE else ROOT) / "configs"


def names() -> list[str]:
    """The configurations that come with segjax."""
    found = {path.stem for path in FOLDER.glob("*.py")}
    return sorted(found - {"common", "__init__"})


def find(name: str) -> Path:
    """The file of a configuration: that of this path, or segjax's own of this name.

    Raises ConfigError, with a suggestion, where there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    if name in names():
        return FOLDER / f"{name}.py"
    alike = suggestions.of_file(name) if Path(name).suffix else []
    alike = alike or get_close_matches(Path(name).stem, names(), 1)
    raise ConfigError(
        f"No such file, nor a configuration of segjax: {name}{suggestions.text(alike)}"
    )


def load(name: str) -> ConfigDict:
    """The configuration NAME[:VARIANT] or FILE.py[:VARIANT].

    >>> load("camvid:cpu").data.size
    (96, 128)

    Raises ConfigError for a file or a variant that does not exist.
    """
    path, _, variant = name.partition(":")
    get_config = runpy.run_path(str(find(path)))["get_config"]
    if variant and not inspect.signature(get_config).parameters:
        raise ConfigError(f"{name}: this configuration has no variants")
    return get_config(*filter(None, [variant]))


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with other values of some fields: {"optim.learning_rate": 1e-3}.

    Raises ConfigError, with a suggestion, for a field that does not exist, and for another type.
    """
    config, known = config.copy_and_resolve_references(), set(suggestions.fields(config))
    for field in changes:
        if field not in known:
            alike = suggestions.text(suggestions.of_field(field, config))
            raise ConfigError(f"config.{field}: no such field{alike}")
    try:
        config.update_from_flattened_dict(dict(changes))
    except TypeError as error:
        raise ConfigError(f"a changed field of the configuration: {error}") from error
    return config
