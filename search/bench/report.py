"""Samplers compared over seeds, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from search.bench.contender import Contender
from search.bench.problem import Problem
from search.bench.simulation import Replay, replay

CHECKPOINTS = (15, 25, 30, 50, 70, 100, 200, 500, 1000)
COSTS = (2, 4, 6, 8, 12, 16, 25, 50, 100, 200, 500, 1000)
# Samplers whose mean hypervolume at the end is a mark for all others.
MARKS = ("random", "tpe")
_DRAWS = 64  # configurations whose mean training time is the unit of cost


@dataclass(frozen=True)
class Reach:
    """When a contender comes to a hypervolume; None: it never does.

    Attributes:
        trials: the fewest trained trials after which the mean over seeds is as large.
        cost: the least training cost, in whole trainings of a mean configuration, at which it is.
        seeds: the same cost for each seed by itself.
    """

    trials: int | None
    cost: float | None
    seeds: tuple[float | None, ...]

    def cell(self) -> str:
        """For a table: trials, cost, and the range of the seeds' costs, open where one never comes there."""
        if self.trials is None or self.cost is None:
            return "-"
        found = [cost for cost in self.seeds if cost is not None]
        most = f"{max(found):.1f}" if len(found) == len(self.seeds) else "never"
        return f"{self.trials} / {self.cost:.1f} ({min(found):.1f} to {most})"


@dataclass(frozen=True)
class Comparison:
    """Studies of several contenders on one problem.

    Attributes:
        problem: its name.
        workers: trials at a time, in every study.
        trials: handed out in every study.
        unit: mean seconds of a whole training, over random feasible configurations.
        replays: one per seed, by contender.
    """

    problem: str
    workers: int
    trials: int
    unit: float
    replays: dict[Contender, list[Replay]]

    def checkpoints(self) -> list[int]:
        """Numbers of trials at which the hypervolume is shown; the last one is all."""
        return sorted({count for count in CHECKPOINTS if count < self.trials} | {self.trials})

    def costs(self) -> list[int]:
        """Training costs at which the hypervolume is shown."""
        most = max(found.cost[-1] for replays in self.replays.values() for found in replays if found.cost) / self.unit
        return [cost for cost in COSTS if cost <= most]

    def hypervolumes(self, contender: Contender, count: int) -> np.ndarray:
        """[seeds], after so many trained trials; a trial that was stopped at a rung counts as one."""
        return np.array([_at(found.trained, found.hypervolume, count) for found in self.replays[contender]])

    def hypervolumes_at_cost(self, contender: Contender, cost: float) -> np.ndarray:
        """[seeds], by training cost in whole trainings."""
        return np.array([_at(found.cost, found.hypervolume, cost * self.unit) for found in self.replays[contender]])

    def reach(self, contender: Contender, target: float) -> Reach:
        """When the mean hypervolume, and when each seed's, is at least a target."""
        replays = self.replays[contender]
        trials = next((n for n in range(1, self.trials + 1) if self.hypervolumes(contender, n).mean() >= target), None)
        costs = np.unique(np.concatenate([found.cost for found in replays])) / self.unit
        cost = next((float(c) for c in costs if self.hypervolumes_at_cost(contender, c + 1e-9).mean() >= target), None)
        seeds = []
        for found in replays:
            reached = np.flatnonzero(np.array(found.hypervolume) >= target)
            seeds.append(found.cost[reached[0]] / self.unit if len(reached) else None)
        return Reach(trials, cost, tuple(seeds))

    def marks(self) -> dict[str, float]:
        """Mean hypervolume at the end of each of `MARKS` that was replayed."""
        plain = {contender.sampler: contender for contender in self.replays if not contender.early_stopping}
        return {
            f"{name}@{self.trials}": float(self.hypervolumes(plain[name], self.trials).mean())
            for name in MARKS
            if name in plain
        }

    def ask_milliseconds(self, contender: Contender) -> tuple[float, float]:
        """Median and 95th percentile of a proposal, over all seeds."""
        seconds = np.concatenate([found.ask_seconds for found in self.replays[contender]])
        return float(np.median(seconds)) * 1e3, float(np.quantile(seconds, 0.95)) * 1e3

    def tables(self) -> list[Table]:
        """Mean and standard deviation of the hypervolume over seeds, by trials and by cost, and when marks are met."""
        seeds = len(next(iter(self.replays.values())))
        at_a_time = "one trial at a time" if self.workers == 1 else f"{self.workers} trials at a time"
        of = f"{seeds} seeds, {at_a_time}"
        return [self._by_trials(of), self._by_cost(of), *([self._by_mark(of)] if self.marks() else [])]

    def _by_trials(self, of: str) -> Table:
        table = Table(title=f"{self.problem}: feasible hypervolume by trained trials, {of}", title_justify="left")
        table.add_column("sampler", no_wrap=True)
        for name in (*map(str, self.checkpoints()), "rejected", "broken", "ask ms", "ask p95"):
            table.add_column(name, justify="right")
        for contender, replays in self.replays.items():
            cells = [_spread(self.hypervolumes(contender, count)) for count in self.checkpoints()]
            rejected = np.mean([one.rejected for one in replays])
            broken = sum(one.broken for one in replays)
            median, slow = self.ask_milliseconds(contender)
            table.add_row(contender.label, *cells, f"{rejected:.0f}", str(broken), f"{median:.0f}", f"{slow:.0f}")
        return table

    def _by_cost(self, of: str) -> Table:
        title = f"{self.problem}: feasible hypervolume by training cost in whole trainings ({self.unit:.1f} s), {of}"
        table = Table(title=title, title_justify="left")
        table.add_column("sampler", no_wrap=True)
        for cost in self.costs():
            table.add_column(str(cost), justify="right")
        for contender, replays in self.replays.items():
            most = max(found.cost[-1] for found in replays) / self.unit
            cells = [
                _spread(self.hypervolumes_at_cost(contender, cost)) if cost <= most else "" for cost in self.costs()
            ]
            table.add_row(contender.label, *cells)
        return table

    def _by_mark(self, of: str) -> Table:
        title = f"{self.problem}: trials / training cost (each seed's) to the mean hypervolume of a mark, {of}"
        table = Table(title=title, title_justify="left")
        table.add_column("sampler", no_wrap=True)
        for name, target in self.marks().items():
            table.add_column(f"{name} ({target:.3f})", justify="right")
        for contender in self.replays:
            cells = [self.reach(contender, target).cell() for target in self.marks().values()]
            table.add_row(contender.label, *cells)
        return table

    def as_json(self) -> str:
        """Every curve, with a summary."""
        contenders: dict[str, Any] = {}
        for contender, replays in self.replays.items():
            median, slow = self.ask_milliseconds(contender)
            by_trials = {count: self.hypervolumes(contender, count) for count in self.checkpoints()}
            by_cost = {cost: self.hypervolumes_at_cost(contender, cost) for cost in self.costs()}
            reached = {name: self.reach(contender, target) for name, target in self.marks().items()}
            contenders[contender.label] = {
                "mean": {count: float(values.mean()) for count, values in by_trials.items()},
                "deviation": {count: float(values.std()) for count, values in by_trials.items()},
                "mean_at_cost": {cost: float(values.mean()) for cost, values in by_cost.items()},
                "deviation_at_cost": {cost: float(values.std()) for cost, values in by_cost.items()},
                "reach": {name: found.__dict__ for name, found in reached.items()},
                "ask_ms": {"median": median, "p95": slow},
                "seeds": [
                    {name: value for name, value in found.__dict__.items() if name != "ask_seconds"}
                    for found in replays
                ],
            }
        head = {"problem": self.problem, "workers": self.workers, "trials": self.trials, "unit_seconds": self.unit}
        return json.dumps({**head, "marks": self.marks(), "samplers": contenders}, indent=2)


def _at(places: Sequence[float], values: Sequence[float], place: float) -> float:
    """The last value whose place is not beyond `place`; 0 if there is none."""
    found = int(np.searchsorted(places, place, side="right"))
    return values[found - 1] if found else 0.0


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ±{values.std():.3f}"


def compare(
    problem: Problem,
    contenders: Sequence[Contender],
    seeds: int,
    trials: int,
    workers: int = 1,
    on_replayed: Callable[[Contender, int], None] = lambda contender, seed: None,
) -> Comparison:
    """Replay every contender with seeds 0, 1, ....

    Args:
        problem: to search.
        contenders: samplers, with early stopping or without.
        seeds: how many studies per contender.
        trials: handed out per study.
        workers: trials at a time.
        on_replayed: called after each study.
    """
    replays: dict[Contender, list[Replay]] = {}
    for contender in contenders:
        replays[contender] = []
        for seed in range(seeds):
            found = replay(problem, contender.sampler, seed, trials, workers, contender.early_stopping)
            replays[contender].append(found)
            on_replayed(contender, seed)
    return Comparison(problem.name, workers, trials, _unit(problem), replays)


def _unit(problem: Problem) -> float:
    generator = np.random.default_rng(0)
    seconds: list[float] = []
    while len(seconds) < _DRAWS:
        params = problem.space.to_params(*problem.space.draw(generator))
        costs = problem.costs(params)
        if all(costs[name] <= limit for name, limit in problem.limits.items()):
            seconds.append(problem.seconds(params))
    return float(np.mean(seconds))
