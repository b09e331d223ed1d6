"""What a trial in storage is: its attributes, its state, and how many there are of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from objectives.limits import Cost
from space.errors import InputError

if TYPE_CHECKING:
    from runners.record import TrialRecord

# Attributes of a trial in storage.
RECORD = "record"  # the TrialRecord of a trained trial (JSON)
ERROR = "error"  # why a trial failed, one line of text
TRACEBACK = "traceback"  # where it failed, the last lines
FAILED_AFTER = "failed_after_seconds"  # how long a trial that failed was trained
STOPPED = "stopped"  # why no result can be written (disk full): the search ends, the trial is repeated
INFEASIBLE = "infeasible"  # constraint values of a trial that breaks a limit
BYTES = "deployed_bytes"  # known before training; a trial that has it was handed to a worker
ORPHANED = "orphaned"  # a trial that counts for nothing: its driver or worker went away, or another one answers it
DRIVER = "driver"  # who handed out a trial, where several drivers may (`search.drivers`)
DRIVERS = "driver:"  # of a study: what its attributes about drivers begin with
RUNGS = "rungs"  # the RungResult of every rung that a trial has passed (JSON)
PAUSED = "paused"  # the rung at which a trial was set aside; None once it goes on
ANSWERED_BY = "answered_by"  # number of the trial of the same configuration that stands for this one
PROPOSED = "proposed"  # who proposed a trial that the sampler did not (of a study: what was found of cells)
FROM = "warm_start_from"  # study, number and place of what a trial repeats of an older study
WORKERS_LOST = "workers_lost"  # how many workers died of this trial and of those that it repeats

Objective = Literal["quality", Cost]
State = Literal["finished", "failed", "stopped", "infeasible", "answered", "orphaned", "running", "paused", "waiting"]


@dataclass
class Counts:
    """Trials of a study by state. The budget counts `started`."""

    finished: int = 0
    failed: int = 0
    stopped: int = 0
    infeasible: int = 0
    answered: int = 0
    orphaned: int = 0
    running: int = 0
    paused: int = 0
    waiting: int = 0

    def add(self, state: State, step: int = 1) -> None:
        """Count a trial of that state."""
        setattr(self, state, getattr(self, state) + step)

    @property
    def trained(self) -> int:
        """Trainings that have ended."""
        return self.finished + self.failed + self.stopped

    @property
    def started(self) -> int:
        """Trainings that were begun."""
        return self.trained + self.paused + self.running


def state_of(trial: FrozenTrial) -> State:
    """What a trial in storage is, in the words of this project."""
    attributes = trial.user_attrs
    if trial.state.is_finished() and ANSWERED_BY in attributes:
        return "answered"
    if trial.state == TrialState.COMPLETE:
        return "finished"
    if trial.state == TrialState.FAIL:
        return "orphaned" if ORPHANED in attributes else "failed"
    if trial.state == TrialState.PRUNED:
        return "stopped" if INFEASIBLE not in attributes and attributes.get(RUNGS) else "infeasible"
    if trial.state == TrialState.RUNNING:
        return "running" if attributes.get(PAUSED) is None else "paused"
    return "waiting"


def read_record(study: str, attributes: Mapping[str, Any], on_arm: Mapping[str, Any] | None = None) -> TrialRecord:
    """The record among the attributes of a trial of a study, with what was measured `on_arm` since.

    Raises:
        InputError: another version of Shoebox wrote it.
    """
    from runners.record import TrialRecord  # takes torch along: not for `--help`

    try:
        return TrialRecord.model_validate({**attributes[RECORD], "on_arm": on_arm})
    except ValidationError as error:
        raise unreadable(study, error) from None


def unreadable(name: str, error: ValidationError) -> InputError:
    """What to say of a study that this version of Shoebox cannot read."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the study file"
    return InputError(
        f"Study {name!r} was made by another version of Shoebox ({where}: {first['msg']}).",
        "Use that version, or start another study by --name NAME.",
    )


def objective_values(record: TrialRecord, objectives: Sequence[Objective]) -> list[float]:
    """The values of a record in the order of the study's objectives; NaN where the record lacks one."""
    values: dict[str, float] = {"quality": record.quality, **record.costs()}
    return [float(values.get(name, math.nan)) for name in objectives]
