"""Which configurations of older studies a new one tries first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from objectives.pareto import Direction, hypervolume, non_dominated
from search.warm_start.adapt import adapt
from space.joint import JointSpace

MARGIN = 0.1  # by which the reference point is worse than the worst of those taken, as a share of their range
ORDERED = 16  # first ones whose order is looked at
Costs = Callable[[Mapping[str, Any]], Mapping[str, float]]


@dataclass(frozen=True)
class OldTrial:
    """A trained trial of an older study: its number, all its values (`adapt.flat_values`), its quality there."""

    number: int
    values: Mapping[str, Any]
    quality: float


@dataclass(frozen=True)
class Candidate:
    """A configuration of the new space.

    Attributes:
        study, number: of the older trial that it comes from.
        params: flat parameters.
        quality: of the older trial.
        costs: in the new study, in the order of its objectives without quality; of one without such, its bytes.
    """

    study: str
    number: int
    params: Mapping[str, Any]
    quality: float
    costs: tuple[float, ...]


@dataclass
class Tally:
    """What had to be changed or left out.

    Attributes:
        trials: looked at.
        infeasible: that break a limit of the new study.
        unfit: that cannot be built in the new space, as those of a family that it lacks.
        moved, filled: parameters that gave way to the nearest value, or were missing; by name, with their number.
    """

    trials: int = 0
    infeasible: int = 0
    unfit: int = 0
    moved: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)


def candidates(
    study: str,
    trials: Sequence[OldTrial],
    space: JointSpace,
    costs: Costs,
    objectives: Sequence[str],
    limits: Mapping[str, float],
    tally: Tally,
) -> list[Candidate]:
    """The trials of an older study in the new space, those that keep the new limits on the new device.

    Of trials that come to the same configuration, the best one counts.

    Args:
        study: name of the older one.
        trials: of it.
        space: the new one.
        costs: of its configurations.
        objectives, limits: of the new study.
        tally: is added to.
    """
    found: dict[tuple[tuple[str, Any], ...], Candidate] = {}
    for trial in trials:
        tally.trials += 1
        adapted = adapt(space, trial.values)
        if adapted is None:
            tally.unfit += 1
            continue
        for names, counts in ((adapted.moved, tally.moved), (adapted.filled, tally.filled)):
            for name in names:
                counts[name] = counts.get(name, 0) + 1
        known = costs(adapted.params)
        if any(known[name] > limit for name, limit in limits.items() if name in known):
            tally.infeasible += 1
            continue
        wanted = [name for name in objectives if name != "quality" and name in known] or ["deployed_bytes"]
        place = tuple(sorted(adapted.params.items()))
        candidate = Candidate(
            study, trial.number, adapted.params, trial.quality, tuple(float(known[name]) for name in wanted)
        )
        if place not in found or found[place].quality < candidate.quality:
            found[place] = candidate
    return list(found.values())


def diverse(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """A few candidates from the front of the older qualities and the new costs, far from each other.

    Taken are the best one, then always the one of the front that is farthest from those taken, in quality and in the
    logarithm of the costs, each from 0 to 1 over the front. Where the front has too few, the one behind it serves.
    The first are ordered so that each adds as much as it can to the hypervolume of those before it.
    """
    left = list(found)
    taken: list[Candidate] = []
    while left and len(taken) < count:
        front = _front(left)
        rest = [candidate for candidate in left if candidate not in front]
        points = _scaled([*taken, *front])
        chosen, waiting = points[: len(taken)], list(range(len(taken), len(points)))
        while waiting and len(taken) < count:
            if len(chosen):
                gaps = np.linalg.norm(points[waiting][:, None] - chosen[None], axis=2).min(axis=1)
                best = waiting[int(np.argmax(gaps))]
            else:
                best = waiting[0]  # the front comes by falling quality
            taken.append(front[best - (len(points) - len(front))])
            chosen = np.concatenate((chosen, points[best][None]))
            waiting.remove(best)
        left = rest
    return _most_gain_first(taken) if taken else []


def _most_gain_first(found: Sequence[Candidate]) -> list[Candidate]:
    """Of an older study that says nothing, only the first are ever tried: they should be worth it by themselves."""
    points, waiting, ordered = _scaled(found), list(range(len(found))), list[int]()
    reference = [-MARGIN, *(1 + MARGIN for _ in found[0].costs)]
    while waiting and len(ordered) < ORDERED:
        volumes = [hypervolume(points[[*ordered, index]], reference, _directions(found)) for index in waiting]
        ordered.append(waiting.pop(int(np.argmax(volumes))))
    return [found[index] for index in (*ordered, *waiting)]


def _front(found: Sequence[Candidate]) -> list[Candidate]:
    kept = non_dominated([[candidate.quality, *candidate.costs] for candidate in found], _directions(found))
    return sorted((found[index] for index in kept), key=lambda c: (-c.quality, c.costs, c.study, c.number))


def _directions(found: Sequence[Candidate]) -> list[Direction]:
    return ["maximize", *("minimize" for _ in found[0].costs)]  # type: ignore[list-item]


def _scaled(found: Sequence[Candidate]) -> np.ndarray:
    points = np.array([[c.quality, *(math.log(max(cost, 1e-9)) for cost in c.costs)] for c in found])
    # Qualities of different tasks cannot be compared: each study's are ranked within it.
    for study in {c.study for c in found}:
        mine = np.array([c.study == study for c in found])
        values = points[mine, 0]
        points[mine, 0] = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    spread = np.ptp(points, axis=0)
    return (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
