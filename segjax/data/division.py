"""One folder into train, val and test: in the order of the hashes of the names, cut at the shares.

Images that are added or removed therefore move a few others to another split; workdir.py keeps what
a run was trained on, and refuses another division.
"""

import hashlib
import math
import unicodedata
from collections.abc import Sequence

from ml_collections import ConfigDict

from segjax.errors import ConfigError

RULES = ("shares", "thresholds")
Parts = dict[str, list[str]]  # the names of train, val and test


def divide(config: ConfigDict, names: Sequence[str]) -> Parts:
    """The names of every split of a folder; see config.data for the fields that say how."""
    drawn = sorted(names, key=lambda name: (draw(config.seed, name), name))
    if config.divide not in RULES:
        raise ConfigError(f"config.data.divide is {config.divide!r}; choose one of {RULES}")
    if config.divide == "thresholds":
        num_val, num_test = _up_to_thresholds(config, drawn)
    else:
        num_val, num_test = split_counts(len(drawn), config.val_fraction, config.test_fraction)
    if config.folds:
        # The test comes first: it is the same in all folds. Val is every `folds`-th of the rest.
        rest = drawn[num_test:]
        val, test = rest[config.fold :: config.folds], drawn[:num_test]
    else:
        val, test = drawn[:num_val], drawn[num_val : num_val + num_test]
    held_out = {*val, *test}
    return {"train": [n for n in drawn if n not in held_out], "val": val, "test": test}


def split_counts(count: int, val_fraction: float, test_fraction: float) -> tuple[int, int]:
    """How many of `count` images are val and test: the shares, rounded (half up).

    Each is at least 1 where its share is above 0, and train is left at least 1 where its share is;
    where there are too few images for all three, first test and then val get none.
    """
    shares = {"val": val_fraction, "test": test_fraction}
    counts = {s: max(math.floor(count * x + 0.5), int(x > 0)) for s, x in shares.items()}
    room = count - (val_fraction + test_fraction < 1)
    while sum(counts.values()) > max(room, 0):
        counts["test" if counts["test"] >= counts["val"] else "val"] -= 1
    return counts["val"], counts["test"]


def _up_to_thresholds(config: ConfigDict, drawn: Sequence[str]) -> tuple[int, int]:
    """The same where every image goes by its own hash: about the shares, for many images."""
    hashes = [draw(config.seed, name) for name in drawn]
    if config.folds:
        return 0, sum(at < config.test_fraction for at in hashes)
    num_val = sum(at < config.val_fraction for at in hashes)
    held_out = sum(at < config.val_fraction + config.test_fraction for at in hashes)
    return num_val, held_out - num_val


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) for a file's name, in one Unicode form whichever the file system has.

    A hash depends on neither NumPy's version nor the other files.
    """
    name = unicodedata.normalize("NFC", name)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
