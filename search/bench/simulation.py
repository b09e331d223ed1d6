"""One study on a problem, with simulated workers and a virtual clock."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import TrialState

from objectives.pareto import Direction, hypervolume
from search.bench.problem import Problem
from search.halving import GRACE, Halving
from search.samplers import PerTrialSampler, SamplerName, seeds, worth_by
from search.samplers.known_cost import KnownCosts
from search.states import PAUSED, RUNGS
from space.errors import InputError

MOST_REJECTIONS = 1000
REDUCTION_FACTOR = 3.0


@dataclass
class Replay:
    """What one study was like. Lists have an entry for every whole training, in the order in which they ended.

    Attributes:
        hypervolume: of the wholly trained configurations' true qualities, after each of them.
        clock: virtual seconds at which each ended.
        trained: trials that had been trained by then, to the end or to a rung.
        cost: seconds of training that had been spent by then, in whole and in stopped trainings.
        rejected: proposals that broke a limit and were not trained.
        ask_seconds: how long each proposal took, by a real clock, rejected ones included.
        duplicates: trials whose configuration had been handed out before.
        broken: trials that were trained although they break a limit.
        busy: share of the workers' time that was training.
    """

    hypervolume: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    rejected: int = 0
    ask_seconds: list[float] = field(default_factory=list)
    duplicates: int = 0
    broken: int = 0
    busy: float = 1.0


@dataclass(frozen=True)
class _Training:
    """A trial that a worker has in hand, or that waits at a rung."""

    trial: optuna.Trial
    qualities: tuple[float, ...]
    seconds: float

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def params(self) -> dict[str, Any]:
        return self.trial.params


class Simulation:
    """A study in memory.

    A worker that is free gets the next feasible proposal at once; results arrive in the order in which the trainings
    end on the virtual clock. With `early_stopping` it is asynchronous successive halving with promotions, as in a
    search (`search.halving`): a training that reaches a rung goes on or stops; a free worker takes up a stopped one
    where it was, if that is to go on by now, and asks for a proposal if there is none.

    Args:
        problem: to search.
        sampler: by name.
        seed: of the study; also of the noise.
        workers: trials at a time.
        early_stopping: stop trials at the problem's rungs, from `GRACE` on.
    """

    def __init__(
        self, problem: Problem, sampler: SamplerName, seed: int, workers: int = 1, early_stopping: bool = False
    ) -> None:
        self.problem, self.seed, self.workers = problem, seed, workers
        self.found = Replay()
        self._known = KnownCosts(problem.space, problem.costs, problem.objectives, problem.limits, problem.reference)
        self._directions: list[Direction] = ["maximize" if n == "quality" else "minimize" for n in problem.objectives]
        known = self._known if sampler == "known-cost" else None
        self._study = optuna.create_study(directions=self._directions, sampler=PerTrialSampler(sampler, seed, known))
        self._rungs = tuple(share for share in problem.rungs if share >= GRACE) if early_stopping else (1.0,)
        worth = worth_by(self._study)

        def of_rungs(waiting: Mapping[int, int]) -> Mapping[int, float] | None:
            assert worth is not None
            return worth({number: 1 - self._rungs[rung] for number, rung in waiting.items()}, self._rungs[0])

        self._halving = Halving(self._directions, REDUCTION_FACTOR, of_rungs if worth is not None else None)
        self._running: list[tuple[float, int, int, _Training]] = []  # end, number, rung that it will have reached
        self._waiting: dict[int, tuple[int, _Training]] = {}  # by number: the rung it stopped at
        self._points: list[list[float]] = []
        self._handed_out: set[tuple[tuple[str, Any], ...]] = set()
        self._now = self._spent = 0.0
        self._started = self._trials = 0
        self._arrived: set[int] = set()

    def run(self, trials: int) -> Replay:
        """Hand out so many trials.

        Raises:
            InputError: too many proposals in a row broke a limit.
        """
        self._trials = trials
        while True:
            while len(self._running) < self.workers and self._hand_out():
                pass
            if not self._running:
                break
            self._now, _, rung, training = heapq.heappop(self._running)
            self._arrive(rung, training)
        for training in [training for _, training in self._waiting.values()]:
            self._study.tell(training.number, state=TrialState.PRUNED)
        if self._now > 0:
            self.found.busy = self._spent / (self._now * self.workers)
        return self.found

    def _hand_out(self) -> bool:
        """Give a free worker something to do; says whether there was anything."""
        promoted = self._halving.promoted(self._paused(), last=self._started >= self._trials)
        if promoted is not None:
            rung, training = self._waiting.pop(promoted)
            training.trial.set_user_attr(PAUSED, None)
            self._train(rung + 1, training)
            return True
        if self._started >= self._trials:
            return False
        trial = self._propose()
        params = trial.params
        self._started += 1
        self.found.duplicates += tuple(sorted(params.items())) in self._handed_out
        self._handed_out.add(tuple(sorted(params.items())))
        qualities = self.problem.evaluate(params, seeds(self.seed, trial.number)[1])[-len(self._rungs) :]
        self._train(0, _Training(trial, qualities, self.problem.seconds(params)))
        return True

    def _train(self, rung: int, training: _Training) -> None:
        """Let a worker train from one rung to the next."""
        before = self._rungs[rung - 1] if rung else 0.0
        seconds = (self._rungs[rung] - before) * training.seconds
        self._spent += seconds
        heapq.heappush(self._running, (self._now + seconds, training.number, rung, training))

    def _arrive(self, rung: int, training: _Training) -> None:
        """A training has reached a rung."""
        problem, number = self.problem, training.number
        self._arrived.add(number)
        costs = problem.costs(training.params)
        if rung + 1 == len(self._rungs):
            self._study.tell(number, self._values(costs, training.qualities[-1]))
            self._points.append(self._values(costs, problem.quality(training.params)))
            worst = [problem.reference[name] for name in problem.objectives]
            self.found.hypervolume.append(hypervolume(self._points, worst, self._directions))
            self.found.clock.append(self._now)
            self.found.trained.append(len(self._arrived))
            self.found.cost.append(self._spent)
            self.found.broken += any(costs[name] > limit for name, limit in problem.limits.items())
            return
        self._halving.enter(number, rung, self._values(costs, training.qualities[rung]))
        passed = [{"rung": place, "quality": quality} for place, quality in enumerate(training.qualities[: rung + 1])]
        training.trial.set_user_attr(RUNGS, passed)
        if self._halving.goes_on(number, rung, self._paused(), last=self._started >= self._trials):
            self._train(rung + 1, training)
        else:
            training.trial.set_user_attr(PAUSED, rung)
            self._waiting[number] = (rung, training)

    def _paused(self) -> list[tuple[int, int]]:
        return [(number, rung) for number, (rung, _) in self._waiting.items()]

    def _values(self, costs: Mapping[str, float], quality: float) -> list[float]:
        return [quality if name == "quality" else float(costs[name]) for name in self.problem.objectives]

    def _propose(self) -> optuna.Trial:
        """Ask until a proposal keeps the limits, as `search.ledger` does."""
        problem, study = self.problem, self._study
        for _ in range(MOST_REJECTIONS):
            start = time.perf_counter()
            trial = study.ask()
            problem.space.suggest(trial)
            self.found.ask_seconds.append(time.perf_counter() - start)
            costs = problem.costs(trial.params)
            excess = {name: costs[name] / limit - 1 for name, limit in problem.limits.items()}
            for name, value in excess.items():
                trial.set_constraint(name, value)
            if all(value <= 0 for value in excess.values()):
                return trial
            study.tell(trial, state=TrialState.PRUNED)
            self.found.rejected += 1
        raise InputError(f"{MOST_REJECTIONS} proposals in a row broke the limits of {problem.name}.")


def replay(
    problem: Problem, sampler: SamplerName, seed: int, trials: int, workers: int = 1, early_stopping: bool = False
) -> Replay:
    """Run one study of so many trials in memory; see `Simulation`."""
    return Simulation(problem, sampler, seed, workers, early_stopping).run(trials)
