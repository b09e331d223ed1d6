"""A sampler that is made anew for every trial."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from search.samplers.named import SAMPLERS, SamplerName
from search.samplers.places import RETRY_OF, place, seeds

if TYPE_CHECKING:
    from search.samplers.known_cost import KnownCosts


class PerTrialSampler(BaseSampler):
    """An Optuna sampler made anew for every trial, with the seed of that trial.

    Args:
        name: one of `SAMPLERS`.
        seed: seed of the study.
        known: what is known of the study's costs; only `known-cost` needs it.

    Raises:
        InputError: the sampler needs costs and none are given.
    """

    def __init__(self, name: SamplerName, seed: int, known: KnownCosts | None = None) -> None:
        self.name = name
        self.seed = seed
        self.known = known
        self._inner = self._make(0)

    def _make(self, draw_seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's notes on experimental samplers and arguments
            return SAMPLERS[self.name](self.known, self.seed, draw_seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._make(seeds(self.seed, place(study, trial))[0])
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def worth(self, study: optuna.Study, left: Mapping[int, float], first: float) -> dict[int, float] | None:
        """What going on with trials that stopped at a rung is worth; see `KnownCostSampler.worth`."""
        from search.samplers.known_cost import KnownCostSampler

        # The place of the trial that would be the next one (`search.samplers.places`).
        trials = study.get_trials(deepcopy=False)
        count = sum(RETRY_OF not in trial.user_attrs for trial in trials)
        inner = self._make(seeds(self.seed, count)[0])
        return inner.worth(trials, left, first) if isinstance(inner, KnownCostSampler) else None


def worth_by(study: optuna.Study) -> Callable[[Mapping[int, float], float], dict[int, float] | None] | None:
    """`PerTrialSampler.worth` of a study, if its sampler can tell."""
    sampler = study.sampler
    if isinstance(sampler, PerTrialSampler) and sampler.name == "known-cost":
        return partial(sampler.worth, study)
    return None
