"""What a study's trials say, in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.samplers.known_cost.known import KnownCosts
from search.states import ORPHANED, PAUSED, RUNGS


@dataclass(frozen=True)
class History:
    """The trials of a study but one.

    Attributes:
        observed: rows [n, columns] of finished trials and of failed ones, in the order in which they ended (by the
            times that the storage has): the first stay the first, also with many workers.
        qualities: [n]; a failed trial has the worst of the finished ones, so that its like is not tried again
            and again. With early stopping, where none but the best finish, it is one of `believed` instead, with the
            worst quality at the first rung.
        believed: rows [m, columns] of trials whose quality is not known (yet): those that run, and those that were
            stopped before their full training.
        observed_numbers, numbers: [n] and [m], of the trials.
        running: [m], which of them are held to be trained to the end; the others stopped at a rung.
        observed_rungs, believed_rungs: [n, rungs] and [m, rungs], qualities at the rungs of early stopping; NaN at
            those that a trial did not reach. One that is no number counts as the worst at its rung.
        rejected: rows [k, columns] of trials that broke a limit, by a cost that was measured.
        correction: [costs], by which a cost must be multiplied so that the median of the measured ones is met.
    """

    observed: np.ndarray
    qualities: np.ndarray
    believed: np.ndarray
    observed_numbers: np.ndarray
    numbers: np.ndarray
    running: np.ndarray
    observed_rungs: np.ndarray
    believed_rungs: np.ndarray
    rejected: np.ndarray
    correction: np.ndarray

    @property
    def started(self) -> int:
        """How many trials were handed out for training."""
        return len(self.observed) + len(self.believed)

    def tried(self) -> np.ndarray:
        """Rows of all trials that have a place in the model."""
        return np.concatenate((self.observed, self.believed))

    @cached_property
    def keys(self) -> frozenset[bytes]:
        """Of every trial; see the function."""
        return frozenset(keys(np.concatenate((self.tried(), self.rejected))))

    def digest(self) -> bytes:
        """The same for histories that say the same."""
        digest = hashlib.sha256()
        for field in fields(self):
            values: np.ndarray = getattr(self, field.name)
            digest.update(repr(values.shape).encode() + values.tobytes())
        return digest.digest()

    @classmethod
    def of(
        cls, trials: Iterable[FrozenTrial], known: KnownCosts, but: int | None = None, waiting: Collection[int] = ()
    ) -> History:
        """Read the trials of a study.

        Args:
            trials: to read.
            known: the study's costs.
            but: number of the trial that a proposal is wanted for.
            waiting: numbers of trials that are not being trained, whatever else is said of them.
        """
        finished: list[_Read] = []
        failed: list[_Read] = []
        rejected: list[np.ndarray] = []
        believed: list[np.ndarray] = []
        numbers: list[int] = []
        running: list[bool] = []
        believed_rungs: list[list[float]] = []
        measured: list[_Read] = []
        for trial in trials:
            if trial.number == but or trial.state == TrialState.WAITING or ORPHANED in trial.user_attrs:
                continue
            read = _read(trial, known)
            if read.row is None:
                continue
            if read.constraints and trial.state.is_finished():
                measured.append(read)
            if trial.state == TrialState.COMPLETE:
                finished.append(read)
            elif trial.state == TrialState.FAIL:
                failed.append(read)
            elif trial.state == TrialState.RUNNING or all(value <= 0 for value in read.constraints.values()):
                believed.append(read.row)
                believed_rungs.append(read.rungs)
                numbers.append(trial.number)
                left = trial.state != TrialState.RUNNING or trial.user_attrs.get(PAUSED) is not None
                running.append(not read.rungs or not (left or trial.number in waiting))
            else:
                rejected.append(read.row)
        most = max(map(len, (*(read.rungs for read in finished), *believed_rungs)), default=0)
        worst = min((read.trial.values[known.quality_index] for read in finished), default=np.nan)
        if finished and not most:
            finished += [read._replace(rungs=[]) for read in failed]
        else:
            believed += [read.row for read in failed if read.row is not None]
            believed_rungs += [[-np.inf] if most else [] for _ in failed]
            numbers += [read.trial.number for read in failed]
            running += [not most] * len(failed)
        finished.sort(key=lambda read: (read.trial.datetime_complete, read.trial.number))
        qualities = [worst if (v := read.trial.values) is None else v[known.quality_index] for read in finished]
        observed_rungs = [read.rungs for read in finished]
        rungs = np.concatenate((_padded(observed_rungs, most), _padded(believed_rungs, most)))
        for quality in rungs.T:
            quality[np.isneginf(quality)] = quality[np.isfinite(quality)].min(initial=np.inf)
        rungs[np.isinf(rungs)] = np.nan
        width = len(known.layout)
        return cls(
            np.array([read.row for read in finished]).reshape(-1, width),
            np.array(qualities, dtype=float),
            np.array(believed).reshape(-1, width),
            np.array([read.trial.number for read in finished], dtype=int),
            np.array(numbers, dtype=int),
            np.array(running, dtype=bool),
            rungs[: len(finished)],
            rungs[len(finished) :],
            np.array(rejected).reshape(-1, width),
            _correction(measured, known),
        )


def keys(rows: np.ndarray) -> list[bytes]:
    """Of rows [n, columns]: the same for those of one configuration, whose positions may differ in the last digits."""
    return [row.tobytes() for row in np.round(rows, 9)]


class _Read(NamedTuple):
    """A trial as the model sees it.

    Attributes:
        trial: as the storage gave it.
        ended: whether it had ended by then.
        row: None where it has no place in the model: it is of another space, or being asked for right now.
        constraints: what is told of its limits.
        rungs: its qualities at them (`_rung_qualities`).
    """

    trial: FrozenTrial
    ended: bool
    row: np.ndarray | None
    constraints: Mapping[str, float]
    rungs: list[float]


def _read(trial: FrozenTrial, known: KnownCosts) -> _Read:
    """As it was read before if it had ended by then, and else with the row that it had: every proposal reads all."""
    before: _Read | None = known.read.get(trial.number)
    if before is not None and before.ended and before.trial is trial:
        return before
    # Some storages hand out one object for good, whose parameters are filled in one by one: a row that was missing
    # is looked for again.
    if before is not None and before.row is not None and before.trial.params == trial.params:
        row: np.ndarray | None = before.row
    else:
        row = known.layout.row(trial.params)
    found = _Read(trial, trial.state.is_finished(), row, trial.constraints, _rung_qualities(trial))
    known.read[trial.number] = found
    return found


def _rung_qualities(trial: FrozenTrial) -> list[float]:
    """Quality at each rung up to the last one passed, -inf if it is no number; NaN at one that was left out."""
    passed = {int(found["rung"]): float(found["quality"]) for found in trial.user_attrs.get(RUNGS) or ()}
    passed = {rung: quality if np.isfinite(quality) else -np.inf for rung, quality in passed.items()}
    return [passed.get(rung, np.nan) for rung in range(max(passed, default=-1) + 1)]


def _padded(rows: list[list[float]], width: int) -> np.ndarray:
    """Rows of different lengths as [n, width], NaN at the end."""
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows], dtype=float).reshape(len(rows), width)


def _correction(measured: Sequence[_Read], known: KnownCosts) -> np.ndarray:
    """What costs were measured to be, as told by the constraints of trials, over what they are held to be: medians."""
    costs = known.costs(np.array([read.row for read in measured]).reshape(-1, len(known.layout)))
    correction = np.ones(len(known.names))
    for index, name in enumerate(known.names):
        excess = np.array([read.constraints.get(name, 0.0) for read in measured])
        told = excess != 0.0  # 0 stands for "not measured" (see `objectives.limits.constraint_values`)
        if told.any() and np.isfinite(known.limits[index]):
            correction[index] = np.median((1 + excess[told]) * known.limits[index] / costs[told, index])
    return correction
