"""The search space: what `--search FIELD=…` means, and a trial's values in a configuration."""

import ast
import re
import shlex
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from segjax.errors import ConfigError
from segjax.runtime import suggestions
from segjax.tuning import SYNTAX


def parse_search(config: ConfigDict, texts: list[str]) -> dict[str, BaseDistribution]:
    """The distribution of every field of `--search`; ConfigError for what cannot be searched.

    Choices stay texts, which any storage can keep.
    """
    search: dict[str, BaseDistribution] = {}
    for text in texts:
        field, _, values = text.partition("=")
        try:
            if field in search:
                raise ValueError("is there twice")
            search[field] = _distribution(_current(config, field), values)
        except ValueError as error:
            raise ConfigError(f"--search {text}: {error}") from error
    if not search:
        raise ConfigError(f"--search is missing: {SYNTAX}")
    return search


def _current(config: ConfigDict, field: str) -> Any:
    """The value of a field; ValueError, with a suggestion, where there is no such field."""
    try:
        value = config[field]
    except (KeyError, TypeError) as error:
        alike = suggestions.text(suggestions.of_field(field, config))
        hint = alike or "; segjax/defaults/ has all"
        raise ValueError(f"the configuration has no field {field!r}{hint}") from error
    if isinstance(value, ConfigDict):
        raise ValueError(f"it is a section; name one of its fields: {', '.join(value)}")
    return value


def _distribution(current: Any, values: str) -> BaseDistribution:
    kind, *limits = values.split(":")
    if kind in ("float", "log", "int"):
        fits = (int,) if kind == "int" else (float,) if kind == "float" else (int, float)
        if type(current) not in fits:
            raise ValueError(f"the field holds {type(current).__name__}, which {kind} does not fit")
        if len(limits) not in ((2, 3) if kind == "int" else (2,)):
            raise ValueError(f"write {SYNTAX}")
        low, high, *step = (_typed(current, limit) for limit in limits)
        if not low < high:
            raise ValueError(f"{low} is not below {high}")
        if step:  # the end, where whole steps do not lead to it
            high = low + (high - low) // max(step[0], 1) * step[0]
            return IntDistribution(low, high, step=step[0])
        return (IntDistribution if type(current) is int else FloatDistribution)(
            low, high, kind == "log"
        )
    choices = re.split(r",(?![^(]*\))", values)  # not at commas in (8,16)
    for choice in choices:
        _typed(current, choice)
    if len(set(choices)) < max(2, len(choices)):
        raise ValueError(f"write {SYNTAX}")
    return CategoricalDistribution(choices)


def _typed(current: Any, text: str) -> Any:
    """The text as a value of the type that the field holds."""
    if isinstance(current, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        value = None
    if type(current) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(current):
        raise ValueError(
            f"{text!r} is no {type(current).__name__}, as the field is; write {SYNTAX}"
        )
    return value


def with_values(config: ConfigDict, params: dict[str, Any]) -> ConfigDict:
    """The configuration with the values of a trial."""
    config = config.copy_and_resolve_references()
    typed = {f: _typed(config[f], v) if isinstance(v, str) else v for f, v in params.items()}
    config.update_from_flattened_dict(typed)
    return config


def as_flags(params: dict[str, Any]) -> str:
    """The values of a trial as flags for segjax.main."""
    return " ".join(f"--config.{field}={shlex.quote(str(v))}" for field, v in params.items())


def suggest(trial: optuna.Trial, field: str, distribution: BaseDistribution) -> Any:
    """The value of a field in a trial."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(field, distribution.choices)
    whole = isinstance(distribution, IntDistribution)
    suggest = trial.suggest_int if whole else trial.suggest_float
    d = distribution
    return suggest(field, d.low, d.high, step=d.step, log=d.log)
