"""Who goes on from a rung, without a study."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from objectives.pareto import non_dominated
from search.halving import EarlyStoppingSpec, Halving, ranked


def test_rungs_follow_from_grace_or_are_given() -> None:
    assert EarlyStoppingSpec(grace=0.1, reduction_factor=3).shares() == pytest.approx((0.1, 0.3, 0.9))
    assert EarlyStoppingSpec(grace=0.25, reduction_factor=4).shares() == (0.25,)
    assert EarlyStoppingSpec(rungs=(0.2, 0.5)).shares() == (0.2, 0.5)
    for wrong in ({"rungs": (0.5, 0.2)}, {"rungs": (0.0, 0.2)}, {"rungs": (0.2,), "grace": 0.1}, {"grace": 1.0}):
        with pytest.raises(ValidationError):
            EarlyStoppingSpec(**wrong)


def test_one_objective_is_ranked_by_quality_and_a_late_best_goes_on() -> None:
    halving = Halving(["maximize"], 3)
    for trial, quality in enumerate([0.5, 0.7, 0.6, 0.4, 0.3]):
        halving.enter(trial, 0, [quality])
        # One in three, and at least one: the best so far always goes on.
        assert halving.goes_on(trial, 0) == (trial in (0, 1))
    halving.enter(5, 0, [0.1])
    assert halving.best(0) == [1, 2]
    # What was set aside too early is promoted when enough others have come; of several rungs the highest first.
    assert halving.promoted([(2, 0), (3, 0)]) == 2
    halving.enter(1, 1, [0.8])
    assert halving.promoted([(2, 0), (1, 1)]) == 1
    halving.leave(1)
    assert halving.best(0) == [2]
    assert halving.promoted([(1, 1)]) is None


def test_two_objectives_are_ranked_by_fronts_that_are_covered_evenly() -> None:
    generator = np.random.default_rng(0)
    points = generator.random((60, 2))
    order = ranked(points, ["maximize", "minimize"], 60)
    assert sorted(order) == list(range(60))
    front = non_dominated(points, ["maximize", "minimize"])
    assert set(order[: len(front)]) == set(front)
    assert order[0] == max(front, key=lambda index: points[index, 0])
    assert order[1] == min(front, key=lambda index: points[index, 1])
    # A good and slow trial does not push a fair and fast one out.
    assert ranked(np.array([[0.9, 5.0], [0.89, 4.9], [0.88, 4.8], [0.5, 1.0]]), ["maximize", "minimize"], 2) == [0, 3]


def test_a_training_that_starts_anew_gets_to_where_it_was() -> None:
    halving = Halving(["maximize"], 3)
    halving.enter(0, 0, [0.5])
    halving.enter(0, 1, [0.6])
    halving.enter(1, 0, [0.7])
    assert halving.goes_on(0, 0)
    assert not halving.goes_on(2, 0)
    halving.enter(1, 1, [0.8])
    assert not halving.goes_on(0, 1)


def test_what_is_no_number_never_goes_on() -> None:
    halving = Halving(["maximize", "minimize"], 2)
    halving.enter(0, 0, [math.nan, 1.0])
    assert not halving.goes_on(0, 0)
    for trial in (1, 2, 3):
        halving.enter(trial, 0, [0.1 * trial, 5.0])
    assert halving.best(0) == [3, 2]


def test_equal_trials_are_all_ranked() -> None:
    assert sorted(ranked(np.ones((4, 2)), ["maximize", "minimize"], 3)) == [0, 1, 2]
