"""Regions of an image: the pixels that they cover, and which of them lie on top.

Coordinates count from the upper left corner of the image. A pixel belongs to a region if its
centre, (x + 0.5, y + 0.5), lies inside the outline by the even-odd rule; a centre on the outline
belongs to the region on its right, or below: regions with a common edge share no pixel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segjax.data.annotations.log import Fault

Size = tuple[int, int]  # height, width
LARGEST = 1e7  # of a coordinate: what lies farther out is damage, and overflows


class Patch(NamedTuple):
    """The pixels of a region.

    mask: bool [h, w], whose first pixel is (top, left) of the image. clipped: some lay outside.
    """

    top: int
    left: int
    mask: np.ndarray
    clipped: bool = False


class Region(NamedTuple):
    """A class id, or VOID, and where it is. z: regions of a higher one lie on top."""

    class_id: int
    patch: Patch
    z: float = 0


def paint(regions: Sequence[Region], size: Size) -> np.ndarray:
    """The class ids of an image, uint8 [H, W], with 0 outside of all regions.

    On top is the highest z; of the same z the smaller region; of the same area the later one.
    """
    ids = np.zeros(size, np.uint8)
    for class_id, (top, left, mask, _), _ in sorted(
        regions, key=lambda region: (region.z, -int(region.patch.mask.sum()))
    ):
        height, width = mask.shape
        ids[top : top + height, left : left + width][mask] = class_id
    return ids


def place(mask: np.ndarray, top: int, left: int, size: Size) -> Patch:
    """The part of a mask, bool [h, w] with its first pixel at (top, left), that is in the image."""
    inside = mask[max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    return Patch(max(0, top), max(0, left), inside, bool(inside.sum() < mask.sum()))


def polygons(rings: Sequence[np.ndarray], size: Size, even_odd: bool = False) -> Patch:
    """What lies in any of some polygons, each float [N, 2] of x, y.

    even_odd: what lies in an odd number of them: the others are the holes of the first.
    """
    corners = np.concatenate(rings)
    height, width = size
    left, top = (int(v) for v in np.floor(corners.min(axis=0)).clip(0, (width, height)))
    right, bottom = (int(v) for v in np.ceil(corners.max(axis=0)).clip((left, top), size[::-1]))
    mask = np.zeros((bottom - top, right - left), bool)
    for ring in rings:
        inside = _fill(ring - (left, top), mask.shape)
        mask = mask ^ inside if even_odd else mask | inside
    clipped = corners.min() < 0 or (corners > (width, height)).any()
    return Patch(top, left, mask, bool(clipped))


def _fill(ring: np.ndarray, size: Size) -> np.ndarray:
    height, width = size
    start, end = ring, np.roll(ring, -1, axis=0)
    # Upwards or downwards, an edge is computed alike: what two regions share is the same to both.
    upper, lower = (np.where((start[:, 1:] <= end[:, 1:]) == down, start, end) for down in (1, 0))
    first, last = (np.ceil(y - 0.5).clip(0, height).astype(int) for y in (upper[:, 1], lower[:, 1]))
    rows_of = last - first
    edge = np.repeat(np.arange(len(ring)), rows_of)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of) + first[edge]
    (x, y), (step_x, step_y) = upper[edge].T, (lower - upper)[edge].T
    crossing = x + (row + 0.5 - y) * step_x / step_y
    column = np.ceil(crossing - 0.5).clip(0, width).astype(int)
    toggles = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)) % 2 == 1
    return np.logical_xor.accumulate(toggles.reshape(height, width + 1), axis=1)[:, :width]


def rectangle(x: float, y: float, width: float, height: float, degrees: float = 0) -> np.ndarray:
    """The corners [4, 2] of a rectangle that is turned clockwise around its corner (x, y)."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def ellipse(x: float, y: float, radii: tuple[float, float], degrees: float, size: Size) -> Patch:
    """The pixels whose centre is not outside an ellipse around (x, y), turned clockwise."""
    reach = max(radii)
    (left, top), (right, bottom) = (
        (min(max(int(x + d), 0), size[1]), min(max(int(y + d), 0), size[0]))
        for d in (-reach - 1, reach + 1)
    )
    dy = np.arange(top, bottom)[:, None] + 0.5 - y
    dx = np.arange(left, right)[None] + 0.5 - x
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    mask = (along * radii[1]) ** 2 + (across * radii[0]) ** 2 <= (radii[0] * radii[1]) ** 2
    half = [np.hypot(radii[0] * a, radii[1] * b) for a, b in ((cos, sin), (sin, cos))]
    beyond = x < half[0] or y < half[1] or x + half[0] > size[1] or y + half[1] > size[0]
    return Patch(top, left, mask, bool(beyond))


def of_runs(runs: Sequence[int], size: Size, where: str) -> np.ndarray:
    """Lengths of runs of 0, 1, 0 …, row by row, as a mask, bool [H, W].

    Fault if they do not add up to the size.
    """
    total = size[0] * size[1] if min(size) > 0 else -1
    if not all(type(run) is int and 0 <= run <= total for run in runs) or sum(runs) != total:
        added = sum(run for run in runs if type(run) is int)
        reason = "RLE that does not fit its size"
        expected = f"{added} pixels, not {size[0]}×{size[1]} (height×width)"
        raise Fault(where, reason, expected, "export again")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size)


def to_runs(mask: np.ndarray) -> list[int]:
    """The same, back: it begins with the number of zeros, which may be 0."""
    flat = np.concatenate([[False], mask.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def runs_of_text(text: str, where: str) -> list[int]:
    """The runs in COCO's compressed RLE: 5 bits a character, the sixth if more follow.

    From the fourth on a run is stored as its difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 35:
            raise Fault(where, "RLE with a character that is none", character, "export again")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (1 << shift) if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise Fault(where, "RLE that is cut off", text[-20:], "export again")
    return runs


def crop(mask: np.ndarray) -> Patch:
    """What is set in the mask of a whole image, bool [H, W]."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Patch(0, 0, mask[:0, :0])
    top, left = int(rows[0]), int(columns[0])
    return Patch(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())
