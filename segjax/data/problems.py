"""What is wrong with data, gathered by kind, so that many of one kind do not hide another."""

import re
from collections import defaultdict
from collections.abc import Sequence

from segjax.errors import DataError

MOST_SHOWN = 20  # of a kind


def some(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], f"… and {more} more of this kind"] if more > 0 else list(lines)


class Problems:
    """Messages, each once; those that differ only in the file and in numbers are of one kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, None]] = defaultdict(dict)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, message: str, kind: str = "") -> None:
        """Adds a message, FILE: WHAT …; if no kind is given it is WHAT up to the first value."""
        what = message.split(": ", 1)[-1]
        self._kinds[kind or re.split(r"[:;(\d]", what)[0]][message] = None

    def raise_if_any(self) -> None:
        """Raises one DataError that lists all kinds."""
        if self:
            lines = [line for kind in self._kinds.values() for line in some([*kind])]
            shown = "\n".join(f"- {line}" for line in lines)
            raise DataError(f"problems in the data:\n{shown}")
