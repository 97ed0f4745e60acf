"""The label contract, verified over every example before the first step.

python -m segjax.data.check --config=CONFIG prints the class frequencies, or what is wrong.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from segjax import cli
from segjax.data import values
from segjax.data.datasets import BINARY_HINT, VOID, LabelTable
from segjax.data.decode import Stored
from segjax.data.sources import Source, Subset, build_source, has_split, value_range
from segjax.errors import ConfigError, DataError

MOST_PROBLEMS = 20


@dataclass
class Report:
    """What `check` counted, by split.

    pixel_counts: int64 [C]; void_counts: pixels; max_size: the largest (height, width); skipped:
    indices of the examples that cannot be used, and of training images that val or test have too,
    where `config.on_error` is 'skip'; stored: what image files hold, see `values.Values`.
    """

    table: LabelTable
    num_images: dict[str, int] = field(default_factory=dict)
    pixel_counts: dict[str, np.ndarray] = field(default_factory=dict)
    void_counts: dict[str, int] = field(default_factory=dict)
    max_size: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[str, values.Values] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class _Seen(NamedTuple):
    counts: np.ndarray  # int64 [256], pixels per class id
    size: tuple[int, int]
    digest: bytes
    stored: Stored | None  # None where there are no files


def check(
    config: ConfigDict,
    *,
    splits: Sequence[str] = ("train", "val", "test"),
    cache: Path | None = None,
) -> Report:
    """Decode and count every example of `config`, the data section.

    Raises one DataError that lists up to 20 problems. With `cache`, a file, nothing is decoded
    again while the files and the configuration stay as they were.
    """
    if config.on_error not in ("raise", "skip"):
        raise ConfigError(f"config.data.on_error is {config.on_error!r}; choose 'raise' or 'skip'")
    sources, problems = _open(config, splits)
    fingerprint = _fingerprint(config, sources)
    report = None if problems else _read_cache(cache, fingerprint)
    if report is None:
        # What was trained before there was a value_range goes on without one.
        stops = "train" in splits and not (cache and cache.is_file())
        skip, limits = config.on_error == "skip", value_range(config)
        report = _count(sources, problems, skip, limits, stops)
        _write_cache(cache, fingerprint, report)
    _judge_missing_classes(report, config.allow_missing_classes)
    return report


def usable(config: ConfigDict, split: str, report: Report) -> Source:
    """The source of a checked split, without what was skipped."""
    source, skipped = build_source(config, split), report.skipped[split]
    return Subset(source, skipped) if skipped else source


def format_report(report: Report) -> str:
    """A table of class, raw value, pixels per split and share of the first split's pixels."""
    counts = report.pixel_counts
    splits = list(counts)
    labelled = max(1, int(counts[splits[0]].sum()))
    rows = [["class", "raw", *splits, f"share of {splits[0]}"]]
    for i, name in enumerate(report.table.names):
        pixels = [f"{counts[split][i]:,}" for split in splits]
        share = f"{100 * counts[splits[0]][i] / labelled:.2f} %"
        rows.append([name, report.table.raw(i), *pixels, share])
    void = [f"{report.void_counts[split]:,}" for split in splits]
    rows.append(["(void)", report.table.raw(VOID), *void, ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    for split in splits:
        height, width = report.max_size[split]
        lines.append(f"{split}: {report.num_images[split]} images of up to {height}×{width}")
        lines += values.describe(split, report.stored[split])
    return "\n".join(lines + [f"warning: {warning}" for warning in report.warnings])


def _open(config: ConfigDict, splits: Sequence[str]) -> tuple[dict[str, Source], list[str]]:
    sources, problems = {}, []
    for split in splits:
        try:
            if split == "test" and not has_split(config, split):
                if len(splits) == 1:
                    problems.append("there is no test split; see config.data.splits, or use val")
                continue
            source = build_source(config, split)
            if len(source):
                sources[split] = source
            else:
                problems.append(f"split {split!r} is empty; change config.data.splits.{split}")
        except DataError as error:
            problems.append(str(error))
    return sources, list(dict.fromkeys(problems))  # a missing folder fails every split alike


def _count(
    sources: dict[str, Source],
    problems: list[str],
    skip: bool,
    limits: tuple[float, ...],
    stops: bool,
) -> Report:
    if not sources:
        _raise(problems)
    report = Report(next(iter(sources.values())).table)
    first_seen: dict[bytes, tuple[str, str]] = {}
    # Training last: of an image that stands in two splits, its copy there is the one to leave out.
    for split, source in sorted(sources.items(), key=lambda item: item[0] == "train"):
        counts, sizes, blank = np.zeros(256, np.int64), [], []
        unusable, census = {}, values.Census(limits)
        for index, (name, seen) in enumerate(_inspect_all(split, source)):
            if len(problems) >= MOST_PROBLEMS:
                _raise(problems)
            if isinstance(seen, str) and skip:
                unusable[index] = seen
                continue
            if isinstance(seen, str):
                problems.append(seen)
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
                    problems.append(
                        f"{message}; splits must not share images: remove one of them, or set "
                        "config.data.on_error=skip to leave out what training shares"
                    )
            counts += seen.counts
            sizes.append(seen.size)
            if seen.counts[VOID] == seen.counts.sum():
                blank.append(name)
            if seen.stored:
                census.add(name, seen.stored)
        left_out = getattr(source, "left_out", ())
        if left_out and (message := _left_out(left_out)) not in report.warnings:
            report.warnings.append(message)
        if blank:
            report.warnings.append(
                f"{split}: {len(blank)} labels are void throughout, such as {', '.join(blank[:3])}"
            )
        report.warnings += census.warnings(split)
        if unusable:
            shown = "\n  ".join(list(unusable.values())[:MOST_PROBLEMS])
            message = f"{split}: {len(unusable)} of {len(source)} images skipped:\n  {shown}"
            report.warnings.append(message)
            if len(unusable) == len(source):
                problems.append(message)
        report.skipped[split] = list(unusable)
        report.stored[split] = census.values
        report.num_images[split] = len(source) - len(unusable)
        report.pixel_counts[split] = counts[: len(report.table.names)]
        report.void_counts[split] = int(counts[VOID])
        report.max_size[split] = tuple(np.max(sizes, axis=0).tolist()) if sizes else (0, 0)
    if not limits:
        too_dark, dark = values.judge(report.stored, stops)
        problems, report.warnings = too_dark + problems, report.warnings + dark
    if problems:
        _raise(problems)
    for counted in ("num_images", "pixel_counts", "void_counts", "max_size", "skipped", "stored"):
        setattr(report, counted, {split: getattr(report, counted)[split] for split in sources})
    return report


def _left_out(files: Sequence[str]) -> str:
    shown = "\n  ".join(files[:MOST_PROBLEMS])
    return f"{len(files)} files without a partner, or with several, left out:\n  {shown}"


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
        return name, _Seen(np.bincount(label.ravel(), minlength=256), label.shape, digest, stored)

    # disable=None: no progress bar unless stderr is a terminal.
    with ThreadPoolExecutor() as pool, tqdm(desc=split, total=len(source), disable=None) as bar:
        for result in pool.map(inspect, range(len(source))):
            bar.update()
            yield result


def _judge_missing_classes(report: Report, allowed: bool) -> None:
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
    remedy = "correct the label table, or set config.data.allow_missing_classes=True"
    if len(names) == 2 and 255 in report.table.void and report.void_counts["train"]:
        remedy = (
            f"{report.void_counts['train']} pixels are void (255): {BINARY_HINT}; else {remedy}"
        )
    raise DataError(f"{problem}; {remedy}")


def _raise(problems: list[str]) -> NoReturn:
    shown = "\n".join(f"- {problem}" for problem in problems[:MOST_PROBLEMS])
    more = "\n- … stopped here; there may be more" if len(problems) >= MOST_PROBLEMS else ""
    raise DataError(f"problems in the data:\n{shown}{more}")


def _fingerprint(config: ConfigDict, sources: dict[str, Source]) -> str:
    tables = [source.table.to_json() for source in sources.values()]
    files = []
    for source in sources.values():
        for path in source.files() if hasattr(source, "files") else []:  # shapes have no files
            status = os.stat(path)
            files.append((str(path), status.st_size, status.st_mtime_ns))
        files += getattr(source, "left_out", ())
    content = json.dumps([config.to_json_best_effort(), tables, files])
    return hashlib.sha256(content.encode()).hexdigest()


def _read_cache(cache: Path | None, fingerprint: str) -> Report | None:
    if not (cache and cache.is_file()):
        return None
    try:
        saved = json.loads(cache.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # damaged, or another user's: count again
        return None
    if saved.pop("fingerprint", None) != fingerprint:
        return None
    saved["table"] = LabelTable.from_json(saved["table"])
    saved["pixel_counts"] = {k: np.array(v) for k, v in saved["pixel_counts"].items()}
    saved["max_size"] = {k: tuple(v) for k, v in saved["max_size"].items()}
    return Report(**saved)


def _write_cache(cache: Path | None, fingerprint: str, report: Report) -> None:
    if not cache:
        return
    table = report.table.to_json()
    counts = {split: pixels.tolist() for split, pixels in report.pixel_counts.items()}
    saved = vars(report) | {"fingerprint": fingerprint, "table": table, "pixel_counts": counts}
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that neither an interrupted run nor another process can break it.
    half_written = cache.with_name(f"{cache.name}.{platform.node()}.{os.getpid()}.tmp")
    half_written.write_text(json.dumps(saved), encoding="utf-8")
    half_written.replace(cache)


def main() -> None:
    """Check the data of `--config` and print the class frequencies."""
    print(format_report(check(cli.config().data)))


if __name__ == "__main__":
    cli.define_config()
    cli.run(main)
