from __future__ import annotations

import pytest

from search.rejections import Rejections
from space import InputError


def test_what_is_handed_out_ends_a_row_of_proposals() -> None:
    rejections = Rejections()
    for number in range(10):
        rejections.settle(number, handed_out=False, broke=True)
        rejections.start(number) if number == 6 else None
    assert rejections.proposed == 3
    rejections.keep()  # one that was answered from the record
    assert rejections.proposed == 0


def test_what_workers_reject_counts_up_to_the_oldest_that_runs() -> None:
    rejections = Rejections()
    for number in range(10):
        rejections.start(number)
    for number in (9, 0, 2, 4, 5, 6, 7, 8):  # 1 and 3 train for longer
        rejections.settle(number, handed_out=True, broke=True)
    assert rejections.measured == 1
    rejections.settle(1, handed_out=True, broke=True)
    assert rejections.measured == 3
    rejections.settle(3, handed_out=True, broke=False)
    assert rejections.measured == 6
    with pytest.raises(InputError, match="6 proposals in a row broke the limits of study 'toy'"):
        rejections.check(6, "toy")
    rejections.check(7, "toy")


def test_a_paused_trial_kept_the_limits() -> None:
    rejections = Rejections()
    for number in range(12):
        rejections.start(number)
        rejections.settle(number, handed_out=True, broke=number % 2 == 0)
    assert rejections.measured == 0
