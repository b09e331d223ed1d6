"""One study on a problem, with simulated workers and a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from objectives.pareto import Direction, hypervolume
from search.bench.problem import Problem
from search.samplers import PerTrialSampler, SamplerName, seeds
from search.samplers.known_cost import KnownCosts
from space.errors import InputError

MOST_REJECTIONS = 1000


@dataclass
class Replay:
    """What one study was like.

    Attributes:
        hypervolume: of the trained configurations' true qualities, after each trained trial.
        clock: virtual seconds at which each trained trial ended.
        rejected: proposals that broke a limit and were not trained.
        ask_seconds: how long each proposal took, by a real clock, rejected ones included.
        duplicates: trained trials whose configuration had been trained before.
    """

    hypervolume: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    rejected: int = 0
    ask_seconds: list[float] = field(default_factory=list)
    duplicates: int = 0


def replay(problem: Problem, sampler: SamplerName, seed: int, trials: int, workers: int = 1) -> Replay:
    """Run one study in memory.

    A worker that is free gets the next feasible proposal at once; results arrive in the order in which the
    trainings end on the virtual clock.

    Args:
        problem: to search.
        sampler: by name.
        seed: of the study; also of the noise.
        trials: trained trials.
        workers: trials at a time.

    Raises:
        InputError: too many proposals in a row broke a limit.
    """
    found = Replay()
    known = KnownCosts(problem.space, problem.costs, problem.objectives, problem.limits, problem.reference)
    directions = _directions(problem)
    study = optuna.create_study(
        directions=directions, sampler=PerTrialSampler(sampler, seed, known if sampler == "known-cost" else None)
    )
    running: list[tuple[float, int, dict[str, Any]]] = []
    points: list[list[float]] = []
    trained: set[tuple[tuple[str, Any], ...]] = set()
    now = 0.0
    worst = [problem.reference[name] for name in problem.objectives]
    for started in itertools.count():
        if started < trials:
            number, params = _propose(problem, study, found)
            heapq.heappush(running, (now + problem.seconds(params), number, params))
        if len(running) < workers and started + 1 < trials:
            continue
        if not running:
            return found
        now, number, params = heapq.heappop(running)
        costs = problem.costs(params)
        study.tell(number, _values(problem, costs, problem.evaluate(params, seeds(seed, number)[1])))
        points.append(_values(problem, costs, problem.quality(params)))
        found.duplicates += tuple(sorted(params.items())) in trained
        trained.add(tuple(sorted(params.items())))
        found.hypervolume.append(hypervolume(points, worst, directions))
        found.clock.append(now)
    raise AssertionError("unreachable")


def _directions(problem: Problem) -> list[Direction]:
    return ["maximize" if name == "quality" else "minimize" for name in problem.objectives]


def _values(problem: Problem, costs: Mapping[str, float], quality: float) -> list[float]:
    return [quality if name == "quality" else float(costs[name]) for name in problem.objectives]


def _propose(problem: Problem, study: optuna.Study, found: Replay) -> tuple[int, dict[str, Any]]:
    """Ask until a proposal keeps the limits, as `search.ledger` does."""
    for _ in range(MOST_REJECTIONS):
        start = time.perf_counter()
        trial = study.ask()
        problem.space.suggest(trial)
        found.ask_seconds.append(time.perf_counter() - start)
        costs = problem.costs(trial.params)
        excess = {name: costs[name] / limit - 1 for name, limit in problem.limits.items()}
        for name, value in excess.items():
            trial.set_constraint(name, value)
        if all(value <= 0 for value in excess.values()):
            return trial.number, trial.params
        study.tell(trial, state=TrialState.PRUNED)
        found.rejected += 1
    raise InputError(f"{MOST_REJECTIONS} proposals in a row broke the limits of {problem.name}.")
