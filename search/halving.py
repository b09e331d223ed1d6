"""Asynchronous successive halving for one or more objectives: which half-trained students are worth going on with.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), in its form with promotions: a
training stops at a rung unless it is among the best of those that have reached it, and goes on later if it is among
the best of the many that have come since. Schmucker et al., "Multi-objective Asynchronous Successive Halving" (2021),
rank several objectives by non-domination, and the points of one front so that they cover it (epsilon-net).

Where the sampler can say what going on is worth, beside what a new trial is, that decides in place of the ranks: those
go on that are worth most, as soon as they are worth more than a new trial, and one as soon as that can be told. While
there are new ones to come, the reduction factor only bounds how many: of all that were begun, 1 in so many may pass any
rung.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import moocore
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from objectives.pareto import Direction

GRACE = 0.1
# Of trials and the rungs at which they wait: what going on is worth, in units of a new trial; None: cannot tell yet.
Worth = Callable[[Mapping[int, int]], Mapping[int, float] | None]


class EarlyStoppingSpec(BaseModel):
    """Section `search: early_stopping:` of a study file.

    Attributes:
        grace: share of the training steps that every student gets, the first rung; the next ones are each
            `reduction_factor` times as far, as long as that much is left of the training. `GRACE` by default.
        reduction_factor: of the students that reach a rung, about 1 in so many go on, the best ones.
        rungs: shares of the training steps at which students are judged, instead of those that follow from `grace`.
        examples: at most so many of each validation split judge a student at a rung.
        promote_by: what decides who goes on: the `gain` of hypervolume that is expected of it, where the sampler can
            tell (known-cost), or its `rank` at the rung, as with all other samplers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grace: float | None = Field(default=None, gt=0, lt=1)
    reduction_factor: float = Field(default=3, gt=1, le=100)
    rungs: tuple[float, ...] | None = Field(default=None, min_length=1)
    examples: int = Field(default=1000, ge=1)
    promote_by: Literal["gain", "rank"] = "gain"

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rungs and (min(rungs) <= 0 or max(rungs) >= 1 or list(rungs) != sorted(set(rungs))):
            raise ValueError("should rise, each between 0 and 1, as in [0.1, 0.3]")
        return rungs

    @model_validator(mode="after")
    def _one_of_both(self) -> EarlyStoppingSpec:
        if self.rungs is not None and self.grace is not None:
            raise ValueError("give grace or rungs, not both")
        return self

    def shares(self) -> tuple[float, ...]:
        """The rungs as shares of the training steps."""
        if self.rungs is not None:
            return self.rungs
        found = [self.grace or GRACE]
        while found[-1] * self.reduction_factor <= 1 / self.reduction_factor + 1e-9:
            found.append(found[-1] * self.reduction_factor)
        return tuple(found)


class Halving:
    """The results of a study's rungs, and who may go on from them.

    Args:
        directions: of the objectives.
        reduction_factor: of those at a rung, the best 1 in so many go on.
        worth: what going on is worth; by rank if there is none, and then at least one goes on from a rung at once.
    """

    def __init__(self, directions: Sequence[Direction], reduction_factor: float, worth: Worth | None = None) -> None:
        self._directions = list(directions)
        self._reduction_factor = reduction_factor
        self._worth = worth
        self._rungs: dict[int, dict[int, list[float]]] = {}
        self._best: dict[int, list[int]] = {}
        self._closed: set[int] = set()

    def enter(self, trial: int, rung: int, values: Sequence[float]) -> None:
        """Enter how a trial stood at a rung: a value for each objective. One that is no number goes nowhere from there,
        and counts at no rung before."""
        self._rungs.setdefault(rung, {})[trial] = [float(value) for value in values]
        self._best.pop(rung, None)
        if not np.isfinite(self._rungs[rung][trial]).all():
            self._forget(trial, [earlier for earlier in self._rungs if earlier < rung])

    def leave(self, trial: int) -> None:
        """Forget a trial, as if it had never been begun."""
        self._forget(trial, self._rungs)

    def _forget(self, trial: int, rungs: Iterable[int]) -> None:
        for rung in rungs:
            if self._rungs[rung].pop(trial, None) is not None:
                self._best.pop(rung, None)

    def close(self, trial: int) -> None:
        """Enter that a trial has ended at the last rung that it has passed."""
        self._closed.add(trial)

    def best(self, rung: int) -> list[int]:
        """The trials that may go on from a rung by rank, best first."""
        if rung not in self._best:
            entries = self._rungs.get(rung, {})
            count = max(1, int(len(entries) / self._reduction_factor)) if entries else 0
            self._best[rung] = self._ranked(entries, count)
        return self._best[rung]

    def _ranked(self, entries: Mapping[int, list[float]], count: int) -> list[int]:
        numbers = sorted(entries)
        order = ranked(np.array([entries[number] for number in numbers]), self._directions, count)
        return [numbers[index] for index in order]

    def goes_on(self, trial: int, rung: int, paused: Iterable[tuple[int, int]] = (), last: bool = False) -> bool:
        """Whether a trial may go on from a rung now; one that starts anew gets to where it was.

        Args:
            trial, rung: which, from where.
            paused, last: as of `promoted`.
        """
        if any(trial in self._rungs[later] for later in self._rungs if later > rung):
            return True
        if self._worth is None:
            return trial in self.best(rung)
        return self.promoted([*paused, (trial, rung)], last) == trial

    def promoted(self, paused: Iterable[tuple[int, int]], last: bool = False) -> int | None:
        """Of trials that stopped, each with its rung, the one to go on with, or None.

        Args:
            paused: the trials.
            last: whether no new trial is to come; then at least one goes on from every rung.
        """
        paused = list(paused)
        due = self.due(paused, last)
        if not due:
            return None
        # Nobody knows what a whole training comes to until there is one: so the first one is begun.
        alone = not set().union(*self._rungs.values()) - dict(paused).keys() - self._closed
        worth = self._worth(due) if self._worth is not None else None
        if worth is not None:
            best = max(sorted(due), key=lambda trial: worth.get(trial, 0.0))
            return best if last or alone or worth.get(best, 0.0) > 1 else None
        if self._worth is not None and not last:  # more will be known soon
            return None
        rung = max(due.values())
        entries = self._rungs[rung]
        return next(trial for trial in self._ranked(entries, len(entries)) if due.get(trial) == rung)

    def due(self, paused: Iterable[tuple[int, int]], last: bool = False) -> dict[int, int]:
        """The trials of which `promoted` chooses, with their rungs: those of rungs that let another one go on."""
        waiting: dict[int, set[int]] = {}
        for trial, rung in paused:
            waiting.setdefault(rung, set()).add(trial)
        found: dict[int, int] = {}
        for rung, trials in waiting.items():
            if self._worth is None:
                able = trials.intersection(self.best(rung))
            elif self._room(rung, waiting, last) > 0:
                able = {trial for trial in trials if np.isfinite(self._rungs[rung][trial]).all()}
            else:
                able = set()
            found.update(dict.fromkeys(able, rung))
        return found

    def _room(self, rung: int, waiting: Mapping[int, set[int]], last: bool) -> int:
        """How many more may go on from a rung. When no new trial is to come, none from where it would only get to a
        rung that lets no more go on."""
        if not last:
            return int(max(map(len, self._rungs.values())) / self._reduction_factor) - self._passed(rung, waiting)
        room = 0
        for place in sorted(place for place in self._rungs if place >= rung):
            reached = len(self._rungs[place]) + room
            room = max(1, int(reached / self._reduction_factor)) - self._passed(place, waiting)
            if room <= 0:
                return 0
        return room

    def _passed(self, rung: int, waiting: Mapping[int, set[int]]) -> int:
        """How many have gone on from a rung: all that neither wait nor have ended there."""
        later = set[int]().union(*(entries for place, entries in self._rungs.items() if place > rung))
        return len(self._rungs[rung].keys() - waiting.get(rung, set()) - (self._closed - later))


def ranked(points: np.ndarray, directions: Sequence[Direction], count: int) -> list[int]:
    """The `count` best points [n, objectives], best first: front by front, and those of a front so that each is the one
    farthest from all before it (every objective scaled to its range on the front), beginning with the best in the first
    objective. Points with a value that is not finite are never among them.
    """
    if count < 1 or not len(points):
        return []
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    usable = np.flatnonzero(np.isfinite(points).all(axis=1))
    losses = points[usable] * signs
    found: list[int] = []
    while len(usable) and len(found) < count:
        # Equal points dominate each other weakly; all of them are kept.
        front = np.flatnonzero(moocore.is_nondominated(losses, keep_weakly=True))
        found += [int(usable[front[place]]) for place in _spread(losses[front], count - len(found))]
        keep = np.ones(len(usable), dtype=bool)
        keep[front] = False
        usable, losses = usable[keep], losses[keep]
    return found


def _spread(losses: np.ndarray, count: int) -> list[int]:
    """At most `count` rows of [n, objectives], each the farthest from those before it."""
    width = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(width > 0, width, 1.0)
    chosen = [int(np.lexsort(losses.T[::-1])[0])]
    nearest = np.linalg.norm(scaled - scaled[chosen[0]], axis=1)
    nearest[chosen[0]] = -1.0
    while len(chosen) < min(count, len(losses)):
        farthest = int(nearest.argmax())
        chosen.append(farthest)
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[farthest], axis=1))
        nearest[chosen] = -1.0
    return chosen
