"""Every example of every split, decoded once and counted."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from segjax.data import values
from segjax.data.counts import Report
from segjax.data.decode import Decoded, Stored
from segjax.data.label_table import VOID
from segjax.data.pixels import RGB
from segjax.data.problems import Problems, some
from segjax.data.sources import Source
from segjax.data.statistics import Statistics
from segjax.errors import DataError

FirstSeen = dict[bytes, tuple[str, str]]  # by the hash of an image: its split and its name


class _Seen(NamedTuple):
    counts: np.ndarray  # int64 [256], pixels per class id
    size: tuple[int, int]
    digest: bytes  # of the image
    content: bytes  # of the image and its label
    stored: Stored | None  # None where there are no files
    statistics: Statistics | None  # None where they are not wanted


@dataclass
class _Split:
    """What has been counted of a split so far."""

    census: values.Census
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    sizes: list[tuple[int, int]] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    unusable: dict[int, str] = field(default_factory=dict)  # by index, with the reason
    statistics: Statistics | None = None

    def add(self, name: str, seen: _Seen) -> None:
        self.counts += seen.counts
        self.sizes.append(seen.size)
        self.contents.append(seen.content)
        if seen.counts[VOID] == seen.counts.sum():
            self.blank.append(name)
        if seen.stored:
            self.census.add(name, seen.stored)
        if seen.statistics:
            self.statistics = seen.statistics.added_to(self.statistics)

    def add_to(self, report: Report, split: str) -> None:
        report.skipped[split] = list(self.unusable)
        report.stored[split] = self.census.values
        report.num_images[split] = len(self.sizes)
        report.pixel_counts[split] = self.counts[: len(report.table.names)]
        report.void_counts[split] = int(self.counts[VOID])
        report.max_size[split] = tuple(np.max(self.sizes or [(0, 0)], axis=0).tolist())
        report.sizes[split] = self.sizes
        report.sha256[split] = hashlib.sha256(b"".join(sorted(self.contents))).hexdigest()
        if self.blank:
            report.warnings.append(
                f"{split}: {len(self.blank)} labels are void throughout, such as "
                f"{', '.join(self.blank[:3])}"
            )
        if self.statistics:
            report.channels[split] = self.statistics.summary()
        report.warnings += self.census.warnings(split)


def count(
    sources: dict[str, Source],
    problems: Problems,
    skip: bool,
    limits: tuple[float, ...],
    is_measured: bool = False,
) -> Report:
    """The report on all splits; what cannot be used is a problem or, with `skip`, left out.

    limits: `config.data.value_range`; is_measured: whether statistics of RGB are wanted, too.
    """
    report = Report(next(iter(sources.values())).table)
    first_seen: FirstSeen = {}
    # Training last: of an image that stands in two splits, its copy there is the one to leave out.
    for split, source in sorted(sources.items(), key=lambda item: item[0] == "train"):
        is_rgb = getattr(source, "pixels", RGB).is_rgb
        inspected = _inspect_all(split, source, is_measured or not is_rgb)
        counted = _count_split(
            split, inspected, first_seen, problems, skip, limits, report.warnings
        )
        counted.add_to(report, split)
        if counted.unusable:
            shown = "\n  ".join(some([*counted.unusable.values()]))
            message = (
                f"{split}: {len(counted.unusable)} of {len(source)} images skipped:\n  {shown}"
            )
            report.warnings.append(message)
            if not counted.sizes:
                problems.add(message)
    for name, value in vars(report).items():
        if isinstance(value, dict):  # in the order of the sources
            setattr(report, name, {split: value[split] for split in sources if split in value})
    return report


def _count_split(
    split: str,
    inspected: Iterator[tuple[str, _Seen | str]],
    first_seen: FirstSeen,
    problems: Problems,
    skip: bool,
    limits: tuple[float, ...],
    warnings: list[str],
) -> _Split:
    counted = _Split(values.Census(limits))
    for index, (name, seen) in enumerate(inspected):
        if isinstance(seen, str):
            if skip:
                counted.unusable[index] = seen
            else:
                problems.add(seen)
            continue
        other_split, other = first_seen.setdefault(seen.digest, (split, name))
        if other_split != split:
            message = f"{name} ({split}) has the same pixels as {other} ({other_split})"
            if skip and split == "train":
                counted.unusable[index] = message
                continue
            if skip:
                warnings.append(message)
            else:
                problems.add(
                    f"{message}; splits must not share images: remove one of them, or set "
                    "config.data.on_error=skip to leave out what training shares",
                    "two splits",
                )
        counted.add(name, seen)
    return counted


def _inspect_all(
    split: str, source: Source, is_measured: bool
) -> Iterator[tuple[str, _Seen | str]]:
    def inspect(index: int) -> tuple[str, _Seen | str]:
        name = source.name(index)
        try:
            found = source.inspect(index) if hasattr(source, "inspect") else source[index]
        except DataError as error:
            return name, str(error)
        example, stored, missing = found, None, None
        if isinstance(found, Decoded):
            example, stored, missing = found.example, found.stored(), found.missing
        image, label = example["image"], example["label"]
        statistics = Statistics.of(image, missing) if is_measured else None
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        content = hashlib.sha256(digest + label.tobytes()).digest()
        counts = np.bincount(label.ravel(), minlength=256)
        return name, _Seen(counts, label.shape, digest, content, stored, statistics)

    # disable=None: no progress bar unless stderr is a terminal.
    with ThreadPoolExecutor() as pool, tqdm(desc=split, total=len(source), disable=None) as bar:
        for result in pool.map(inspect, range(len(source))):
            bar.update()
            yield result
