"""The rungs of a study: how its trials stood at them, and which wait there."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives.pareto import Direction
from runners.rungs import RungResult, Rungs
from search.halving import EarlyStoppingSpec, Halving
from search.retention import located
from search.states import RUNGS, Objective, State

logger = logging.getLogger("shoebox.search.ladder")

WorthOfShares = Callable[[Mapping[int, float], float], Mapping[int, float] | None]


class Ladder:
    """What the attributes of a study's trials say about rungs. A trial that may not go on from one waits there.

    Trials are ranked by their quality at the rung and by the other objectives of the study, which are known then, or
    go on by what that is worth (`EarlyStoppingSpec.promote_by`).

    Args:
        spec: of the study; without it no trial stops anywhere.
        objectives: of the study.
        worth: what the sampler says going on is worth, given what is left of each trial and the share of a training
            up to the first rung (`search.samplers.PerTrialSampler.worth`).
    """

    def __init__(
        self, spec: EarlyStoppingSpec | None, objectives: Sequence[Objective], worth: WorthOfShares | None = None
    ) -> None:
        self._spec = spec
        self._shares = spec.shares() if spec is not None else ()
        self._costs = [name for name in objectives if name != "quality"]
        lower: list[Direction] = ["minimize" for _ in self._costs]

        def of_rungs(waiting: Mapping[int, int]) -> Mapping[int, float] | None:
            assert worth is not None
            return worth({number: 1 - self._done[number] for number in waiting}, self._shares[0])

        factor = spec.reduction_factor if spec is not None else 1.0
        by_gain = worth is not None and spec is not None and spec.promote_by == "gain"
        self._halving = Halving(["maximize", *lower], factor, of_rungs if by_gain else None)
        self._done: dict[int, float] = {}  # share of its training that a trial has behind it
        self.waiting: dict[int, int] = {}

    def enter(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Enter the rungs that a trial has passed."""
        for rung in attributes.get(RUNGS) or ():
            costs = [rung["costs"].get(name, math.nan) for name in self._costs]
            self._halving.enter(number, rung["rung"], [rung["quality"], *costs])
            self._done[number] = rung["share"]

    def leave(self, number: int) -> None:
        """Forget a trial, which another one repeats."""
        self._halving.leave(number)

    def end(self, number: int, state: State) -> None:
        """Enter how a trial has ended. One without a student (it failed, or broke a limit) keeps no other one from
        going on."""
        if state == "stopped":
            self.waiting.pop(number, None)
            self._halving.close(number)
        elif state in ("failed", "infeasible"):
            self._halving.leave(number)

    def goes_on(self, number: int, attributes: Mapping[str, Any], last: bool) -> bool:
        """Whether a trial may go on from the last rung that it has passed; `last` if no new one is to come."""
        return self._spec is None or self._halving.goes_on(number, last_rung(attributes), self.waiting.items(), last)

    def promoted(self, last: bool) -> int | None:
        """The waiting trial that may go on, if there is one."""
        return self._halving.promoted(self.waiting.items(), last) if self.waiting else None

    def has_promotions(self) -> bool:
        """Whether there is one although no new trial is to come."""
        return bool(self._halving.due(self.waiting.items(), last=True))

    def rungs(self, attributes: Mapping[str, Any], checkpoints: Path) -> Rungs | None:
        """What a worker has to know of the rungs of a trial, whose checkpoints go into that folder; None without early
        stopping."""
        if self._spec is None:
            return None
        passed = tuple(RungResult.model_validate(rung) for rung in open_rungs(attributes, checkpoints.parent))
        if attributes.get(RUNGS) and not passed:
            logger.warning("%s is gone: that training starts anew.", attributes[RUNGS][-1]["checkpoint"])
        return Rungs(self._shares, self._spec.examples, checkpoints, passed)


def open_rungs(attributes: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rungs that a trial has passed, with their checkpoints where they are now, if it can go on from the last one.

    There are none where its checkpoint is no file here: it was lost, or the study comes from another machine.

    Args:
        attributes: of the trial.
        folder: of the study's checkpoints.
    """
    found = [{**rung, "checkpoint": str(located(rung["checkpoint"], folder))} for rung in attributes.get(RUNGS) or ()]
    return found if found and Path(found[-1]["checkpoint"]).is_file() else []


def last_rung(attributes: Mapping[str, Any]) -> int:
    """The last rung that a trial has passed."""
    return int(attributes[RUNGS][-1]["rung"])
