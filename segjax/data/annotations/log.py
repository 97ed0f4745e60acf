"""What is wrong with annotations, and what of them is not used."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from segjax.data.problems import Problems
from segjax.errors import DataError

UNREADABLE = "unreadable file"
LONGEST = 400  # of a value in a message


class Fault(DataError):
    """A fault in a file of annotations: where, its reason, the value at fault, and the remedy.

    reason: the same for all faults of a kind, by which they are counted.
    """

    def __init__(self, where: str, reason: str, value: object, remedy: str) -> None:
        text = str(value)
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        super().__init__(f"{where}: {reason}: {shown}; {remedy}")
        self.reason = reason


class Log:
    """Counts by reason, with the first place of each; with `skip` faults are counted, too.

    dropped: what is in no mask. notes: what is in the masks, but not as it was drawn.
    """

    def __init__(self, skip: bool = False) -> None:
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.problems = Problems()
        self._skip = skip

    def drop(self, reason: str, where: str) -> None:
        """Counts what is in no mask."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, where)

    def note(self, reason: str, where: str) -> None:
        """Counts what is in a mask, but not as it was drawn."""
        self.notes[reason] += 1
        self.first.setdefault(reason, where)

    def fault(self, error: Exception) -> None:
        """Keeps a fault for `problems`; or counts it as dropped."""
        reason = getattr(error, "reason", UNREADABLE)
        if self._skip:
            self.drop(reason, str(error))
        else:
            self.problems.add(str(error), reason)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """What fails inside is a fault, and the rest of the block is left out."""
        try:
            yield
        except (DataError, OSError) as error:
            self.fault(error)

    def counts(self) -> dict[str, dict[str, dict[str, int | str]]]:
        """What is counted, for a report in JSON."""
        return {
            name: {reason: {"count": n, "first": self.first[reason]} for reason, n in count.items()}
            for name, count in (("dropped", self.dropped), ("notes", self.notes))
        }
