"""Fields of files in JSON, of which nothing is taken for granted."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data.annotations.log import Fault
from segjax.data.annotations.regions import LARGEST
from segjax.runtime.files import read_text

KINDS = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number"}


def load(path: Path) -> Any:
    """The content of a JSON file; Fault if it is none."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Fault(str(path), "not JSON, or cut off", error, "export it again") from error


def field(entry: Any, name: str, kind: type, where: str) -> Any:
    """A field of an object, of the type `kind`; of float also whole numbers, and none but finite.

    Fault that names the field.
    """
    value = entry.get(name) if isinstance(entry, dict) else None
    if not is_a(value, kind):
        expected = f"it has to be {KINDS[kind]}"
        raise Fault(where, f'"{name}" missing, or of another type', value, expected)
    return value


def is_a(value: Any, kind: type) -> bool:
    """Whether a value of JSON is of a type: true is no number, a whole number is one."""
    if kind is float:
        return type(value) in (int, float) and abs(value) <= LARGEST
    return isinstance(value, kind) and type(value) is not bool


def objects(entry: Any, name: str, where: str) -> list[dict[str, Any]]:
    """A field that is a list of objects."""
    values = field(entry, name, list, where)
    wrong = [value for value in values if not isinstance(value, dict)]
    if wrong:
        raise Fault(where, f'"{name}" with an entry that is no object', wrong[0], "export again")
    return values


def points(values: Any, where: str) -> np.ndarray:
    """x, y, x, y … or [x, y], [x, y] … as float [N, 2]; Fault if it is neither, or not finite."""
    try:
        array = np.array(values, float)
    except (ValueError, TypeError, OverflowError) as error:
        raise Fault(where, "points that are no numbers", values, "draw it again") from error
    if array.ndim == 1 and len(array) % 2:
        remedy = "x and y alternate: add what is missing, or remove the region"
        raise Fault(where, "polygon with an odd number of coordinates", len(array), remedy)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 2):
        raise Fault(where, "points that are not x, y", values, "draw it again")
    array = array.reshape(-1, 2)
    far = array[~(np.abs(array) <= LARGEST)]
    if len(far):
        raise Fault(where, "coordinate that is NaN or infinite", far[0], "draw it again")
    return array
