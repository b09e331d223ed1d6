"""Samplers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search.samplers.places import place
from space.errors import InputError

if TYPE_CHECKING:
    from search.samplers.known_cost import KnownCosts

SamplerName = Literal["known-cost", "tpe", "nsga2", "gp", "random", "qmc"]

# Of (what is known of the study's costs, seed of the study, seed of the trial).
Maker = Callable[["KnownCosts | None", int, int], BaseSampler]


class _PlacedQMC(QMCSampler):
    """One scrambled Sobol sequence for the whole study, of which a trial takes the point of its place.

    Optuna counts the points in the storage, where a killed search leaves some that no trial used.
    """

    def __init__(self, study_seed: int, seed: int) -> None:
        independent = RandomSampler(seed=seed)
        super().__init__(
            seed=study_seed, scramble=True, independent_sampler=independent, warn_independent_sampling=False
        )
        self._place = 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._place = place(study, trial)
        super().before_trial(study, trial)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _known_cost(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    from search.samplers.known_cost import KnownCostSampler

    if known is None:
        raise InputError("The sampler known-cost needs to know the costs of a configuration.", "Use tpe.")
    return KnownCostSampler(known, study_seed, seed)


def _tpe(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _nsga2(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    # A small population: budgets here are tens of trained trials, and Optuna's default of 50 would be
    # random search until the end.
    return NSGAIISampler(population_size=16, seed=seed)


def _gp(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    return GPSampler(seed=seed, independent_sampler=RandomSampler(seed=seed), warn_independent_sampling=False)


def _random(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(known: KnownCosts | None, study_seed: int, seed: int) -> BaseSampler:
    return _PlacedQMC(study_seed, seed)


SAMPLERS: dict[SamplerName, Maker] = {
    "known-cost": _known_cost,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "gp": _gp,
    "random": _random,
    "qmc": _qmc,
}
