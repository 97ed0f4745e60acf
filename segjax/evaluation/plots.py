"""Pictures that a run leaves for people: curves, predictions, the confusion matrix."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from segjax.runtime.files import make_parent

Arrays = Sequence[np.ndarray]  # Of different sizes, or one array with a leading axis.
COLUMNS = ("input", "truth", "prediction", "error")
MAX_HEIGHT = 360  # Of a row of the prediction panel, in pixels; so is the gap between its tiles.
GAP = 4
WRONG = (230, 25, 45)
SPLITS = (("train", "training", "#1f6fb4"), ("val", "validation", "#e0691a"))


def training_curves(epochs: Sequence[dict[str, float]], path: str | Path) -> None:
    """Draws accuracy and loss, training against validation, by epoch.

    Args:
      epochs: a row per epoch with epoch, train_loss, train_accuracy, train_mean_iou and, where an
        evaluation ran, val_loss, val_accuracy, val_mean_iou.
    """
    figure = Figure(figsize=(12, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="Training vs validation accuracy", ylim=(0, 1.02))
    _curves(left, epochs, {"accuracy": "pixel accuracy", "mean_iou": "mean IoU"})
    right.set(title="Training vs validation loss")
    _curves(right, epochs, {"loss": "loss"})
    figure.savefig(make_parent(path))


def prediction_panel(
    image: Arrays, label: Arrays, prediction: Arrays, palette: np.ndarray
) -> np.ndarray:
    """Sets images side by side with their labels: a row of input, truth, prediction, error each.

    The error map is red where the prediction is wrong, hatched where the label is void.

    Args:
      image: N arrays uint8 [H, W, 3].
      label: N integer arrays [H, W]; a value that is no class is void.
      prediction: N integer arrays [H, W].
      palette: uint8 [C, 3].

    Returns:
      uint8 [H', W', 3], the rows scaled to the height of the tallest image, at most MAX_HEIGHT.
    """
    height = min(MAX_HEIGHT, max(len(i) for i in image))
    rows = [
        _tiles(*(_scale(array, height) for array in row), palette)
        for row in zip(image, label, prediction, strict=True)
    ]
    width = max(tiles[0].shape[1] for tiles in rows)
    panel = np.vstack([np.hstack([_frame(tile, width) for tile in tiles]) for tiles in rows])
    return panel[:-GAP, :-GAP]


def save_predictions(
    path: str | Path,
    image: Arrays,
    label: Arrays,
    prediction: Arrays,
    palette: np.ndarray,
    names: Sequence[str],
    title: str,
) -> None:
    """Writes the `prediction_panel` with a title, column headings and a legend of its classes."""
    panel = prediction_panel(image, label, prediction, palette)
    zoom = max(1, 1200 // panel.shape[1])
    panel = panel.repeat(zoom, axis=0).repeat(zoom, axis=1)
    handles = _legend([*label, *prediction], palette, names)
    columns = max(1, 112 // (6 + max(map(len, names))))

    # Inches; the dots per inch are chosen to show the panel pixel for pixel.
    width, top, bottom = 12.0, 0.75, 0.25 + 0.26 * math.ceil(len(handles) / columns)
    dpi = panel.shape[1] / width
    height = top + panel.shape[0] / dpi + bottom
    figure = Figure(figsize=(width, height), dpi=dpi)
    axes = figure.add_axes((0, bottom / height, 1, 1 - (top + bottom) / height))
    axes.imshow(panel, interpolation="nearest", aspect="auto")
    axes.axis("off")
    figure.text(0.5, 1 - 0.25 / height, title, ha="center", va="center", fontsize=14)
    for column, heading in enumerate(COLUMNS):
        figure.text((column + 0.5) / 4, 1 - 0.58 / height, heading, ha="center", va="center")
    figure.legend(handles=handles, loc="lower center", ncol=columns, frameon=False)
    figure.savefig(make_parent(path))


def confusion_picture(confusion: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draws where the pixels of each class went: int64 [C, C], in per cent of the row."""
    total = confusion.sum(axis=1, keepdims=True)
    share = np.where(total > 0, 100 * confusion / np.maximum(total, 1), np.nan)
    size = min(24.0, 3.5 + 0.42 * len(names))
    is_small = len(names) <= 30
    figure = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")  # Shows through where a class has no pixels.
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9 if is_small else 6)
    axes.set_yticks(range(len(names)), names, fontsize=9 if is_small else 6)
    axes.set(title="Where the pixels of each class went", xlabel="prediction", ylabel="truth")
    axes.spines[:].set_visible(False)
    figure.colorbar(picture, label="% of the class's pixels", shrink=0.7, aspect=35)
    for (row, column), value in np.ndenumerate(share):
        if is_small and value >= 0.5:
            style = {"color": "white" if value > 55 else "0.2", "fontsize": 8}
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", **style)
    figure.savefig(make_parent(path))


def _curves(axes: Axes, epochs: Sequence[dict[str, float]], quantities: dict[str, str]) -> None:
    ends = []
    for (quantity, name), style in zip(quantities.items(), (".-", ".--"), strict=False):
        for split, word, colour in SPLITS:
            values = [(row["epoch"], row.get(f"{split}_{quantity}")) for row in epochs]
            points = [(x, y) for x, y in values if y is not None and math.isfinite(y)]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, style, color=colour, label=f"{word} {name}")
                ends.append((y[-1], colour))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1] if axes.get_autoscaley_on() else None)
    if ends:
        axes.legend(frameon=False)
    # Final values at the right margin, pushed up where they would overlap.
    margin, step, height = axes.get_yaxis_transform(), 0.05 * axes.get_ylim()[1], -math.inf
    for value, colour in sorted(ends):
        height = max(value, height + step)
        axes.text(1.01, height, f"{value:.3f}", color=colour, va="center", transform=margin)


def _legend(maps: list[np.ndarray], palette: np.ndarray, names: Sequence[str]) -> list[Patch]:
    present = sorted(set().union(*(np.unique(ids).tolist() for ids in maps)))
    classes = [i for i in present if i < len(names)]
    patches = [Patch(facecolor=palette[i] / 255, edgecolor="0.6", label=names[i]) for i in classes]
    if len(classes) < len(present):
        patches.append(Patch(facecolor="white", hatch="//////", label="void"))
    return [*patches, Patch(facecolor=np.divide(WRONG, 255), label="wrong")]


def _scale(array: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(array.shape[1] * height / array.shape[0]))
    smooth = cv2.INTER_AREA if len(array) > height else cv2.INTER_LINEAR
    method = smooth if array.ndim == 3 else cv2.INTER_NEAREST_EXACT  # Class ids do not mix.
    return cv2.resize(np.asarray(array, np.uint8), (width, height), interpolation=method)


def _tiles(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: np.ndarray
) -> list[np.ndarray]:
    hatch = np.add.outer(*map(np.arange, label.shape))[..., None] // 3 % 2 * 255
    void = (label >= len(palette))[..., None]
    wrong = (label != prediction)[..., None]
    colours = np.vstack([palette, np.zeros((256 - len(palette), 3))])
    grey = image.mean(axis=-1, keepdims=True) * 0.5 + 50  # Dimmed, and not black at night.
    truth = np.where(void, hatch, colours[label])
    error = np.where(void, hatch, np.where(wrong, WRONG, grey))
    return [tile.astype(np.uint8) for tile in (image, truth, colours[prediction], error)]


def _frame(tile: np.ndarray, width: int) -> np.ndarray:
    left = (width - tile.shape[1]) // 2
    right = width - tile.shape[1] - left + GAP
    return np.pad(tile, ((0, GAP), (left, right), (0, 0)), constant_values=255)
