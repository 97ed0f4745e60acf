"""Paths and texts as people write them (~, byte-order marks), and files written in one step."""

import codecs
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax.errors import ConfigError, DataError


def expand(value: str) -> str:
    """A value that begins with ~, with the home folder in its place; as in a shell, ~NAME without
    such a user stays as it is. ConfigError for ~ where the system knows no home folder."""
    expanded = os.path.expanduser(value)
    if expanded == value and (value == "~" or value.startswith("~/")):
        raise ConfigError(f"{value}: there is no home folder (HOME is not set); write the path out")
    return expanded


def expand_argument(argument: str) -> str:
    """The same for an argument of a command line, VALUE or --NAME=VALUE: no other value begins
    with ~, so that no path can be forgotten."""
    name, equals, value = argument.partition("=")
    if not (argument.startswith("-") and equals):
        return expand(argument)
    try:
        return name + equals + expand(value)
    except ConfigError as error:
        raise ConfigError(f"{name}={error}") from error


def expand_config(config: ConfigDict | dict) -> None:
    """The same for every text in a configuration, in place."""
    for name, value in config.items():
        if isinstance(value, ConfigDict | dict):
            expand_config(value)
        elif isinstance(value, str) and value.startswith("~"):
            config[name] = expand(value)


def expanded(config: ConfigDict) -> ConfigDict:
    """A copy of a configuration in which that is done."""
    config = config.copy_and_resolve_references()
    expand_config(config)
    return config


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in what its byte-order mark says (UTF-8 or UTF-16).

    Raises DataError that names the file for any other encoding.
    """
    content = path.read_bytes()
    has_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if has_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not text in UTF-8 (byte {error.start} is {content[error.start]:#04x}); save "
            "it in that encoding"
        ) from error


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Writes JSON in one step, so that no reader sees half a file; NaN and infinity become null."""
    path = make_parent(path)
    content = json.loads(json.dumps(content), parse_constant=lambda constant: None)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def make_parent(path: str | Path) -> Path:
    """The path, its folder made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
