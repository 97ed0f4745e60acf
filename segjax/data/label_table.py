"""Label tables: which raw mask values or colours mean which class."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data.palette import background, default_palette
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import read_text

VOID = 255  # the class id of pixels that count in no loss and no metric
ILLEGAL = -1
BINARY_HINT = 'masks that hold 0 and 255 for two classes need "values": [0, 255]'
KEYS = ("classes", "values", "void", "palette", "colors", "void_colors")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LabelTable:
    """The one look-up from raw masks to class ids 0 … C-1 or VOID, and how to show them.

    names: C class names; palette: uint8 [C, 3], display colours.
    values, void: raw mask values per class (several may share one) and of void pixels.
    colors, void_colors: the same for masks that hold RGB; then `values` and `void` are empty.
    """

    names: tuple[str, ...]
    palette: np.ndarray = field(compare=False)
    values: tuple[tuple[int, ...], ...] = ()
    void: tuple[int, ...] = ()
    colors: tuple[Color, ...] = ()
    void_colors: tuple[Color, ...] = ()

    def encode(self, mask: np.ndarray, where: str) -> np.ndarray:
        """Raw mask, integer [H, W] or RGB [H, W, 3], to class ids, uint8 [H, W].

        Raises DataError, beginning with `where`, for a value or colour outside the table.
        """
        raw = self._raw(mask, where)
        outside = len(self._lookup) - 1
        ids = self._lookup[np.where((raw < 0) | (raw > outside), outside, raw)]
        if (ids == ILLEGAL).any():
            values, counts = np.unique(raw[ids == ILLEGAL], return_counts=True)
            raise DataError(f"{where}: {self._complaint(values, counts)}")
        return ids.astype(np.uint8)

    def count(self, label: np.ndarray) -> np.ndarray:
        """Pixels of every class, int64 [C], in class ids, uint8 [H, W, …]; VOID is not counted.

        Row by row: NumPy would make a copy of 64 bits of all of a scene.
        """
        rows = (np.bincount(row.ravel(), minlength=256) for row in label)
        return sum(rows, np.zeros(256, np.int64))[: len(self.names)]

    @property
    def background(self) -> int | None:
        """The class of everything else, known by its name; None where no class has such a name."""
        return background(self.names)

    def raw(self, class_id: int) -> str:
        """The raw values, or the colour, of a class or of VOID, as text."""
        if class_id == VOID:
            found = self.void_colors or self.void
        else:
            found = [self.colors[class_id]] if self.colors else self.values[class_id]
        return ", ".join(str(value) for value in found) or "none"

    def describe(self) -> str:
        """The whole table as text: raw value or colour → id and name."""
        rows = [(self.raw(i), f"{i:3d} {name}") for i, name in enumerate(self.names)]
        rows.append((self.raw(VOID), f"{VOID:3d} (void)"))
        width = max(len(raw) for raw, _ in rows)
        return "\n".join(f"{raw:>{width}} → {meaning}" for raw, meaning in rows)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back to an equal table."""
        mapping = {"colors": self.colors, "void_colors": self.void_colors}
        if not self.colors:
            mapping = {"values": self.values, "void": self.void}
        return json.dumps({"classes": self.names, "palette": self.palette.tolist()} | mapping)

    @classmethod
    def of_names(cls, names: Sequence[str]) -> "LabelTable":
        """The plain table: raw values 0 … C-1, 255 is void, the default palette."""
        return cls.from_json(json.dumps({"classes": list(names)}))

    @classmethod
    def from_json(cls, text: str, where: str = "label table") -> "LabelTable":
        """Parse the text of a classes.json; DataError names `where` and the key at fault."""
        try:
            spec = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not valid JSON: {error}") from error
        _require(isinstance(spec, dict), where, "classes", "must stand in a JSON object")
        return _parse(spec, where)

    @cached_property
    def _lookup(self) -> np.ndarray:
        # The extra last entry stands for every value beyond 16 bits, or 24 for packed colours.
        lookup = np.full((1 << (24 if self.colors else 16)) + 1, ILLEGAL, np.int16)
        classes = [[color] for color in self.colors] if self.colors else self.values
        for class_id, raw in [*enumerate(classes), (VOID, self.void_colors or self.void)]:
            for value in raw:
                lookup[_pack(np.array(value)) if self.colors else value] = class_id
        return lookup

    def _raw(self, mask: np.ndarray, where: str) -> np.ndarray:
        is_rgb = mask.ndim == 3 and mask.shape[-1] == 3
        whole = mask.dtype.itemsize == 1 if self.colors else mask.dtype.kind in "bui"
        if not (mask.ndim == 2 or is_rgb) or not whole:
            raise DataError(
                f"{where}: the mask is {mask.dtype} {list(mask.shape)}; save integers [H, W], "
                'or 8-bit RGB [H, W, 3] for a table with "colors"'
            )
        if self.colors:
            return _pack(mask if is_rgb else np.stack([mask] * 3, axis=-1))
        if not is_rgb:
            return mask.astype(np.int64)
        if (mask == mask[..., :1]).all():
            return mask[..., 0].astype(np.int64)
        colors, counts = np.unique(_pack(mask), return_counts=True)
        raise DataError(
            f"{where}: an RGB mask ({_listed(_unpack(colors), counts)}), but the label table has "
            'no colours; give one per class under "colors": [[r, g, b], …]'
        )

    def _complaint(self, values: np.ndarray, counts: np.ndarray) -> str:
        if self.colors:
            remedy = 'list them under "colors" or "void_colors"'
            found = f"colours outside the label table: {_listed(_unpack(values), counts)}"
        else:
            remedy = 'give each class its raw value under "values", and add the rest to "void"'
            found = f"values outside the label table: {_listed(values.tolist(), counts)}"
        if len(self.names) == 2 and values.tolist() == [255]:
            remedy = BINARY_HINT
        if len(values) > 16:
            remedy += "; shades between classes come from resizing or JPEG: save the original masks"
        return f"{found}; {remedy}"


def load_table(classes: str, root: str) -> LabelTable:
    """The table of `config.data.classes`: '' (ROOT/classes.json), built-in name, file or JSON."""
    if classes in TABLES:
        return TABLES[classes]
    if classes.lstrip().startswith("{"):
        return LabelTable.from_json(classes, "config.data.classes")
    if classes and not classes.endswith(".json"):
        raise ConfigError(
            f"config.data.classes = {classes!r}: give a built-in table ({', '.join(TABLES)}), "
            "the path of a .json file, or JSON text"
        )
    path = Path(classes or Path(root) / "classes.json")
    if not path.is_file():
        raise DataError(
            f'{path}: no such file; write there {{"classes": ["background", "cell"], '
            '"values": [0, 255]}, with your names and mask values, or set config.data.classes'
        )
    return LabelTable.from_json(read_text(path), str(path))


def _pack(rgb: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(rgb.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue


def _unpack(packed: np.ndarray) -> list[Color]:
    return [(value >> 16, value >> 8 & 255, value & 255) for value in packed.tolist()]


def _listed(values: Iterable[Any], counts: np.ndarray) -> str:
    pairs = [f"{v} ({n} pixels)" for v, n in zip(values, counts, strict=True)]
    return ", ".join(pairs[:8]) + (f" and {len(pairs) - 8} more" if len(pairs) > 8 else "")


def _parse(spec: dict[str, Any], where: str) -> LabelTable:
    _check_entries(spec, where)
    names = spec["classes"]
    colors = [tuple(color) for color in spec.get("colors", [])]
    void_colors = [tuple(color) for color in spec.get("void_colors", [])]
    values = [tuple(_several(v)) for v in spec.get("values", [] if colors else range(len(names)))]

    for key in ("values", "void") if colors else ("void_colors",):
        _require(key not in spec, where, key, 'masks hold either values or "colors", not both')
    for key, claims in (("values", [*chain.from_iterable(values)]), ("colors", colors)):
        twice = [claim for claim, times in Counter(claims).items() if times > 1]
        _require(not twice, where, key, f"{twice} claimed by more than one class")
    claimed = {*chain.from_iterable(values), *colors}
    # 255 is void by custom, unless a class claims it, as in masks of 0 and 255.
    void = spec.get("void", [] if colors or 255 in claimed else [255])
    for key, voids in (("void", void), ("void_colors", void_colors)):
        both = sorted(claimed.intersection(voids))
        _require(not both, where, key, f"{both} stand for a class and for void")
    palette = np.array(spec.get("palette", colors or default_palette(names)), np.uint8)
    return LabelTable(tuple(names), palette, *map(tuple, (values, void, colors, void_colors)))


def _check_entries(spec: dict[str, Any], where: str) -> None:
    for key in spec:
        _require(key in KEYS, where, key, f"unknown key; known are {', '.join(KEYS)}")
        _require(isinstance(spec[key], list), where, key, "must be a list")
    names = spec.get("classes", [])
    _require(all(isinstance(n, str) and n for n in names), where, "classes", "must hold names")
    _require(2 <= len(names) <= 255, where, "classes", f"{len(names)} names; give 2 to 255")
    _require(len(set(names)) == len(names), where, "classes", f"a name stands twice in {names}")
    for key in ("values", "palette", "colors"):
        length = len(spec.get(key, names))
        _require(length == len(names), where, key, f"{length} entries for {len(names)} classes")
    for key in ("palette", "colors", "void_colors"):
        wrong = [entry for entry in spec.get(key, []) if not _is_color(entry)]
        _require(not wrong, where, key, f"{wrong} must be [r, g, b], each 0 to 255")
    values = chain.from_iterable(_several(entry) for entry in spec.get("values", []))
    for key, entries in (("values", values), ("void", spec.get("void", []))):
        wrong = [entry for entry in entries if not _is_integer(entry, 65535)]
        _require(not wrong, where, key, f"{wrong} must be integers from 0 to 65535")


def _require(ok: bool, where: str, key: str, problem: str) -> None:
    if not ok:
        raise DataError(f'{where}, "{key}": {problem}')


def _several(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def _is_integer(value: Any, largest: int) -> bool:
    return type(value) is int and 0 <= value <= largest  # JSON's true is an int to isinstance


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_integer(v, 255) for v in value)


# Every NAME.json in tables/ is a classes.json that configurations name: config.data.classes=NAME.
TABLES = {
    path.stem: LabelTable.from_json(path.read_text(encoding="utf-8"), str(path))
    for path in sorted(Path(__file__).with_name("tables").glob("*.json"))
}
