"""Samplers by name.

A study asks through `PerTrialSampler`, which makes its inner sampler anew for every trial, seeded from the
study's seed and the trial's place in the study. All other memory of a sampler is the storage, so a stopped
and resumed study goes on with the proposals that an uninterrupted one would have made (exactly so with one
worker; with several, the order in which results arrive matters).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

SamplerName = Literal["tpe", "random", "nsga2"]

# Trial attributes (see `search.ledger`): a trial that does again what an orphaned one did not finish.
RETRY_OF = "retry_of"
PLACE = "place"


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    # A small population: budgets here are tens of trained trials, and Optuna's default of 50 would be
    # random search until the end.
    return NSGAIISampler(population_size=16, seed=seed)


SAMPLERS: dict[SamplerName, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": _random, "nsga2": _nsga2}


def place(study: optuna.Study, trial: FrozenTrial) -> int:
    """The trial's place in the study, counted as if no trial had ever been orphaned.

    A retry takes the place of the trial that it repeats, so that seeds after a resume are those of an
    uninterrupted study.
    """
    if PLACE in trial.user_attrs:
        return int(trial.user_attrs[PLACE])
    others = study.get_trials(deepcopy=False)
    return trial.number - sum(t.number < trial.number and RETRY_OF in t.user_attrs for t in others)


def seeds(study_seed: int, trial_place: int) -> tuple[int, int]:
    """Seeds of one trial: (of the sampler's draw, of the training), both in [0, 2**31)."""
    draw, training = np.random.SeedSequence([study_seed, trial_place]).generate_state(2)
    return int(draw) >> 1, int(training) >> 1


class PerTrialSampler(BaseSampler):
    """An Optuna sampler made anew for every trial, with the seed of that trial.

    Args:
        name: one of `SAMPLERS`.
        seed: seed of the study.
    """

    def __init__(self, name: SamplerName, seed: int) -> None:
        self.name = name
        self.seed = seed
        self._inner = self._make(0)

    def _make(self, draw_seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's notes on experimental arguments
            return SAMPLERS[self.name](draw_seed)

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
