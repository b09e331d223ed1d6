"""A sampler that models quality only: what a configuration costs is known before it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from objectives.pareto import Direction, non_dominated
from search.samplers.known_cost.features import Features
from search.samplers.known_cost.gain import ExpectedGain
from search.samplers.known_cost.gaussian_process import GaussianProcess, Scales
from search.samplers.known_cost.history import History, key
from search.samplers.known_cost.known import KnownCosts
from search.samplers.known_cost.prior import JUDGED, ShiftedProcess, agrees
from search.samplers.known_cost.rungs import foresee
from space.dimensions import contains

STARTUP = 12  # trials before the model is asked: measured, fewer leave it sure of too little, more are spent
WITH_PRIOR = 5  # the same where older studies have told something
PRIOR_LASTS = 16  # observations from which on older studies help no more, and can mislead: measured
SAMPLED, MUTANTS, CROSSES, FRESH = 384, 128, 64, 64  # candidates: of the pool, variants of the front, drawn anew
BEST, REFINED = 8, 96  # refinement: so many variants of so many best candidates,
STEPS = (0.1, 0.04)  # once with each of these steps
# The model's deviations count once at first, then a tenth more for each trial, up to three times. It is surer than it
# should be (off by 1.2 to 1.5 of its deviations), which pays at first, and later keeps the search around the first good
# configuration. Measured on recorded trials; GP-UCB's factor grows too (Srinivas et al. 2010, arXiv 0912.3995).
MORE_PER_TRIAL, MOST_TIMES = 0.1, 3.0
MOST_FITTED = 128  # observations that the kernel's scales are fitted to


class KnownCostSampler(BaseSampler):
    """Proposes the feasible configuration with the largest expected hypervolume gain.

    A Gaussian process predicts quality. The front is that of its predictions at the configurations tried, not of
    the measured qualities, so that one lucky training does not hold it. Running trials count as observed at their
    prediction; of those that stopped at a rung, its quality says something (`foresee`). Everything follows from the
    study in storage and the seeds.

    Args:
        known: the space and its costs.
        study_seed: of the pool that is common to all trials of the study.
        seed: of this trial.
    """

    def __init__(self, known: KnownCosts, study_seed: int, seed: int) -> None:
        self._known = known
        self._study_seed = study_seed
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
        history = History.of(study, trial, self._known)
        pool = self._pool(given)
        known_enough = STARTUP if self._known.prior is None else WITH_PRIOR
        starting = history.started < known_enough or len(history.qualities) < 2
        row = self._next_of(pool, history) if starting else self._best(history, pool, given)
        return self._known.layout.params(row)

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
        return next((row for row in (*rows[turn:], *rows[:turn]) if key(row) not in history.keys), rows[turn])

    def _best(self, history: History, pool: tuple[np.ndarray, np.ndarray], given: Mapping[str, Any]) -> np.ndarray:
        known = self._known
        features = known.features(self._study_seed)
        middle, spread = history.qualities.mean(), max(float(history.qualities.std()), 1e-6)
        # A stopped trial counts as an observation of the quality that its rung lets expect, as noisy as that is.
        expected, variances = foresee(history.observed_rungs, history.qualities, history.believed_rungs)
        stopped = np.isfinite(expected)
        observed = np.concatenate((history.observed, history.believed[stopped]))
        x = features(observed, known.costs(observed))
        y = (np.concatenate((history.qualities, expected[stopped])) - middle) / spread
        noise = np.concatenate((np.zeros(len(history.qualities)), variances[stopped] / spread**2))
        running = history.believed[~stopped]
        believed = features(running, known.costs(running))
        process = self._process(x, y, noise, believed, features)
        if process is None:
            return self._next_of(pool, history)

        # It is no part of the front, though: it may never be trained to its end.
        tried = np.concatenate((history.observed, running))
        tried_costs = known.costs(tried)
        kept = known.excess(tried_costs, history.correction) <= 0
        means = process.observed_means
        tried_means = np.concatenate((means[: len(history.observed)], means[len(observed) :]))
        worst = tried_means.min() if known.worst_quality is None else (known.worst_quality - middle) / spread
        objectives = known.objective_costs
        worst_costs = known.worst_costs(self._study_seed)
        gain_of = ExpectedGain(tried_costs[kept][:, objectives], tried_means[kept], worst_costs, worst)

        times = min(max(MORE_PER_TRIAL * (len(tried) - STARTUP), 1.0), MOST_TIMES)

        def weigh(rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
            predicted, deviations = process.predict(features(rows, costs))
            gains = gain_of(costs[:, objectives], predicted, times * deviations)
            gains[known.excess(costs, history.correction) > 0] = -1.0
            gains[[key(row) in history.keys for row in rows]] = -2.0
            return gains

        parents = tried[kept][self._front(tried_costs[kept][:, objectives], tried_means[kept])]
        rows, costs = pool
        sampled = self._generator.permutation(len(rows))[:SAMPLED]
        rows, costs = rows[sampled], costs[sampled]
        rows, costs = self._join(rows, costs, self._variants(parents if len(parents) else rows), given)
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

    def _process(
        self, x: np.ndarray, y: np.ndarray, noise: np.ndarray, believed: np.ndarray, features: Features
    ) -> GaussianProcess | ShiftedProcess | None:
        """The model of quality, on top of what older studies expect unless the trials contradict it.

        None where they do, and there are too few trials to do without.
        """
        known, scales = self._known, None
        prior = known.prior if len(y) < PRIOR_LASTS else None
        shift = prior.model(known.layout, features, known.costs).fitted(x, y) if prior else None
        if shift is not None:
            rest = y - shift(x)
            shifted = self._scales(x, rest, features.remoteness, noise)
            if len(y) >= JUDGED:
                scales = self._scales(x, y, features.remoteness, noise)
            if scales is None or agrees(x, y, noise, scales, shift, shifted):
                process = GaussianProcess(x, rest, shifted, believed, noise)
                return ShiftedProcess(process, shift, np.concatenate((x, believed)))
        if len(y) + len(believed) < STARTUP:
            return None
        return GaussianProcess(x, y, scales or self._scales(x, y, features.remoteness, noise), believed, noise)

    def _scales(self, x: np.ndarray, y: np.ndarray, remoteness: np.ndarray, noise: np.ndarray) -> Scales:
        """The kernel's scales, fitted anew at every trial at first, then ever more rarely."""
        count = len(y)
        step = 1 if count < 64 else 4 if count < 256 else 16
        count -= count % step
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FITTED)).round().astype(int))
        return self._known.fitted(x[chosen], y[chosen], remoteness, noise[chosen])

    def _variants(self, parents: np.ndarray) -> np.ndarray:
        layout, generator = self._known.layout, self._generator
        everything = np.ones(len(layout), dtype=bool)
        mutants = layout.vary(parents[generator.integers(len(parents), size=MUTANTS)], generator, 0.2, everything)
        first, second = (parents[generator.integers(len(parents), size=CROSSES)] for _ in range(2))
        return np.concatenate((mutants, layout.cross(first, second, generator), layout.draw(generator, FRESH)))

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
