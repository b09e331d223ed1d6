"""Pareto dominance and hypervolume, computed by `moocore`.

The hypervolume is the volume that a set of points dominates inside a reference point (Zitzler and Thiele,
1998). `search.study` uses one reference per study that follows from the study file alone, so that values
can be compared between runs and samplers: quality 0, and the limit of each cost (100 ms where a study
limits no latency). Points beyond the reference add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import moocore
import numpy as np

Direction = Literal["maximize", "minimize"]
Points = Sequence[Sequence[float]] | np.ndarray


def non_dominated(points: Points, directions: Sequence[Direction]) -> list[int]:
    """Indices of the points that no other point dominates, in their given order.

    A point dominates another if it is at least as good in every objective and better in one. Equal points
    do not dominate each other: all of them are kept. One with a NaN or an infinite value is never on the front.

    Args:
        points: [n, objectives].
        directions: one direction per objective.

    Raises:
        ValueError: shape and directions do not fit.
    """
    values, maximise = _check(points, directions)
    usable = np.flatnonzero(np.isfinite(values).all(axis=1))
    if usable.size == 0:
        return []
    kept = moocore.is_nondominated(values[usable], maximise=maximise, keep_weakly=True)
    return [int(index) for index in usable[kept]]


def knee(points: Points, directions: Sequence[Direction]) -> int | None:
    """Index of the knee of a front: the point that lies furthest beyond the plane through the extremes of every
    objective (Das 1999, "On characterizing the knee of the Pareto curve", Structural Optimization 18), each objective
    scaled to its range on the front. A little better in one objective costs much in another from there on.

    Of equally good points it is the first. An objective that is the same everywhere has no say.

    Args:
        points: [n, objectives], a front; points with a NaN or an infinite value are left out, and dominated ones too.
        directions: one direction per objective.

    Returns:
        None where there is no finite point.

    Raises:
        ValueError: shape and directions do not fit.
    """
    values, maximise = _check(points, directions)
    front = non_dominated(points, directions)
    if not front:
        return None
    losses = np.where(maximise, -values[front], values[front])
    spread = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(spread > 0, spread, 1)
    # With the extremes at 1 on their own axes the plane is "sum = 1": the point beyond it by most has the least sum.
    return front[int(np.argmin(scaled.sum(axis=1).round(12)))]


def hypervolume(points: Points, reference: Sequence[float], directions: Sequence[Direction]) -> float:
    """Volume dominated by the points inside the reference point; 0 without points.

    Args:
        points: [n, objectives]; one with a NaN or an infinite value counts for nothing.
        reference: the worst value of interest per objective.
        directions: one direction per objective.

    Raises:
        ValueError: shapes and directions do not fit, or the reference is not finite.
    """
    values, maximise = _check(points, directions)
    if len(reference) != len(directions) or not np.isfinite(reference).all():
        raise ValueError(f"reference should be {len(directions)} finite numbers, got {list(reference)}")
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) == 0:
        return 0.0
    return float(moocore.hypervolume(values, ref=list(reference), maximise=maximise))


def _check(points: Points, directions: Sequence[Direction]) -> tuple[np.ndarray, list[bool]]:
    if not directions or any(direction not in ("maximize", "minimize") for direction in directions):
        raise ValueError(f"directions should be 'maximize' or 'minimize', got {list(directions)}")
    values = np.asarray(points, dtype=np.float64)
    if values.size == 0:
        values = values.reshape(0, len(directions))
    if values.ndim != 2 or values.shape[1] != len(directions):
        raise ValueError(f"points should have shape [n, {len(directions)}], got {values.shape}")
    return values, [direction == "maximize" for direction in directions]
