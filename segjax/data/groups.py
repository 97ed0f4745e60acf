"""Which images belong together, such as the slices of a patient: no group may be in two splits."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.problems import Problems
from segjax.errors import ConfigError, DataError

# What names of tiles and of slices look like; both give the name of the whole.
LIKELY = (r"(.+)_r\d+_c\d+$", r"(.*\D)\d+$")
FEWEST_GROUPS, FEWEST_IMAGES = 3, 3  # that are worth a warning; images of each, on average


def compiled(group_by: str) -> re.Pattern[str]:
    """`config.data.group_by`; ConfigError where it is no regular expression."""
    try:
        return re.compile(group_by)
    except re.error as error:
        raise ConfigError(
            f"config.data.group_by is {group_by!r}; it must be a regular expression: {error}"
        ) from error


def of_names(names: Sequence[str], group_by: str) -> tuple[str, ...]:
    """The group of every name, by `config.data.group_by`; () where that is empty.

    It is the expression's first group or, where it has none or that took no part, the whole match.
    Raises DataError that lists the names that do not match.
    """
    if not group_by:
        return ()
    pattern = compiled(group_by)
    matches = [pattern.search(name) for name in names]
    wrong = [name for name, match in zip(names, matches, strict=True) if not match]
    if wrong:
        raise DataError(
            f"config.data.group_by = {group_by!r} does not match {len(wrong)} of {len(names)} "
            f"names: {', '.join(wrong[:20])}; correct it, or add |.+ to make each a group"
        )
    return tuple((match.groups() and match[1]) or match[0] for match in matches)


def judge(sources: Mapping[str, Any], problems: Problems) -> None:
    """Adds a problem for every group that is in two splits; sources: see `Source`, by split."""
    first_seen: dict[str, tuple[str, str]] = {}
    for split, source in sources.items():
        groups = getattr(source, "groups", ())
        for name, group in zip(source.names, groups, strict=True) if groups else ():
            other_split, other = first_seen.setdefault(group, (split, name))
            if other_split != split:
                problems.add(
                    f"group {group!r} is in {other_split} ({other}) and in {split} ({name}); "
                    "move its images into one split",
                    "a group in two splits",
                )


def warn(sources: Mapping[str, Any]) -> list[str]:
    """A warning where the parts of one folder, without groups, seem to share slices or tiles."""
    if any(source.groups for source in sources.values()):
        return []
    split_of = {name: split for split, source in sources.items() for name in source.names}
    for expression in LIKELY:
        members = defaultdict(list)
        for name in split_of:
            match = re.search(expression, name)
            members[match[1] if match else name].append(name)
        apart = (
            (names[0], name)
            for names in members.values()
            for name in names
            if split_of[name] != split_of[names[0]]
        )
        pair = next(apart, None)
        if pair and FEWEST_GROUPS <= len(members) <= len(split_of) / FEWEST_IMAGES:
            shown = " and ".join(f"{name} ({split_of[name]})" for name in pair)
            rest = "" if all(re.search(expression, name) for name in split_of) else "|.+"
            return [
                f"{shown}: if these are slices or tiles of one thing, scores are too good; set "
                f"config.data.group_by='{expression}{rest}'"
            ]
    return []
