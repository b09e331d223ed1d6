"""Samplers compared over seeds, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from search.bench.problem import Problem
from search.bench.simulation import Replay, replay
from search.samplers import SamplerName

CHECKPOINTS = (15, 25, 30, 50, 70, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Comparison:
    """Studies of several samplers on one problem.

    Attributes:
        problem: its name.
        workers: trials at a time, in every study.
        replays: one per seed, by sampler.
    """

    problem: str
    workers: int
    replays: dict[SamplerName, list[Replay]]

    def checkpoints(self) -> list[int]:
        """Numbers of trained trials at which the hypervolume is shown; the last one is all."""
        most = min(len(found.hypervolume) for replays in self.replays.values() for found in replays)
        return sorted({count for count in CHECKPOINTS if count < most} | {most})

    def hypervolumes(self, sampler: SamplerName, count: int) -> np.ndarray:
        """[seeds], after so many trained trials."""
        return np.array([found.hypervolume[count - 1] for found in self.replays[sampler]])

    def trials_to(self, sampler: SamplerName, target: float) -> int | None:
        """The fewest trained trials after which the mean hypervolume is at least a target, None if it never is."""
        most = min(len(found.hypervolume) for found in self.replays[sampler])
        mean = np.mean([found.hypervolume[:most] for found in self.replays[sampler]], axis=0)
        reached = np.flatnonzero(mean >= target)
        return int(reached[0]) + 1 if len(reached) else None

    def ask_milliseconds(self, sampler: SamplerName) -> tuple[float, float]:
        """Median and 95th percentile of a proposal, over all seeds."""
        seconds = np.concatenate([found.ask_seconds for found in self.replays[sampler]])
        return float(np.median(seconds)) * 1e3, float(np.quantile(seconds, 0.95)) * 1e3

    def table(self) -> Table:
        """Mean and standard deviation of the hypervolume over seeds, by trained trials."""
        checkpoints = self.checkpoints()
        seeds = len(next(iter(self.replays.values())))
        at_a_time = "one trial at a time" if self.workers == 1 else f"{self.workers} trials at a time"
        title = f"{self.problem}: feasible hypervolume by trained trials, {seeds} seeds, {at_a_time}"
        table = Table(title=title, title_justify="left")
        table.add_column("sampler", no_wrap=True)
        for count in checkpoints:
            table.add_column(str(count), justify="right")
        for name in ("rejected", "ask ms", "ask p95"):
            table.add_column(name, justify="right")
        for sampler, replays in self.replays.items():
            found = [self.hypervolumes(sampler, count) for count in checkpoints]
            median, slow = self.ask_milliseconds(sampler)
            rejected = np.mean([one.rejected for one in replays])
            cells = [f"{values.mean():.3f} ±{values.std():.3f}" for values in found]
            table.add_row(sampler, *cells, f"{rejected:.0f}", f"{median:.0f}", f"{slow:.0f}")
        return table

    def as_json(self) -> str:
        """Every curve, with a summary."""
        samplers = {}
        for sampler, replays in self.replays.items():
            median, slow = self.ask_milliseconds(sampler)
            samplers[sampler] = {
                "mean": {count: float(self.hypervolumes(sampler, count).mean()) for count in self.checkpoints()},
                "deviation": {count: float(self.hypervolumes(sampler, count).std()) for count in self.checkpoints()},
                "ask_ms": {"median": median, "p95": slow},
                "seeds": [
                    {
                        "hypervolume": found.hypervolume,
                        "clock": found.clock,
                        "rejected": found.rejected,
                        "duplicates": found.duplicates,
                    }
                    for found in replays
                ],
            }
        return json.dumps({"problem": self.problem, "workers": self.workers, "samplers": samplers}, indent=2)


def compare(
    problem: Problem,
    samplers: Sequence[SamplerName],
    seeds: int,
    trials: int,
    workers: int = 1,
    on_replayed: Callable[[SamplerName, int], None] = lambda sampler, seed: None,
) -> Comparison:
    """Replay every sampler with seeds 0, 1, ....

    Args:
        problem: to search.
        samplers: by name.
        seeds: how many studies per sampler.
        trials: trained trials per study.
        workers: trials at a time.
        on_replayed: called after each study.
    """
    replays: dict[SamplerName, list[Replay]] = {}
    for sampler in samplers:
        replays[sampler] = []
        for seed in range(seeds):
            replays[sampler].append(replay(problem, sampler, seed, trials, workers))
            on_replayed(sampler, seed)
    return Comparison(problem.name, workers, replays)
