"""What going on with a trial is worth, against a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.bench import SyntheticProblem
from search.bench.simulation import Simulation
from search.samplers.known_cost.gain import ExpectedGain
from search.samplers.known_cost.worth import gain_by_share


def test_a_new_trial_is_worth_more_the_more_a_rung_says() -> None:
    gain_of = ExpectedGain(np.array([[2.0]]), np.array([0.8]), [10.0], 0.5)
    cost, mean, deviation, first = np.array([1.5]), 0.78, 0.05, 0.1
    whole = gain_of(cost[None], np.array([mean]), np.array([deviation]))[0]
    assert gain_by_share(gain_of, cost, mean, deviation, 0.0, first) == pytest.approx(whole)
    worth = [gain_by_share(gain_of, cost, mean, deviation, move, first) for move in (0.01, 0.03, 0.049)]
    assert whole < worth[0] < worth[1] < worth[2]
    # Against all bars, by drawing.
    generator = np.random.default_rng(0)
    drawn = mean + 0.03 * generator.standard_normal(20_000)
    after = np.full(len(drawn), np.sqrt(deviation**2 - 0.03**2))
    gains = gain_of(np.repeat(cost[None], len(drawn), axis=0), drawn, after)[np.argsort(-drawn)]
    count = np.arange(1, len(drawn) + 1) / len(drawn)
    assert worth[1] == pytest.approx((np.cumsum(gains) / len(drawn) / (first + (1 - first) * count)).max(), rel=0.05)


class Forgetful(dict[Any, Any]):
    """What nothing is found in."""

    def __contains__(self, key: object) -> bool:
        return False


def test_what_worth_foresaw_is_what_is_proposed() -> None:
    found = []
    for foreseen in ({}, Forgetful()):
        simulation = Simulation(SyntheticProblem(), "known-cost", 1, workers=2, early_stopping=True)
        simulation._known.foreseen = foreseen
        simulation.run(24)
        found.append([(trial.params, trial.values) for trial in simulation._study.trials])
        assert len(foreseen) == 1
    assert found[0] == found[1]
