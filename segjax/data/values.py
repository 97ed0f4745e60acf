"""Whether images use the values that their type has, as 12 bits in a file of 16 do not."""

from dataclasses import dataclass, field

from segjax.data.decode import Stored
from segjax.data.problems import Problems

COMMON = (4095, 16383)  # of cameras with 12 and 14 bits
DEEP = 65535  # the largest value of 16 bits
Values = dict[str, list]  # by `Stored.kind`: count, low, high, largest


@dataclass
class Census:
    """What the images of a split hold; `beyond`: those with values outside `value_range`."""

    value_range: tuple[float, ...]
    values: Values = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    extremes: tuple[float, float] = (float("inf"), float("-inf"))

    def add(self, name: str, stored: Stored) -> None:
        """Counts one image."""
        kind, low, high, largest, turned = stored
        count, least, most, _ = self.values.get(kind, (0, low, high, largest))
        self.values[kind] = [count + 1, min(low, least), max(high, most), largest]
        if turned:
            self.turned.append(name)
        if self.value_range and (low < self.value_range[0] or high > self.value_range[1]):
            self.beyond.append(name)
            self.extremes = min(low, self.extremes[0]), max(high, self.extremes[1])

    def warnings(self, split: str) -> list[str]:
        """What people should know of a split."""
        found = []
        if self.turned:
            found.append(
                f"{split}: a tag (EXIF) turns or mirrors {len(self.turned)} images, such as "
                f"{', '.join(self.turned[:3])}; their masks have to be turned in the same way"
            )
        if self.beyond:
            low, high = self.extremes
            found.append(
                f"{split}: {len(self.beyond)} images, such as {', '.join(self.beyond[:3])}, have "
                f"values from {low} to {high}; what lies outside config.data.value_range = "
                f"{self.value_range} is clipped"
            )
        return found


def describe(split: str, values: Values) -> list[str]:
    """A line for every kind of file in a split."""
    return [
        f"{split}: {count} × {kind}, values {low} … {high}"
        for kind, (count, low, high, _) in values.items()
    ]


def dark_inputs(values: Values) -> list[str]:
    """Warnings about images to predict, for a network that was trained without a value range."""
    return [
        f"images of up to {largest} hold no value above {high}, and are dark to this network, "
        "which was trained without config.data.value_range: scale their values as for its training"
        for largest, high in _highest(values).items()
        if largest == DEEP and high < largest / 2
    ]


def _highest(values: Values) -> dict[int, float]:
    """The highest value of all files of a type, by the largest that it has."""
    found: dict[int, float] = {}
    for _, _, high, largest in values.values():
        if largest:
            found[largest] = max(high, found.get(largest, high))
    return found


def judge(splits: dict[str, Values], stops: bool, problems: Problems, warnings: list[str]) -> None:
    """Reports images that are dark because no `config.data.value_range` was given.

    Sixteen bits of which less than half are used are a problem if it `stops`, before training: the
    network would see a few of their levels. All others may just be dark: a warning.
    """
    highest = {split: _highest(values) for split, values in splits.items()}
    for largest in sorted({largest for found in highest.values() for largest in found}):
        deep = largest == DEEP
        limit = largest / (2 if deep else 4)
        dark = {
            s: found[largest] for s, found in highest.items() if found.get(largest, limit) < limit
        }
        advice = _advice(max(dark.values(), default=0))
        for split, high in dark.items():
            message = (
                f"{split}: images of up to {largest} hold no value above {high}, and would "
                f"be dark; set config.data.value_range={advice}, or 0,{largest} to keep them so"
            )
            if deep and stops:
                problems.add(message)
            else:
                warnings.append(message)


def _advice(high: float) -> str:
    return f"0,{next((top for top in COMMON if top / 2 < high <= top), max(high, 1))}"
