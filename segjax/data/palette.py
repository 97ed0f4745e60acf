"""Display colours of classes."""

import colorsys
from collections.abc import Sequence

import numpy as np

# What the class of everything else is called. The first such class is dark, and not laid over
# images.
BACKGROUND = {"background", "bg", "void", "other", "others", "rest", "none", "nothing", "clutter",
              "unlabelled", "unlabeled", "ignore"}  # fmt: skip
DARK = (64, 64, 64)


def background(names: Sequence[str]) -> int | None:
    """The first of some classes that is called background or the like (BACKGROUND)."""
    found = (i for i, name in enumerate(names) if name.strip(" _").lower() in BACKGROUND)
    return next(found, None)


def default_palette(names: Sequence[str]) -> np.ndarray:
    """Display colours, uint8 [C, 3], neighbours far apart in hue; the background's is dark.

    Red, in which `evaluation.plots` shows what is wrong, is none of them.
    """
    # Steps by the golden ratio come close to an earlier hue only late.
    hsv = [
        (0.06 + 0.84 * (i * 0.618034 % 1), (0.75, 0.5, 0.9)[i % 3], (0.9, 0.7)[i % 2])
        for i in range(len(names))
    ]
    colors = [[255 * c for c in colorsys.hsv_to_rgb(*color)] for color in hsv]
    if (i := background(names)) is not None:
        colors[i] = DARK
    return np.rint(colors).astype(np.uint8)
