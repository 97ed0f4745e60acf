"""What `check` counts, as a table for people and as a file that spares counting again."""

import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segjax.data import values
from segjax.data.label_table import VOID, LabelTable
from segjax.data.statistics import describe


@dataclass
class Report:
    """What `check` counted, by split.

    pixel_counts: int64 [C]; void_counts: pixels; max_size: the largest (height, width); sizes: of
    every usable example; sha256: of their pixels and labels, wherever and in whatever order they
    lie; skipped: indices of the examples that cannot be used, and of training images that val or
    test have too, where `config.on_error` is 'skip'; stored: what image files hold, see
    `values.Values`; channels: of images that are no RGB, see `Statistics.summary`; divided: of a
    folder that is divided into splits, a hash of the names of each; notes, warnings: lines for
    people; fingerprint: of the files and the configuration.
    """

    table: LabelTable
    num_images: dict[str, int] = field(default_factory=dict)
    pixel_counts: dict[str, np.ndarray] = field(default_factory=dict)
    void_counts: dict[str, int] = field(default_factory=dict)
    max_size: dict[str, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[int]] = field(default_factory=dict)
    stored: dict[str, values.Values] = field(default_factory=dict)
    channels: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    divided: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""


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
        lines += describe(split, report.channels.get(split, {}))
    return "\n".join(lines + report.notes + [f"warning: {warning}" for warning in report.warnings])


def read_cache(cache: Path | None, fingerprint: str) -> Report | None:
    """The report in a file, if it was written of the same data; None otherwise."""
    if not (cache and cache.is_file()):
        return None
    try:
        saved = json.loads(cache.read_text(encoding="utf-8"))
    except (ValueError, OSError):  # damaged, or another user's: count again
        return None
    if saved.get("fingerprint") != fingerprint:
        return None
    saved["table"] = LabelTable.from_json(saved["table"])
    saved["pixel_counts"] = {k: np.array(v) for k, v in saved["pixel_counts"].items()}
    saved["max_size"] = {k: tuple(v) for k, v in saved["max_size"].items()}
    saved["sizes"] = {k: [tuple(size) for size in v] for k, v in saved["sizes"].items()}
    return Report(**saved)


def write_cache(cache: Path, report: Report) -> None:
    """Writes the report for `read_cache`."""
    table = report.table.to_json()
    counts = {split: pixels.tolist() for split, pixels in report.pixel_counts.items()}
    saved = vars(report) | {"table": table, "pixel_counts": counts}
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that neither an interrupted run nor another process can break it.
    half_written = cache.with_name(f"{cache.name}.{platform.node()}.{os.getpid()}.tmp")
    half_written.write_text(json.dumps(saved), encoding="utf-8")
    half_written.replace(cache)
