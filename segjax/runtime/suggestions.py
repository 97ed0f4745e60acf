"""What a mistyped field, flag or file of the command line may have meant."""

from collections.abc import Iterator
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from ml_collections import ConfigDict

from segjax.defaults import MOVED

MOST = 3


def fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The names of all fields, as --config.NAME sets them."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def of_field(wanted: str, config: ConfigDict) -> list[str]:
    """Today's name of a field, or fields alike: in spelling, by name, by initials (lr)."""
    if wanted in MOVED:
        return [MOVED[wanted]]
    name = wanted.rpartition(".")[2]
    known = sorted(fields(config), key=lambda field: -SequenceMatcher(None, field, wanted).ratio())
    last = {field: field.rpartition(".")[2] for field in known}
    close = get_close_matches(name, set(last.values()), 1, 0.75)
    for alike in (
        [field for field in known if last[field] == name],
        get_close_matches(wanted, known, MOST, 0.85),
        [field for field in known if last[field] in close],
        [field for field in known if _initials(last[field]) == name],
    ):
        if alike:
            return alike[:MOST]
    return []


def of_file(path: str, suffix: str = ".py", usual: str = "configs") -> list[str]:
    """Files alike in the folder of a path, or in the `usual` one."""
    folder, name = Path(path).parent, Path(path).stem
    found = [file for place in (folder, Path(usual)) for file in sorted(place.glob(f"*{suffix}"))]
    alike = get_close_matches(name, {file.stem for file in found}, 1)
    return [str(file) for file in found if file.stem in alike][:1]


def text(alike: list[str], before: str = "") -> str:
    """The end of a message: '; did you mean A or B?', or nothing."""
    return f"; did you mean {' or '.join(before + name for name in alike)}?" if alike else ""


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))
