"""What a study's trials say, in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.samplers.known_cost.known import KnownCosts
from search.states import ORPHANED, PAUSED, RUNGS


@dataclass(frozen=True)
class History:
    """The trials of a study but one.

    Attributes:
        observed: rows [n, columns] of finished trials, and of failed ones.
        qualities: [n]; a failed trial has the worst of the finished ones, so that its like is not tried again
            and again. With early stopping, where none but the best finish, it is one of `believed` instead, with the
            worst quality at the first rung.
        believed: rows [m, columns] of trials whose quality is not known (yet): those that run, and those that were
            stopped before their full training.
        numbers: [m] of the latter trials.
        running: [m], which of them are held to be trained to the end; the others stopped at a rung.
        observed_rungs, believed_rungs: [n, rungs] and [m, rungs], qualities at the rungs of early stopping; NaN at
            those that a trial did not reach. One that is no number counts as the worst at its rung.
        rejected: rows [k, columns] of trials that broke a limit, by a cost that was measured.
        correction: [costs], by which a cost must be multiplied so that the median of the measured ones is met.
    """

    observed: np.ndarray
    qualities: np.ndarray
    believed: np.ndarray
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
        """`key` of every trial."""
        return frozenset(key(row) for row in np.concatenate((self.tried(), self.rejected)))

    def digest(self) -> bytes:
        """The same for histories that say the same."""
        digest = hashlib.sha256()
        for field in fields(self):
            values: np.ndarray = getattr(self, field.name)
            digest.update(repr(values.shape).encode() + values.tobytes())
        return digest.digest()

    @classmethod
    def of(
        cls, study: optuna.Study, but: FrozenTrial | None, known: KnownCosts, waiting: Collection[int] = ()
    ) -> History:
        """Read a study.

        Args:
            study: to read; its trials as they were when this thread last asked for one.
            but: the trial that a proposal is wanted for; without it, the trials are read as they are now.
            known: its costs.
            waiting: numbers of trials that are not being trained, whatever else is said of them.
        """
        observed, qualities, failed, rejected = [], [], [], []
        believed: list[np.ndarray] = []
        numbers: list[int] = []
        running: list[bool] = []
        observed_rungs: list[list[float]] = []
        believed_rungs: list[list[float]] = []
        ratios: list[list[float]] = [[] for _ in known.names]
        wanted = None if but is None else but.number
        # Those of a proposal, as of its beginning.
        for trial in study._get_trials(deepcopy=False, use_cache=but is not None):
            if trial.number == wanted or trial.state == TrialState.WAITING or ORPHANED in trial.user_attrs:
                continue
            row = known.row(trial.params)
            if row is None:  # of another space, or being asked for right now
                continue
            if trial.state.is_finished() and trial.constraints:
                _compare(trial, known, known.costs(row[None])[0], ratios)
            reached = _rung_qualities(trial)
            if trial.state == TrialState.COMPLETE:
                observed.append(row)
                observed_rungs.append(reached)
                qualities.append(trial.values[known.quality_index])
            elif trial.state == TrialState.FAIL:
                failed.append(row)
            elif trial.state == TrialState.RUNNING or all(value <= 0 for value in trial.constraints.values()):
                believed.append(row)
                believed_rungs.append(reached)
                numbers.append(trial.number)
                left = trial.state != TrialState.RUNNING or trial.user_attrs.get(PAUSED) is not None
                running.append(not reached or not (left or trial.number in waiting))
            else:
                rejected.append(row)
        most = max(map(len, (*observed_rungs, *believed_rungs)), default=0)
        if qualities and not most:
            observed += failed
            observed_rungs += [[] for _ in failed]
            qualities += [min(qualities)] * len(failed)
        else:
            believed += failed
            believed_rungs += [[-np.inf] if most else [] for _ in failed]
            numbers += [-1] * len(failed)
            running += [not most] * len(failed)
        rungs = np.concatenate((_padded(observed_rungs, most), _padded(believed_rungs, most)))
        for quality in rungs.T:
            quality[np.isneginf(quality)] = quality[np.isfinite(quality)].min(initial=np.inf)
        rungs[np.isinf(rungs)] = np.nan
        correction = [float(np.median(ratio)) if ratio else 1.0 for ratio in ratios]
        width = len(known.layout)
        return cls(
            np.array(observed).reshape(-1, width),
            np.array(qualities, dtype=float),
            np.array(believed).reshape(-1, width),
            np.array(numbers, dtype=int),
            np.array(running, dtype=bool),
            rungs[: len(observed)],
            rungs[len(observed) :],
            np.array(rejected).reshape(-1, width),
            np.array(correction),
        )


def key(row: np.ndarray) -> bytes:
    """The same for rows of one configuration, whose positions in ranges may differ in the last digits."""
    return np.round(row, 9).tobytes()


def _rung_qualities(trial: FrozenTrial) -> list[float]:
    """Quality at each rung up to the last one passed, -inf if it is no number; NaN at one that was left out."""
    passed = {int(found["rung"]): float(found["quality"]) for found in trial.user_attrs.get(RUNGS) or ()}
    passed = {rung: quality if np.isfinite(quality) else -np.inf for rung, quality in passed.items()}
    return [passed.get(rung, np.nan) for rung in range(max(passed, default=-1) + 1)]


def _padded(rows: list[list[float]], width: int) -> np.ndarray:
    """Rows of different lengths as [n, width], NaN at the end."""
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows], dtype=float).reshape(len(rows), width)


def _compare(trial: FrozenTrial, known: KnownCosts, costs: np.ndarray, ratios: list[list[float]]) -> None:
    """Enter what a trial's costs were measured to be, as told by its constraints, over what they are held to be."""
    for index, name in enumerate(known.names):
        excess = trial.constraints.get(name, 0.0)
        # 0 stands for "not measured" (see `objectives.limits.constraint_values`).
        if excess != 0.0 and np.isfinite(known.limits[index]):
            ratios[index].append((1 + excess) * known.limits[index] / costs[index])
