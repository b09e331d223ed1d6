"""What going on with a trial is worth, against a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from search.bench import SyntheticProblem
from search.bench.simulation import Simulation
from search.samplers.known_cost import KnownCosts, KnownCostSampler
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


def test_what_worth_foresaw_is_what_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def trials() -> list[Any]:
        simulation = Simulation(SyntheticProblem(), "known-cost", 1, workers=2, early_stopping=True)
        simulation.run(24)
        return [(trial.params, trial.values) for trial in simulation._study.trials]

    found = trials()
    searches = []
    search = KnownCostSampler._search
    monkeypatch.setattr(KnownCostSampler, "_search", lambda *given: searches.append(1) or search(*given))
    assert trials() == found
    remembering = len(searches)
    monkeypatch.setattr(KnownCosts, "foreseen", property(lambda self: {}, lambda self, found: None), raising=False)
    assert trials() == found
    assert len(searches) - remembering > 1.5 * remembering
