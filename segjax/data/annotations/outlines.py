"""Outlines of regions along the edges of their pixels, which cover exactly the same pixels."""

from collections.abc import Iterator

import cv2
import numpy as np

from segjax.data.annotations.regions import Patch

Point = tuple[int, int]  # x, y
LEFT_TURN = {(1, 0): (0, -1), (0, -1): (-1, 0), (-1, 0): (0, 1), (0, 1): (1, 0)}


def components(mask: np.ndarray) -> Iterator[Patch]:
    """The connected parts of a mask, bool [H, W]; pixels that touch at a corner are connected."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for label in range(1, count):
        left, top, width, height, _ = boxes[label].tolist()
        yield Patch(top, left, labels[top : top + height, left : left + width] == label)


def outlines(patch: Patch) -> list[np.ndarray]:
    """The rings of one connected part, int [N, 2] of x, y: its outline, then those of its holes."""
    steps = _steps(patch.mask)
    corner = np.array([patch.left, patch.top])
    rings = []
    # The first corner in reading order is one of the outline, and no other ring goes through the
    # first of those that are left.
    for start in sorted(steps, key=lambda point: (point[1], point[0])):
        if start in steps:
            rings.append(np.array(_follow(start, steps)) + corner)
    return rings


def joined(rings: list[np.ndarray]) -> np.ndarray:
    """An outline and its holes as one ring, int [N, 2].

    A cut of no width leads to every hole and back, so that the even-odd rule gives the same.
    """
    ring, *holes = rings
    for hole in holes:
        at = int(np.abs(ring - hole[0]).sum(axis=1).argmin())
        ring = np.concatenate([ring[: at + 1], hole, hole[:1], ring[at:]])
    return ring


def _steps(mask: np.ndarray) -> dict[Point, list[Point]]:
    """The directions in which edges leave a corner; the region lies on the right of each."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[Point, list[Point]] = {}
    for outside, offset, direction in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for y, x in np.argwhere(inside & ~outside).tolist():
            steps.setdefault((x + offset[0], y + offset[1]), []).append(direction)
    return steps


def _follow(start: Point, steps: dict[Point, list[Point]]) -> list[Point]:
    """The corners of the ring through a corner, whose edges are taken out of `steps`."""
    ring, point, before = [], start, None
    while point in steps:
        ways = steps[point]
        # Where pixels touch at a corner, a turn to the left goes on around the other one.
        turn = LEFT_TURN[before] if before else ways[0]
        direction = turn if turn in ways else ways[0]
        ways.remove(direction)
        if not ways:
            del steps[point]
        if direction != before:
            ring.append(point)
        point, before = (point[0] + direction[0], point[1] + direction[1]), direction
    return ring
