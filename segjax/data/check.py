"""The label contract, verified over every example before the first step.

python -m segjax.data.check --config=CONFIG prints the class frequencies, or what is wrong.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from segjax import cli
from segjax.data import values
from segjax.data.counts import Report, format_report, read_cache, write_cache
from segjax.data.datasets import BINARY_HINT, VOID, load_table
from segjax.data.decode import Stored
from segjax.data.folders import find_pairs
from segjax.data.problems import Problems, some
from segjax.data.sources import Source, Subset, build_source, has_split, value_range
from segjax.errors import ConfigError, DataError


class _Seen(NamedTuple):
    counts: np.ndarray  # int64 [256], pixels per class id
    size: tuple[int, int]
    digest: bytes  # of the image
    content: bytes  # of the image and its label
    stored: Stored | None  # None where there are no files


def check(
    config: ConfigDict,
    *,
    splits: Sequence[str] = ("train", "val", "test"),
    cache: Path | None = None,
    sources: dict[str, Source] | None = None,
) -> Report:
    """Decode and count every example of `config`, the data section, or of `sources`.

    Raises one DataError that lists the problems of all examples, up to 20 of a kind. With `cache`,
    a file, nothing is decoded again while the files and the configuration stay as they were.
    """
    if config.on_error not in ("raise", "skip"):
        raise ConfigError(f"config.data.on_error is {config.on_error!r}; choose 'raise' or 'skip'")
    problems = Problems()
    sources = sources or _open(config, splits, problems)
    fingerprint = _fingerprint(config, sources)
    report = None if problems or not sources else read_cache(cache, fingerprint)
    if report is None and sources:
        report = _count(sources, problems, config.on_error == "skip", value_range(config))
        _tell_of_files(config, sources, report)
        if not value_range(config):
            # What was trained before there was a value_range goes on without one.
            stops = "train" in splits and not (cache and cache.is_file())
            values.judge(report.stored, stops, problems, report.warnings)
        if not problems:
            write_cache(cache, fingerprint, report)
    if report is not None:
        _judge_missing_classes(report, config.allow_missing_classes, problems)
    problems.raise_if_any()
    return report


def usable(config: ConfigDict, split: str, report: Report, source: Source | None = None) -> Source:
    """The source of a checked split, by default that of `config`, without what was skipped."""
    source, skipped = source or build_source(config, split), report.skipped[split]
    return Subset(source, skipped) if skipped else source


def _open(config: ConfigDict, splits: Sequence[str], problems: Problems) -> dict[str, Source]:
    # Opened as with on_error=skip, for the files that can be used are to be looked at anyway.
    lenient = config.copy_and_resolve_references()
    lenient.on_error = "skip"
    sources = {}
    for split in splits:
        try:
            if split == "test" and not has_split(config, split):
                if len(splits) == 1:
                    problems.add("there is no test split; see config.data.splits, or use val")
                continue
            source = build_source(lenient, split)
            left_out = getattr(source, "left_out", ())
            if len(source):
                sources[split] = source
            else:
                problems.add(f"split {split!r} is empty; change config.data.splits.{split}")
        except DataError as error:
            problems.add(str(error))  # a missing folder fails every split alike
            left_out = _look_at_the_rest(lenient, split, problems)
        for line in left_out if config.on_error == "raise" else ():
            problems.add(f"{line}; image and mask share the name up to the suffix", "no partner")
    return sources


def _look_at_the_rest(config: ConfigDict, split: str, problems: Problems) -> Sequence[str]:
    """Where a folder or the label table cannot be used: what is wrong with the other of them."""
    if config.source != "folder" or not Path(config.root).is_dir():
        return ()
    try:
        load_table(config.classes, config.root)
    except DataError as error:
        problems.add(str(error))
    with contextlib.suppress(DataError):  # told already
        return find_pairs(config, split).left_out
    return ()


def _count(
    sources: dict[str, Source], problems: Problems, skip: bool, limits: tuple[float, ...]
) -> Report:
    report = Report(next(iter(sources.values())).table)
    first_seen: dict[bytes, tuple[str, str]] = {}
    # Training last: of an image that stands in two splits, its copy there is the one to leave out.
    for split, source in sorted(sources.items(), key=lambda item: item[0] == "train"):
        counts, sizes, contents, blank = np.zeros(256, np.int64), [], [], []
        unusable, census = {}, values.Census(limits)
        for index, (name, seen) in enumerate(_inspect_all(split, source)):
            if isinstance(seen, str) and skip:
                unusable[index] = seen
                continue
            if isinstance(seen, str):
                problems.add(seen)
                continue
            other_split, other = first_seen.setdefault(seen.digest, (split, name))
            if other_split != split:
                message = f"{name} ({split}) has the same pixels as {other} ({other_split})"
                if skip and split == "train":
                    unusable[index] = message
                    continue
                if skip:
                    report.warnings.append(message)
                else:
                    problems.add(
                        f"{message}; splits must not share images: remove one of them, or set "
                        "config.data.on_error=skip to leave out what training shares",
                        "two splits",
                    )
            counts += seen.counts
            sizes.append(seen.size)
            contents.append(seen.content)
            if seen.counts[VOID] == seen.counts.sum():
                blank.append(name)
            if seen.stored:
                census.add(name, seen.stored)
        if blank:
            report.warnings.append(
                f"{split}: {len(blank)} labels are void throughout, such as {', '.join(blank[:3])}"
            )
        report.warnings += census.warnings(split)
        if unusable:
            shown = "\n  ".join(some([*unusable.values()]))
            message = f"{split}: {len(unusable)} of {len(source)} images skipped:\n  {shown}"
            report.warnings.append(message)
            if len(unusable) == len(source):
                problems.add(message)
        report.skipped[split] = list(unusable)
        report.stored[split] = census.values
        report.num_images[split] = len(source) - len(unusable)
        report.pixel_counts[split] = counts[: len(report.table.names)]
        report.void_counts[split] = int(counts[VOID])
        report.max_size[split] = tuple(np.max(sizes, axis=0).tolist()) if sizes else (0, 0)
        report.sizes[split] = sizes
        report.sha256[split] = hashlib.sha256(b"".join(sorted(contents))).hexdigest()
    for counted, value in vars(report).items():
        if isinstance(value, dict):
            setattr(report, counted, {split: value[split] for split in sources if split in value})
    return report


def _tell_of_files(config: ConfigDict, sources: dict[str, Source], report: Report) -> None:
    """Adds how a folder was divided, and the files of folders that are not used."""
    for split, source in sources.items():
        if division := getattr(source, "division", ""):
            names = [os.path.relpath(source.name(i), config.root) for i in range(len(source))]
            if config.divide == "shares" or config.folds:  # an image added moves others
                content = "\n".join(names).encode()
                report.divided[split] = hashlib.sha256(content).hexdigest()
            report.notes = [division]
    reasons = {
        "left_out": "files without a partner, or with several, left out",
        "unused": "files or folders beside the images are not used",
    }
    for kind, reason in reasons.items():
        lines = {line: None for s in sources.values() for line in getattr(s, kind, ())}
        if lines:
            shown = "\n  ".join(some([*lines]))
            report.warnings.append(f"{len(lines)} {reason}:\n  {shown}")


def _inspect_all(split: str, source: Source) -> Iterator[tuple[str, _Seen | str]]:
    def inspect(index: int) -> tuple[str, _Seen | str]:
        name = source.name(index)
        try:
            with_files = hasattr(source, "inspect")
            example, stored = source.inspect(index) if with_files else (source[index], None)
        except DataError as error:
            return name, str(error)
        image, label = example["image"], example["label"]
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        content = hashlib.sha256(digest + label.tobytes()).digest()
        counts = np.bincount(label.ravel(), minlength=256)
        return name, _Seen(counts, label.shape, digest, content, stored)

    # disable=None: no progress bar unless stderr is a terminal.
    with ThreadPoolExecutor() as pool, tqdm(desc=split, total=len(source), disable=None) as bar:
        for result in pool.map(inspect, range(len(source))):
            bar.update()
            yield result


def _judge_missing_classes(report: Report, allowed: bool, problems: Problems) -> None:
    if "train" not in report.pixel_counts:
        return
    names = report.table.names
    missing = np.flatnonzero(report.pixel_counts["train"] == 0).tolist()
    if not missing:
        return
    listed = ", ".join(f"{names[i]!r} (raw value {report.table.raw(i)})" for i in missing)
    problem = f"no pixel in training of class {listed}"
    if allowed:
        report.warnings.append(problem)
        return
    if problems:
        problem += " (in the files that could be read)"
    remedy = "correct the label table, or set config.data.allow_missing_classes=True"
    if len(names) == 2 and 255 in report.table.void and report.void_counts["train"]:
        remedy = (
            f"{report.void_counts['train']} pixels are void (255): {BINARY_HINT}; else {remedy}"
        )
    problems.add(f"{problem}; {remedy}")


def _fingerprint(config: ConfigDict, sources: dict[str, Source]) -> str:
    tables = [source.table.to_json() for source in sources.values()]
    files = []
    for source in sources.values():
        for path in source.files() if hasattr(source, "files") else []:  # shapes have no files
            status = os.stat(path)
            files.append((str(path), status.st_size, status.st_mtime_ns))
        files += [*getattr(source, "left_out", ()), *getattr(source, "unused", ())]
    fields = sorted(Report.__dataclass_fields__)  # earlier versions counted less
    content = json.dumps([config.to_json_best_effort(), tables, files, fields])
    return hashlib.sha256(content.encode()).hexdigest()


def main() -> None:
    """Check the data of `--config` and print the class frequencies."""
    print(format_report(check(cli.config().data)))


if __name__ == "__main__":
    cli.define_config()
    cli.run(main)
