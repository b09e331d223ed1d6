"""Who goes on from a rung, without a study."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from objectives.pareto import non_dominated
from search.halving import EarlyStoppingSpec, Halving, ranked


def test_rungs_follow_from_grace_or_are_given() -> None:
    assert EarlyStoppingSpec(grace=0.1, reduction_factor=3).shares() == pytest.approx((0.1, 0.3))
    assert EarlyStoppingSpec(grace=1 / 27, reduction_factor=3).shares() == pytest.approx((1 / 27, 1 / 9, 1 / 3))
    assert EarlyStoppingSpec(grace=0.5).shares() == (0.5,)
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


@pytest.mark.parametrize("by_gain", [True, False])
def test_what_is_no_number_at_a_later_rung_takes_nobody_s_place(by_gain: bool) -> None:
    halving = judged_by(dict.fromkeys(range(4), 2.0)) if by_gain else Halving(["maximize"], 3)
    for trial in range(4):
        halving.enter(trial, 0, [1.0 - 0.1 * trial])
    assert halving.promoted([(trial, 0) for trial in range(4)], last=True) == 0
    waiting = [(trial, 0) for trial in (1, 2, 3)]
    assert halving.promoted(waiting, last=True) is None
    halving.enter(0, 1, [math.nan])
    assert halving.promoted([(0, 1), *waiting], last=True) == 1


def test_equal_trials_are_all_ranked() -> None:
    assert sorted(ranked(np.ones((4, 2)), ["maximize", "minimize"], 3)) == [0, 1, 2]


def judged_by(worths: dict[int, float] | None) -> Halving:
    return Halving(["maximize"], 3, lambda waiting: None if worths is None else {n: worths[n] for n in waiting})


def test_what_is_worth_most_goes_on_once_it_is_worth_more_than_a_new_trial() -> None:
    worths = {trial: 0.1 * trial for trial in range(10)}
    halving = judged_by(worths)
    halving.enter(9, 0, [0.5])  # has gone on
    paused: list[tuple[int, int]] = []
    for trial in range(9):
        halving.enter(trial, 0, [1.0 - 0.1 * trial])  # by rank it would be the first one
        assert not halving.goes_on(trial, 0, paused)
        paused.append((trial, 0))
        assert halving.promoted(paused) is None
    assert halving.due(paused) == dict(paused)
    # When no new trial is to come, that is no yardstick.
    assert halving.promoted(paused, last=True) == 8
    worths[4] = 1.1
    assert halving.promoted(paused) == 4
    # One in three, no matter what they are worth.
    worths.update(dict.fromkeys(range(10), 2.0))
    for expected in (0, 1, None):
        assert halving.promoted(paused) == expected
        if expected is not None:
            paused.remove((expected, 0))
            halving.enter(expected, 1, [0.5])
    assert halving.due(paused) == {}
    halving.enter(9, 1, [0.5])
    passed = [(trial, 1) for trial in (0, 1, 9)]
    assert halving.promoted(passed) == 0  # of the next rung, too
    # Of ten that were begun three may pass this one as well; once no more are begun, one of its three.
    assert halving.promoted([*passed[1:], *paused]) == 1
    assert halving.promoted([*passed[1:], *paused], last=True) is None
    assert halving.goes_on(1, 0)  # starts anew


def test_the_first_one_goes_on_to_its_end_whatever_a_new_one_is_worth() -> None:
    halving = judged_by({0: 0.1, 1: 0.2, 2: 0.1})
    for trial in range(3):
        halving.enter(trial, 0, [0.5])
    waiting = [(trial, 0) for trial in range(3)]
    assert halving.promoted(waiting) == 1
    waiting.remove((1, 0))
    assert halving.promoted(waiting) is None
    halving.enter(1, 1, [0.6])
    assert halving.promoted([*waiting, (1, 1)]) == 1


def test_trials_that_ended_at_a_rung_take_nobody_s_place() -> None:
    halving = judged_by(dict.fromkeys(range(9), 2.0))
    for trial in range(9):
        halving.enter(trial, 0, [0.5])
    assert halving.promoted([(trial, 0) for trial in range(6, 9)]) is None  # six have gone on, as far as is known
    for trial in range(6):
        halving.close(trial)
    assert halving.promoted([(trial, 0) for trial in range(6, 9)]) == 6
    # One that ended at a later rung has passed this one, though.
    for trial in range(3):
        halving.enter(trial, 1, [0.6])
    assert halving.promoted([(trial, 0) for trial in range(6, 9)]) is None


def test_when_no_new_trial_is_to_come_none_is_sent_to_a_rung_that_lets_none_go_on() -> None:
    halving = judged_by(dict.fromkeys(range(12), 2.0))
    for trial in range(12):
        halving.enter(trial, 0, [0.5])
    for trial in range(2):
        halving.enter(trial, 1, [0.6])
    paused = [(trial, 0) for trial in range(2, 12)]
    # Of four that get to the next rung one may go on: two have already.
    assert halving.promoted(paused) == 2
    assert halving.due(paused, last=True) == {}
    assert set(halving.due([(1, 1), (0, 1), *paused], last=True)) == set(range(12))


def test_ranks_decide_where_worth_cannot_be_told_and_nothing_more_is_to_come() -> None:
    halving = judged_by(None)
    paused = [(trial, 0) for trial in range(4)]
    for trial, quality in enumerate([0.5, 0.7, math.nan, 0.6]):
        halving.enter(trial, 0, [quality])
    assert halving.promoted(paused) is None
    assert halving.promoted(paused, last=True) == 1
    assert halving.due([(2, 0)], last=True) == {}  # its quality is no number
    # However few there are, one of them is trained to its end.
    halving.enter(1, 1, [0.8])
    assert halving.promoted([(1, 1)]) is None
    assert halving.promoted([(1, 1)], last=True) == 1
