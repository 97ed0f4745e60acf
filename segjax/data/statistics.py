"""What the channels of images hold: mean, standard deviation, range and percentiles."""

from typing import NamedTuple

import numpy as np

PERCENTILES = {"p0.5": 0.5, "median": 50, "p99.5": 99.5}
PER_IMAGE = 2048  # pixels of an image that percentiles are made of, evenly from all of it


class Statistics(NamedTuple):
    """Of the pixels that have data; float64 [C] but count: an integer, and sampled: [N, C]."""

    count: int
    mean: np.ndarray
    squares: np.ndarray  # summed deviations from the mean, squared
    low: np.ndarray
    high: np.ndarray
    sampled: list[np.ndarray]

    @classmethod
    def of(cls, image: np.ndarray, missing: np.ndarray | None) -> "Statistics | None":
        """Of an image [H, W, C] but where it is `missing`; None where all of it is."""
        values = image.reshape(-1, image.shape[-1]) if missing is None else image[~missing]
        if not len(values):
            return None
        sampled = values[:: max(1, len(values) // PER_IMAGE)]
        values = values.astype(np.float64)
        mean = values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        return cls(len(values), mean, squares, values.min(0), values.max(0), [sampled])

    def added_to(self, other: "Statistics | None") -> "Statistics":
        """Of both together: Chan, Golub and LeVeque, 1983."""
        if other is None:
            return self
        count, shift = self.count + other.count, self.mean - other.mean
        return Statistics(
            count,
            other.mean + shift * (self.count / count),
            self.squares + other.squares + shift**2 * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            other.sampled + self.sampled,
        )

    def summary(self) -> dict[str, list[float]]:
        """mean, std, low, high and PERCENTILES, of every channel."""
        sampled = np.concatenate(self.sampled)
        found = {"mean": self.mean, "std": np.sqrt(self.squares / self.count), "low": self.low}
        found |= {name: np.percentile(sampled, at, axis=0) for name, at in PERCENTILES.items()}
        return {name: array.tolist() for name, array in (found | {"high": self.high}).items()}


def describe(split: str, summary: dict[str, list[float]]) -> list[str]:
    """A line for every channel of a split."""
    channels = len(summary.get("mean", []))
    return [
        f"{split}: channel {i + 1}: "
        + ", ".join(f"{name} {values[i]:.6g}" for name, values in summary.items())
        for i in range(channels)
    ]
