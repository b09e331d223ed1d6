"""Expected hypervolume gain of a candidate of which only the quality is uncertain, in closed form.

The part of the objective space that no point of the front dominates is cut into boxes, each a range of every cost
and of the quality. A candidate with known costs c and a quality of normal distribution N(mu, sd^2) gains of a box
with costs from l to u and quality from a to b

    prod_i max(0, u_i - max(l_i, c_i)) * E[min(max(q - a, 0), b - a)],

and E[min(max(q - a, 0), b - a)] = EI(a) - EI(b) with the expected improvement EI(a) = sd (z Phi(z) + phi(z)),
z = (mu - a) / sd. With one objective this is the expected improvement itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy.special import ndtr

Interval: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[Interval, ...]

# Candidates times boxes that are computed at once: bounds the memory.
AT_ONCE = 2_000_000


class ExpectedGain:
    """The gain against one front.

    Args:
        costs: [n, costs] of the points that were observed.
        qualities: [n], the same points'.
        worst_costs: [costs], reference point; points beyond it count for nothing.
        worst_quality: the same.
    """

    def __init__(
        self, costs: np.ndarray, qualities: np.ndarray, worst_costs: Sequence[float], worst_quality: float
    ) -> None:
        points = np.column_stack((costs, -qualities))
        reference = [*worst_costs, -worst_quality]
        inside = points[(points < reference).all(axis=1)]
        boxes = free_boxes([tuple(point) for point in inside.tolist()], reference)
        edges = np.array(boxes, dtype=float).reshape(len(boxes), len(reference), 2)
        self._low, self._high = edges[:, :-1, 0], edges[:, :-1, 1]
        levels = -edges[:, -1, ::-1]  # the lower and the upper quality of each box
        self._levels, places = np.unique(levels, return_inverse=True)
        self._below, self._above = places.reshape(levels.shape).T

    def __call__(self, costs: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        """Expected gains [n] of candidates with costs [n, costs] and qualities of these means and deviations [n]."""
        z = (mean[:, None] - self._levels) / deviation[:, None]
        density = np.exp(-0.5 * np.minimum(z * z, 1e4)) / math.sqrt(2 * math.pi)
        with np.errstate(invalid="ignore"):  # the level at infinity: there is nothing to improve above it
            improvement = np.where(np.isinf(self._levels), 0.0, deviation[:, None] * (z * ndtr(z) + density))
        gains = np.empty(len(costs))
        step = max(1, AT_ONCE // max(1, len(self._below)))
        for start in range(0, len(costs), step):
            part = slice(start, start + step)
            volume = improvement[part][:, self._below] - improvement[part][:, self._above]
            for i in range(costs.shape[1]):
                volume *= np.maximum(self._high[:, i] - np.maximum(self._low[:, i], costs[part, i, None]), 0)
            gains[part] = volume.sum(axis=1)
        return gains


def free_boxes(points: Sequence[tuple[float, ...]], reference: Sequence[float]) -> list[Box]:
    """Disjoint boxes that make up what no point dominates of the space below a reference (all is minimised).

    A sweep along the last axis: between two neighbouring values of it the free region is that of the points passed
    so far, in one dimension less; a box is as long as it stays part of that region.

    Args:
        points: each as long as the reference and below it.
        reference: upper end of the space, which has no lower end.

    Returns:
        Boxes: one interval per axis.
    """
    axis = len(reference) - 1
    if axis == 0:
        return [((-math.inf, min([reference[0], *(point[0] for point in points)])),)]
    if axis == 1:
        return _staircase(points, reference)
    finished: list[Box] = []
    opened: dict[Box, float] = {(tuple((-math.inf, end) for end in reference[:-1])): -math.inf}
    passed: list[tuple[float, ...]] = []
    ordered = sorted(points, key=lambda point: point[axis])
    for number, point in enumerate(ordered):
        if any(all(p <= q for p, q in zip(other, point, strict=False)) for other in passed):
            continue  # dominated in the axes below by one passed before: changes nothing
        passed = [o for o in passed if not all(p <= q for p, q in zip(point[:-1], o, strict=True))]
        passed.append(point[:-1])
        if number + 1 < len(ordered) and ordered[number + 1][axis] == point[axis]:
            continue
        free = set(free_boxes(passed, reference[:-1]))
        for box in [box for box in opened if box not in free]:
            finished.append((*box, (opened.pop(box), point[axis])))
        for box in free:
            opened.setdefault(box, point[axis])
    return finished + [(*box, (start, reference[-1])) for box, start in opened.items() if start < reference[-1]]


def _staircase(points: Sequence[tuple[float, ...]], reference: Sequence[float]) -> list[Box]:
    """`free_boxes` in two dimensions."""
    boxes: list[Box] = []
    height, start = reference[1], -math.inf
    for x, y in sorted(points):
        if y < height:
            if x > start:
                boxes.append(((start, x), (-math.inf, height)))
            height, start = y, x
    boxes.append(((start, reference[0]), (-math.inf, height)))
    return boxes
