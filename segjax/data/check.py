"""The label contract, verified over every example before the first step."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from segjax.data import decode, groups, normalization, pixels, values
from segjax.data.counting import count
from segjax.data.counts import Report, read_cache, write_cache
from segjax.data.folders import Found
from segjax.data.label_table import BINARY_HINT, load_table
from segjax.data.problems import Problems, some
from segjax.data.sources import Source, Subset, build_source, has_split, resolved
from segjax.data.splits import find_pairs
from segjax.errors import ConfigError, DataError
from segjax.runtime.files import expanded

ON_ERROR = ("raise", "skip")


def check(
    config: ConfigDict,
    *,
    splits: Sequence[str] = ("train", "val", "test"),
    cache: Path | None = None,
    sources: dict[str, Source] | None = None,
    trained: bool = False,
) -> Report:
    """Decode and count every example of `config`, the data section, or of `sources`.

    Raises one DataError that lists the problems of all examples, up to 20 of a kind.

    Args:
      cache: a file; nothing is decoded again while the files and the configuration stay as they
        were when it was written. A report without problems is written to it, unless `trained`.
      trained: whether a run has been trained on these data. What it can no longer change is a
        warning then, and `cache` stays what the run knows its data by.
    """
    config = expanded(config)
    if config.on_error not in ON_ERROR:
        raise ConfigError(f"config.data.on_error is {config.on_error!r}; choose one of {ON_ERROR}")
    problems = Problems()
    config = config if sources else resolved(config)
    sources = sources or _open(config, splits, problems)
    if config.on_error == "raise":
        _add_left_out(sources.values(), problems)
    groups.judge(sources, problems)
    fingerprint = _fingerprint(config, sources)
    report = None if problems or not sources else read_cache(cache, fingerprint)
    if report is None and sources:
        limits = tuple(config.get("value_range", ()))
        is_measured = config.get("normalize") in normalization.MEASURED
        report = count(sources, problems, config.on_error == "skip", limits, is_measured)
        report.fingerprint = fingerprint
        _describe_files(config, sources, report)
        if not limits and pixels.of(config).is_rgb:
            stops = "train" in splits and not trained
            values.judge(report.stored, stops, problems, report.warnings)
        if cache and not problems and not trained:
            write_cache(cache, report)
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
            if len(source):
                sources[split] = source
            else:
                problems.add(f"split {split!r} is empty; change config.data.splits.{split}")
        except DataError as error:
            problems.add(str(error))  # a missing folder fails every split alike
            _look_at_the_rest(lenient, split, problems)
    return sources


def _add_left_out(sources: Iterable[Source | Found], problems: Problems) -> None:
    for source in sources:
        for line in getattr(source, "left_out", ()):
            problems.add(line, "no partner")


def _look_at_the_rest(config: ConfigDict, split: str, problems: Problems) -> None:
    """Where a folder or the label table cannot be used: what is wrong with the other of them."""
    if config.source != "folder" or not Path(config.root).is_dir():
        return
    try:
        load_table(config.classes, config.root)
    except DataError as error:
        problems.add(str(error))
    try:
        found = find_pairs(config, split)
    except DataError:  # named already
        return
    _add_left_out([found], problems)
    for path in (path for pair in found.pairs for path in pair if path):
        try:
            decode.read(path.read_bytes(), str(path))
        except (DataError, OSError) as error:
            problems.add(str(error))


def _describe_files(config: ConfigDict, sources: dict[str, Source], report: Report) -> None:
    """Adds how a folder was paired and divided, and the files of folders that are not used."""
    notes = [note for source in sources.values() for note in getattr(source, "notes", ())]
    for split, source in sources.items():
        if division := getattr(source, "division", ""):
            if config.divide == "shares" or config.folds:  # an image added moves others
                content = "\n".join(sorted(source.names)).encode()
                report.divided[split] = hashlib.sha256(content).hexdigest()
            notes.append(division)
    if any(getattr(source, "division", "") for source in sources.values()):
        report.warnings += groups.warn(sources)
    if not (kind := pixels.of(config)).is_rgb:
        notes.append(f"the network sees images of {kind.describe()} (config.data.bands)")
    report.notes = [*dict.fromkeys(notes)]
    reasons = {
        "left_out": "files without a partner, or with several, left out",
        "unused": "files or folders beside the images are not used",
    }
    for kind, reason in reasons.items():
        lines = {line: None for s in sources.values() for line in getattr(s, kind, ())}
        if lines:
            shown = "\n  ".join(some([*lines]))
            report.warnings.append(f"{len(lines)} {reason}:\n  {shown}")


def _judge_missing_classes(report: Report, allowed: bool, problems: Problems) -> None:
    if not report.sizes.get("train"):  # not asked for, or no file could be read: named already
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
        files += [len(source), *getattr(source, "groups", ())]  # a list may have moved images
    fields = sorted(Report.__dataclass_fields__)  # earlier versions counted less
    content = json.dumps([config.to_json_best_effort(), tables, files, fields])
    return hashlib.sha256(content.encode()).hexdigest()


if __name__ == "__main__":
    raise SystemExit("Error: the command is python -m segjax.check now")
