"""One folder into train, val and test: in the order of the hashes of the names, cut at the shares.

Images that are added or removed therefore move a few others to another split; workdir.py keeps what
a run was trained on, and refuses another division.

Groups of images (config.data.group_by) stay whole: they are put in the order of the hashes of their
names, and shares are counted in images. Val takes, in that order, every group that fits into its
share, then the smallest of the others if that comes closer, or if none fitted; so does test with
what is left. For folds the largest group goes first, each to the fold that has the fewest images.
An image without a group is one of its own.
"""

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from segjax.errors import ConfigError

RULES = ("shares", "thresholds")
Parts = dict[str, list[str]]  # the names of train, val and test
Size = Callable[[str], int]  # how many images a group has


def divide(config: ConfigDict, names: Sequence[str], groups: Sequence[str] = ()) -> Parts:
    """The names of every split of a folder; see config.data for the fields that say how.

    groups: of each name; () where there are none.
    """
    if config.divide not in RULES:
        raise ConfigError(f"config.data.divide is {config.divide!r}; choose one of {RULES}")
    members = defaultdict(list)
    for name, group in zip(names, groups or names, strict=True):
        members[group].append(name)
    drawn = sorted(members, key=lambda group: (draw(config.seed, group), group))

    def size(group: str) -> int:
        return len(members[group])

    by_thresholds = config.divide == "thresholds"
    val, test = (_up_to_thresholds if by_thresholds else _up_to_shares)(config, drawn, size)
    if config.folds:
        val = _folds(_without(drawn, test), config.folds, size)[config.fold]
    parts = {"train": _without(drawn, [*val, *test]), "val": val, "test": test}
    return {split: [n for g in part for n in members[g]] for split, part in parts.items()}


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


def _up_to_shares(
    config: ConfigDict, drawn: Sequence[str], size: Size
) -> tuple[list[str], list[str]]:
    """The groups of val and test, by their shares of the images. With folds there is no val yet."""
    shares = config.val_fraction, config.test_fraction
    wanted = split_counts(sum(map(size, drawn)), *shares)
    # A split gets at least a group, where there are enough of these.
    num_val, num_test = (
        n if at_least else 0
        for n, at_least in zip(wanted, split_counts(len(drawn), *shares), strict=True)
    )
    to_train = int(config.folds > 0 or sum(shares) < 1)
    if config.folds:
        return [], _take(drawn, num_test, to_train, size)
    val = _take(drawn, num_val, to_train + (num_test > 0), size)
    return val, _take(_without(drawn, val), num_test, to_train, size)


def _take(drawn: Sequence[str], count: int, spared: int, size: Size) -> list[str]:
    """The groups that a split of `count` images takes; `spared`: how many it leaves at least."""
    taken, room = [], count
    for group in drawn:
        if size(group) <= room and len(drawn) - len(taken) > spared:
            taken.append(group)
            room -= size(group)
    if room and len(drawn) - len(taken) > spared:
        smallest = min(_without(drawn, taken), key=size)
        if not taken or size(smallest) - room < room:
            taken.append(smallest)
    return taken


def _without(drawn: Sequence[str], taken: Sequence[str]) -> list[str]:
    left_out = {*taken}
    return [group for group in drawn if group not in left_out]


def _folds(drawn: Sequence[str], number: int, size: Size) -> list[list[str]]:
    folds, counts = [[] for _ in range(number)], [0] * number
    for group in sorted(drawn, key=size, reverse=True):  # equal ones stay as they are drawn
        i = counts.index(min(counts))
        folds[i].append(group)
        counts[i] += size(group)
    return folds


def _up_to_thresholds(
    config: ConfigDict, drawn: Sequence[str], size: Size
) -> tuple[list[str], list[str]]:
    """The same where every group goes by its own hash: about the shares, for many groups."""
    start = 0 if config.folds else config.val_fraction
    hashes = {group: draw(config.seed, group) for group in drawn}
    val = [group for group in drawn if hashes[group] < start]
    return val, [group for group in drawn if start <= hashes[group] < start + config.test_fraction]


def draw(seed: int, name: str) -> float:
    """A number in [0, 1) for a file's name, in one Unicode form whichever the file system has.

    A hash depends on neither NumPy's version nor the other files.
    """
    name = unicodedata.normalize("NFC", name)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
