"""Choose one option of each part so that the whole costs little and loses little: the multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Option(NamedTuple):
    """One way to build a part.

    Attributes:
        size: that it adds, in whole units; may be below 0 where sizes are differences.
        loss: that it adds.
    """

    size: int
    loss: float


class Choice(NamedTuple):
    """One option of every part.

    Attributes:
        size, loss: in sum.
        options: the place of the option of each part.
    """

    size: int
    loss: float
    options: tuple[int, ...]


def best_choices(parts: Sequence[Sequence[Option]]) -> list[Choice]:
    """All choices that no other one beats in size or loss without being worse in the other, by rising size.

    For every budget, the last of them within it has the least loss that the budget allows. Exact: part after part, sums
    that another sum dominates are dropped, since whatever is added to both leaves them so. Of equals the first stays.
    """
    sizes, losses = np.zeros(1, np.int64), np.zeros(1)
    trail = []
    for options in parts:
        added = np.array([option.size for option in options], np.int64)
        lost = np.array([option.loss for option in options], np.float64)
        size, loss = (sizes[:, None] + added).ravel(), (losses[:, None] + lost).ravel()
        order = np.lexsort((loss, size))
        least = np.minimum.accumulate(np.concatenate(([np.inf], loss[order][:-1])))
        kept = order[loss[order] < least]
        trail.append(np.divmod(kept, len(options)))
        sizes, losses = size[kept], loss[kept]
    found = []
    for place in range(len(sizes)):
        row, chosen = place, []
        for parents, options_of in reversed(trail):
            chosen.append(int(options_of[row]))
            row = int(parents[row])
        found.append(Choice(int(sizes[place]), float(losses[place]), tuple(reversed(chosen))))
    return found
