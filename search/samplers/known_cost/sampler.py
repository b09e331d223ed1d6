"""A sampler that models quality only: what a configuration costs is known before it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from objectives.pareto import Direction, non_dominated
from search.samplers.known_cost.cokriging import CoKriging, Process
from search.samplers.known_cost.features import Features
from search.samplers.known_cost.gain import ExpectedGain
from search.samplers.known_cost.gaussian_process import GaussianProcess, Scales, settled
from search.samplers.known_cost.history import History, keys
from search.samplers.known_cost.known import KnownCosts
from search.samplers.known_cost.prior import JUDGED, ShiftedProcess, agrees
from search.samplers.known_cost.worth import gain_by_share
from space.dimensions import contains

STARTUP = 12  # trials before the model is asked: measured, fewer leave it sure of too little, more are spent
WITH_PRIOR = 5  # the same where older studies have told something
PRIOR_LASTS = 16  # observations from which on older studies help no more, and can mislead: measured
SAMPLED, MUTANTS, CROSSES = 256, 64, 32  # candidates: of the pool, whose costs are known already, and of the front
BEST, REFINED = 8, 64  # refinement: so many variants of so many best candidates,
STEPS = (0.1, 0.04)  # once with each of these steps
# The model's deviations count once at first, then a tenth more for each trial, up to three times. It is surer than it
# should be (off by 1.2 to 1.5 of its deviations), which pays at first, and later keeps the search around the first good
# configuration. Measured on recorded trials; GP-UCB's factor grows too (Srinivas et al. 2010, arXiv 0912.3995).
MORE_PER_TRIAL, MOST_TIMES = 0.1, 3.0
MOST_FITTED = 128  # observations that the kernel's scales are fitted to


@dataclass(frozen=True)
class _Belief:
    """What a study's trials let expect of others.

    Attributes:
        model: of quality, on a scale of its own.
        gain_of: the gain against the front of what was or is trained to the end, on the same scale.
        parents: rows [n, columns] of that front.
    """

    model: CoKriging | Process
    gain_of: ExpectedGain
    parents: np.ndarray


class KnownCostSampler(BaseSampler):
    """Proposes the feasible configuration with the largest expected hypervolume gain, for one trial.

    A Gaussian process predicts quality. The front is that of its predictions at the configurations tried, not of
    the measured qualities, so that one lucky training does not hold it. Running trials count as observed at their
    prediction; quality at the rungs of early stopping is learnt from as well (`CoKriging`), and `worth` says whether a
    trial that stopped at one should go on. Everything follows from the study in storage and the seeds.

    Args:
        known: the space and its costs.
        study_seed: of the pool that is common to all trials of the study.
        seed: of this trial.
    """

    def __init__(self, known: KnownCosts, study_seed: int, seed: int) -> None:
        self._known = known
        self._study_seed = study_seed
        self._seed = seed
        self._generator = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._known.distributions

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Asked only for parameters that are not of the space, or beside enqueued ones that do not fit it.
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        given = trial.system_attrs.get("fixed_params", {})
        if given and self._known.layout.row(given) is not None:
            return {}
        # As they were when the trial was asked for: Optuna keeps them for the whole proposal.
        trials = study._get_trials(deepcopy=False, use_cache=True)
        history = History.of(trials, self._known, trial.number)
        pool = self._pool(given)
        row = self._next_of(pool, history) if self._is_starting(history) else self._best(history, pool, given)
        return self._known.layout.params(row)

    def _is_starting(self, history: History) -> bool:
        known_enough = STARTUP if self._known.prior is None else WITH_PRIOR
        judged = len(history.qualities) + int(np.isfinite(history.believed_rungs).any(axis=1).sum())
        return history.started < known_enough or judged < 2

    def _pool(self, given: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        rows, costs = self._known.pool(self._study_seed)
        if given:
            rows = self._with(rows, given)
            costs = self._known.costs(rows)
        return rows, costs

    def _with(self, rows: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
        """Rows with the parameters that were enqueued."""
        layout = self._known.layout
        rows = rows.copy()
        for name, value in given.items():
            column = layout.column(name)
            if column is not None and contains(layout.dimensions[column], value):
                rows[:, column] = layout.position(column, value)
        return layout.mask(rows, layout.draw_filled(self._generator, len(rows)))

    def _next_of(self, pool: tuple[np.ndarray, np.ndarray], history: History) -> np.ndarray:
        """The configuration of the pool that its turn has come to, or the next one that was not tried."""
        rows, _ = pool
        turn = (history.started + len(history.rejected)) % len(rows)
        order = np.roll(rows, -turn, axis=0)
        return next((row for row, key in zip(order, keys(order), strict=True) if key not in history.keys), rows[turn])

    def _best(self, history: History, pool: tuple[np.ndarray, np.ndarray], given: Mapping[str, Any]) -> np.ndarray:
        if not given:
            foreseen = self._foresee(history)
            return self._next_of(pool, history) if foreseen is None else foreseen[1]
        belief = self._believe(history)
        return self._next_of(pool, history) if belief is None else self._search(belief, history, pool, given)

    def _foresee(self, history: History) -> tuple[_Belief, np.ndarray] | None:
        """What is expected, and what is proposed next: `worth` asks for both right before the proposal is wanted."""
        key = (self._study_seed, self._seed, history.digest())
        if key not in self._known.foreseen:
            belief = self._believe(history)
            found = None if belief is None else (belief, self._search(belief, history, self._pool({}), {}))
            self._known.foreseen = {key: found}
            return found
        return self._known.foreseen[key]

    def _believe(self, history: History) -> _Belief | None:
        """What is expected of configurations; None where too little is known."""
        known = self._known
        features = known.features(self._study_seed)
        running = history.believed[history.running]
        tried = np.concatenate((history.observed, running))
        tried_costs = known.costs(tried)
        worst = known.worst_quality
        model: CoKriging | Process | None
        if history.believed_rungs.shape[1]:
            model = self._of_rungs(history, features)
            if not model:
                return None
            means = model.mean(features(tried, tried_costs))
            everything = history.tried()
            lowest = model.mean(features(everything, known.costs(everything))).min() if worst is None else worst
        else:
            first = history.qualities[: settled(len(history.qualities))]
            middle, spread = first.mean(), max(float(first.std()), 1e-6)
            x = features(history.observed, known.costs(history.observed))
            y = (history.qualities - middle) / spread
            model = self._process(x, y, features(running, known.costs(running)), features)
            if model is None:
                return None
            means = model.observed_means
            lowest = means.min() if worst is None else (worst - middle) / spread
        # What stopped at a rung is no part of the front: it may never be trained to its end.
        kept = known.excess(tried_costs, history.correction) <= 0
        costs = tried_costs[kept][:, known.objective_costs]
        gain_of = ExpectedGain(costs, means[kept], known.worst_costs(self._study_seed), lowest)
        parents = tried[kept][self._front(costs, means[kept])]
        return _Belief(model, gain_of, parents)

    def _of_rungs(self, history: History, features: Features) -> CoKriging:
        known = self._known
        rows = history.tried()
        # By number: the first stay the first, whatever becomes of them.
        order = np.argsort(np.concatenate((history.observed_numbers, history.numbers)), kind="stable")
        qualities = np.full((len(rows), history.believed_rungs.shape[1] + 1), np.nan)
        qualities[: len(history.observed), :-1] = history.observed_rungs
        qualities[: len(history.observed), -1] = history.qualities
        qualities[len(history.observed) :, :-1] = history.believed_rungs
        running = np.concatenate((np.zeros(len(history.observed), dtype=bool), history.running))

        def first(x: np.ndarray, y: np.ndarray, believed: np.ndarray) -> Process | None:
            return self._process(x, y, believed, features)

        def further(x: np.ndarray, y: np.ndarray, believed: np.ndarray) -> Process:
            return self._process_of(x, y, self._scales(x, y, features.remoteness), believed)

        x = features(rows, known.costs(rows))
        return CoKriging(x[order], qualities[order], running[order], first, further)

    def _search(
        self, belief: _Belief, history: History, pool: tuple[np.ndarray, np.ndarray], given: Mapping[str, Any]
    ) -> np.ndarray:
        """The configuration of the largest expected gain."""
        known = self._known
        features = known.features(self._study_seed)
        objectives = known.objective_costs
        times = min(max(MORE_PER_TRIAL * (history.started - STARTUP), 1.0), MOST_TIMES)

        def weigh(rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
            predicted, deviations = belief.model.predict(features(rows, costs))
            gains = belief.gain_of(costs[:, objectives], predicted, times * deviations)
            gains[known.excess(costs, history.correction) > 0] = -1.0
            gains[[key in history.keys for key in keys(rows)]] = -2.0
            return gains

        rows, costs = pool
        sampled = self._generator.permutation(len(rows))[:SAMPLED]
        rows, costs = rows[sampled], costs[sampled]
        rows, costs = self._join(rows, costs, self._variants(belief.parents if len(belief.parents) else rows), given)
        gains = weigh(rows, costs)
        for step in STEPS:
            best = np.argsort(-gains, kind="stable")[:BEST]
            rows, costs, gains = rows[best], costs[best], gains[best]
            copies = np.repeat(rows, REFINED // len(rows), axis=0)
            # Half of the variants train the same student in another way, which changes no cost.
            only = np.where(np.arange(len(copies))[:, None] % 2 == 0, known.recipe, True)
            old = len(rows)
            more = known.layout.vary(copies, self._generator, step, only)
            rows, costs = self._join(rows, costs, more, given)
            gains = np.concatenate((gains, weigh(rows[old:], costs[old:])))
        return rows[int(np.argmax(gains))]

    def worth(self, trials: Sequence[FrozenTrial], left: Mapping[int, float], first: float) -> dict[int, float] | None:
        """What it is worth to go on with each of some trials that stopped at a rung, in place of a new one.

        That is the expected hypervolume gain by the share of a training that is left of it, over that of the new
        trial which would be proposed (`gain_by_share`).

        Args:
            trials: of the study.
            left: what is left of the training of each, by number, between 0 and 1.
            first: share of a training up to the first rung.

        Returns:
            Worth by number, in units of a new trial's; None where too little is known to tell.
        """
        history = History.of(trials, self._known, waiting=left)
        foreseen = None if self._is_starting(history) else self._foresee(history)
        if foreseen is None:
            return None
        belief, row = foreseen
        model, known, features = belief.model, self._known, self._known.features(self._study_seed)
        if not isinstance(model, CoKriging):
            return None

        def expect(rows: np.ndarray, passed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            costs = known.costs(rows)
            return costs[:, known.objective_costs], *model.predict(features(rows, costs), passed)

        row = row[None]
        move = float(model.moves(features(row, known.costs(row)))[0])
        costs, means, deviations = expect(row, None)
        new = gain_by_share(belief.gain_of, costs[0], float(means[0]), float(deviations[0]), move, first)
        wanted = np.isin(history.numbers, list(left))
        numbers = history.numbers[wanted].tolist()
        gains = belief.gain_of(*expect(history.believed[wanted], history.believed_rungs[wanted]))
        return {number: gain / left[number] / max(new, 1e-12) for number, gain in zip(numbers, gains, strict=True)}

    def _process(self, x: np.ndarray, y: np.ndarray, believed: np.ndarray, features: Features) -> Process | None:
        """The model of quality, on top of what older studies expect unless the trials contradict it.

        None where they do, and there are too few trials to do without.
        """
        known, scales = self._known, None
        prior = known.prior if len(y) < PRIOR_LASTS else None
        shift = prior.model(known.layout, features, known.costs).fitted(x, y) if prior else None
        if shift is not None:
            rest = y - shift(x)
            shifted = self._scales(x, rest, features.remoteness)
            if len(y) >= JUDGED:
                scales = self._scales(x, y, features.remoteness)
            if scales is None or agrees(x, y, scales, shift, shifted):
                process = self._process_of(x, rest, shifted, believed)
                return ShiftedProcess(process, shift, np.concatenate((x, believed)))
        if len(y) + len(believed) < STARTUP:
            return None
        return self._process_of(x, y, scales or self._scales(x, y, features.remoteness), believed)

    def _process_of(self, x: np.ndarray, y: np.ndarray, scales: Scales, believed: np.ndarray) -> GaussianProcess:
        return GaussianProcess(x, y, scales, believed, self._known.factor(x[: settled(len(x))], scales))

    def _scales(self, x: np.ndarray, y: np.ndarray, remoteness: np.ndarray) -> Scales:
        """The kernel's scales, fitted to the first observations."""
        count = settled(len(y))
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FITTED)).round().astype(int))
        return self._known.fitted(x[chosen], y[chosen], remoteness)

    def _variants(self, parents: np.ndarray) -> np.ndarray:
        layout, generator = self._known.layout, self._generator
        everything = np.ones(len(layout), dtype=bool)
        mutants = layout.vary(parents[generator.integers(len(parents), size=MUTANTS)], generator, 0.2, everything)
        first, second = (parents[generator.integers(len(parents), size=CROSSES)] for _ in range(2))
        return np.concatenate((mutants, layout.cross(first, second, generator)))

    def _join(
        self, rows: np.ndarray, costs: np.ndarray, more: np.ndarray, given: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        more = self._with(more, given) if given else more
        return np.concatenate((rows, more)), np.concatenate((costs, self._known.costs(more)))

    @staticmethod
    def _front(costs: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Which points [n] no other one beats, the best one alone if there is only quality."""
        directions: list[Direction] = ["minimize" for _ in range(costs.shape[1])]
        directions.append("maximize")
        return np.array(non_dominated(np.column_stack((costs, means)), directions), dtype=int)
