"""What a search may spend, and what it has spent."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.states import FAILED_AFTER, RECORD, RUNGS

SEARCHED = "searched_seconds"  # attribute of a study: wall time of all its searches so far
KEPT_EVERY = 10.0  # seconds; a search that is killed forgets no more of its time


@dataclass
class Time:
    """The time of a study, over all searches that had a part in it.

    Args:
        study: whose time it is.
        hours: of searching that it may take, the preparation of teachers apart; no limit by default.
        training_hours: that its trainings may take, added up over all workers; no limit by default.
    """

    study: optuna.Study
    hours: float | None = None
    training_hours: float | None = None
    _trained: dict[int, float] = field(init=False, default_factory=dict)
    _before: float = field(init=False, default=0.0)
    _started: float = field(init=False, default_factory=time.monotonic)
    _kept: float = field(init=False, default=-math.inf)

    def __post_init__(self) -> None:
        self._before = float(self.study.user_attrs.get(SEARCHED, 0.0))

    @property
    def seconds(self) -> float:
        """Of searching so far."""
        return self._before + time.monotonic() - self._started

    @property
    def training_seconds(self) -> float:
        """Of all trainings so far, as far as trials have told."""
        return sum(self._trained.values())

    @property
    def spent(self) -> str | None:
        """The limit that is reached, as the study file names it; None while no one is."""
        if self.training_hours is not None and self.training_seconds >= 3600 * self.training_hours:
            return f"search.training_hours {self.training_hours:g}"
        if self.hours is not None and self.seconds >= 3600 * self.hours:
            return f"search.hours {self.hours:g}"
        return None

    @property
    def over(self) -> bool:
        """Whether no training may start or go on any more."""
        return self.spent is not None

    def seconds_left(self, pace: float) -> float:
        """Of searching until a limit is reached; infinite without any.

        Args:
            pace: seconds of training in a second of searching, all workers together.
        """
        left = math.inf if self.hours is None else 3600 * self.hours - self.seconds
        if self.training_hours is not None and pace > 0:
            left = min(left, (3600 * self.training_hours - self.training_seconds) / pace)
        return max(0.0, left)

    def add(self, trial: FrozenTrial) -> None:
        """Enter how long a trial was trained so far."""
        self._trained[trial.number] = trained_seconds(trial)

    def remove(self, number: int) -> None:
        """Forget a trial, which another one repeats."""
        self._trained.pop(number, None)

    def keep(self, every: float = 0.0) -> None:
        """Write the time of the search to the storage, where a later one with a limit of `hours` finds it.

        Args:
            every: not again so many seconds after the last time.
        """
        now = time.monotonic()
        if now - self._kept >= every:
            with suppress(StorageInternalError, SQLAlchemyError):  # locked for long, or away: no reason to end a search
                self.study.set_user_attr(SEARCHED, self.seconds)
            self._kept = now


def trained_seconds(trial: FrozenTrial) -> float:
    """How long a trial was trained: as its record, its worker or its last rung says, or all its time if it failed
    without any of them."""
    attributes = trial.user_attrs
    if RECORD in attributes:
        return float(attributes[RECORD]["seconds"].get("train", 0.0))
    if FAILED_AFTER in attributes:
        return float(attributes[FAILED_AFTER])
    if attributes.get(RUNGS):
        return float(attributes[RUNGS][-1]["seconds"].get("train", 0.0))
    if trial.state == TrialState.FAIL and trial.duration is not None:
        return max(0.0, trial.duration.total_seconds())  # of local times, which the end of summer time sets back
    return 0.0
