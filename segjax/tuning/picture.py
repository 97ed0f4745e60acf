"""A sweep as a picture: scores by trial, and against every searched field."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

GREY = "#888888"
MARKERS = {  # of matplotlib, by state; other states are not drawn
    "complete": dict(marker="o", ls="", color="#1f6fb4", alpha=0.8),
    "pruned": dict(marker="v", ls="", color="#e0691a", mfc="none"),
    "failed": dict(marker="x", ls="", color="#c0182b"),
    "best": dict(marker="*", ls="", color="#f2b705", mec="black", ms=13),
}


def picture(table: list[dict[str, Any]], search: dict[str, BaseDistribution]) -> Figure:
    """The best so far, trial by trial, and the scores against each searched field."""
    columns = min(3, len(search) + 1)
    lines = math.ceil((len(search) + 1) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * lines), dpi=120, layout="constrained")
    first, *panels = figure.subplots(lines, columns, squeeze=False).flat
    complete = [row for row in table if row["state"] == "complete"]
    if complete:
        top = max(complete, key=lambda row: row["mean_iou"])
        table = [*table, {**top, "state": "best"}]
        best = np.maximum.accumulate([row["mean_iou"] for row in complete])
        first.step(
            [row["trial"] for row in complete], best, where="post", color=GREY, label="best so far"
        )
    _points(first, [(row, row["trial"]) for row in table])
    first.set(xlabel="trial", ylabel="validation mIoU")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    if table:
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=5)
    for panel, (field, distribution) in zip(panels, search.items(), strict=False):
        known = [row for row in table if field in row["params"]]
        values = [row["params"][field] for row in known]
        panel.set(xlabel=field, ylabel="validation mIoU")
        if isinstance(distribution, CategoricalDistribution):
            values = [distribution.choices.index(value) for value in values]
            panel.set_xticks(range(len(distribution.choices)), distribution.choices)
            panel.set_xlim(-0.5, len(distribution.choices) - 0.5)
        else:
            _axis(panel, distribution)
        _points(panel, list(zip(known, values, strict=True)))
    for panel in panels[len(search) :]:
        panel.set_axis_off()
    return figure


def _axis(panel: Axes, distribution: FloatDistribution | IntDistribution) -> None:
    """All that is searched, so that a best value at the edge is seen to be there."""
    low, high = distribution.low, distribution.high
    margin = 0.04
    if not distribution.log:
        margin *= high - low
        panel.set_xlim(low - margin, high + margin)
        return
    panel.set_xscale("log")
    panel.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
    panel.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")


def _points(panel: Axes, points: list[tuple[dict[str, Any], Any]]) -> None:
    for state, style in MARKERS.items():
        chosen = [(x, row["mean_iou"]) for row, x in points if row["state"] == state]
        if not chosen:
            continue
        x, y = zip(*chosen, strict=True)
        if state == "failed":  # without a score: on the axis
            panel.plot(
                x, [0.02] * len(x), transform=panel.get_xaxis_transform(), label=state, **style
            )
        else:
            panel.plot(x, y, label=state, **style)
    panel.grid(alpha=0.25)
