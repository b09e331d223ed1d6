"""Where a trial is judged on its way, so that a search can stop it early."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from space.errors import InputError

if TYPE_CHECKING:
    from runners.distill import Distillation

logger = logging.getLogger("shoebox.runners.rungs")


class RungResult(BaseModel):
    """How a student stood at a rung.

    Attributes:
        rung: its place among the rungs of the study, from 0.
        share: of the training steps done.
        quality: the study's metric of the torch student, rounded as its file would be, on part of the validation split.
        costs: of the student, known before it was trained.
        seconds: wall time of each step of the trial so far, in all processes that had a part in it.
        checkpoint: file from which the training goes on.
    """

    # A quality that is not a number must stay one: it tells a trial that leads nowhere.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    rung: int
    share: float
    quality: float
    costs: dict[str, float]
    seconds: dict[str, float]
    checkpoint: str


@dataclass(frozen=True)
class Rungs:
    """The rungs of one trial.

    Attributes:
        shares: of the training steps, rising, each above 0 and below 1.
        examples: at most so many of each validation split, evenly spaced, judge a student.
        folder: for the trial's checkpoints; made where it is missing.
        passed: results of the rungs that the trial has behind it; it goes on from the last one's checkpoint.
    """

    shares: tuple[float, ...]
    examples: int
    folder: Path
    passed: tuple[RungResult, ...] = ()

    def ahead(self, steps: int) -> list[tuple[int, int]]:
        """The rungs that are to come, each with the step at which it is reached; those that a training of so few
        steps cannot tell apart are left out."""
        passed = self.passed[-1] if self.passed else None
        done = 0 if passed is None else _step(passed.share, steps)
        found = []
        for rung in range(0 if passed is None else passed.rung + 1, len(self.shares)):
            step = self.step(rung, steps)
            if done < step < steps:
                found.append((rung, step))
                done = step
        return found

    def step(self, rung: int, steps: int) -> int:
        """The step, of so many, at which a rung is reached."""
        return _step(self.shares[rung], steps)


def _step(share: float, steps: int) -> int:
    return max(1, round(share * steps))


def restored(training: Distillation, rungs: Rungs) -> Rungs:
    """Let a training that has not begun go on from the last rung that was passed.

    Returns:
        The same rungs; with none of them passed where that checkpoint is of no use (damaged, or of another training):
        the training begins then, which costs time and no trial.
    """
    if not rungs.passed:
        return rungs
    try:
        training.restore(Path(rungs.passed[-1].checkpoint))
    except InputError as error:
        logger.warning("%s That training starts anew.", error.message)
        return replace(rungs, passed=())
    return rungs
