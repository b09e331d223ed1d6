"""The bookkeeping of a study: which trial is next, what became of it, what is left.

The study in storage is the only truth. A trial's result is written there by the worker that ran it (as one
of the attributes below); the driver then *settles* the trial, which is to say tells Optuna what the
attribute says. A driver that was killed in between loses nothing: `Ledger.recover` settles what has a
result, and queues again what has none.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.limits import Cost, Limits, broken, constraint_values
from search.samplers import PLACE, RETRY_OF, place, seeds
from search.storage import set_constraints
from space.config import Recipe, StudentConfig
from space.errors import InputError, OutputError

if TYPE_CHECKING:
    from runners.record import TrialRecord

logger = logging.getLogger("shoebox.search.ledger")

# Attributes of a trial in storage.
RECORD = "record"  # the TrialRecord of a trained trial (JSON)
ERROR = "error"  # why a trial failed, one line of text
TRACEBACK = "traceback"  # where it failed, the last lines
STOPPED = "stopped"  # why no result can be written (disk full): the search ends, the trial is repeated
INFEASIBLE = "infeasible"  # constraint values of a trial that breaks a limit
BYTES = "deployed_bytes"  # known before training; a trial that has it was handed to a worker
ORPHANED = "orphaned"  # a trial whose driver or worker went away; another one repeats it

Objective = Literal["quality", Cost]
State = Literal["finished", "failed", "infeasible", "orphaned", "running", "waiting"]


@dataclass(frozen=True)
class Proposal:
    """What a trial would build, and what it weighs (exact, before training)."""

    config: StudentConfig
    recipe: Recipe
    deployed_bytes: int


@dataclass(frozen=True)
class Assignment:
    """One feasible trial, ready for a worker.

    Attributes:
        number: the trial's number in the study.
        trial_id: its key in the storage.
        seed: of the training.
        bundle: where the exported student goes.
    """

    number: int
    trial_id: int
    config: StudentConfig
    recipe: Recipe
    seed: int
    bundle: Path


@dataclass
class Counts:
    """Trials of a study by state. The budget counts `trained`."""

    finished: int = 0
    failed: int = 0
    infeasible: int = 0
    orphaned: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def trained(self) -> int:
        return self.finished + self.failed


def state_of(trial: FrozenTrial) -> State:
    """What a trial in storage is, in the words of this project."""
    if trial.state == TrialState.COMPLETE:
        return "finished"
    if trial.state == TrialState.FAIL:
        return "orphaned" if ORPHANED in trial.user_attrs else "failed"
    if trial.state == TrialState.PRUNED:
        return "infeasible"
    return "running" if trial.state == TrialState.RUNNING else "waiting"


def read_record(attributes: Mapping[str, Any], on_arm: Mapping[str, Any] | None = None) -> TrialRecord:
    """The record among a trial's attributes, with what was measured `on_arm` since.

    Raises:
        pydantic.ValidationError: another version of Shoebox wrote it.
    """
    from runners.record import TrialRecord  # takes torch along: not for `--help`

    return TrialRecord.model_validate({**attributes[RECORD], "on_arm": on_arm})


def objective_values(record: TrialRecord, objectives: Sequence[Objective]) -> list[float]:
    """The values of a record in the order of the study's objectives; NaN where the record lacks one."""
    values: dict[str, float] = {"quality": record.quality, **record.costs()}
    return [float(values.get(name, math.nan)) for name in objectives]


@dataclass
class Ledger:
    """Hands out the trials of one study and enters their results.

    Args:
        study: the Optuna study, with the sampler to ask.
        propose: what a trial's parameters build. It calls the trial's `suggest_*`.
        limits: of the study; limits on latency and heap are checked by a trial's worker before it trains.
        objectives: of the study, in the order of the Optuna study's directions.
        seed: of the study.
        budget: trained trials (finished or failed) wanted in total.
        bundles: folder in which every trial's bundle gets a folder of its own.
        most_rejections: proposals in a row that may be infeasible before the search gives up.
    """

    study: optuna.Study
    propose: Callable[[optuna.Trial], Proposal]
    limits: Limits
    objectives: list[Objective]
    seed: int
    budget: int
    bundles: Path
    most_rejections: int = 500
    counts: Counts = field(init=False)
    _rejected_in_a_row: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.counts = Counts()
        for trial in self.study.get_trials(deepcopy=False):
            self._count(state_of(trial))

    def _count(self, state: State, step: int = 1) -> None:
        setattr(self.counts, state, getattr(self.counts, state) + step)

    @property
    def exhausted(self) -> bool:
        """Whether the budget is spent."""
        return self.counts.trained >= self.budget

    @property
    def has_room(self) -> bool:
        """Whether the budget allows another trial beside those that are running."""
        return self.counts.trained + self.counts.running < self.budget

    def next(self, on_rejected: Callable[[], None] = lambda: None) -> Assignment:
        """Ask until a proposal keeps every limit that is known before training.

        Rejected proposals are told to Optuna as pruned, with their constraint values, so that samplers
        learn from them; they cost no worker's time and do not count in the budget.

        Args:
            on_rejected: called after every rejected proposal.

        Raises:
            InputError: `most_rejections` proposals in a row broke a limit.
        """
        while True:
            waiting = self.counts.waiting > 0
            trial = self.study.ask()
            if waiting:
                self._count("waiting", -1)
            self._count("running")
            # A repeated trial has its parameters, so nothing would ask the sampler; but NSGA-II enters a trial into
            # its generation only when it is asked.
            trial.relative_params  # noqa: B018
            proposal = self.propose(trial)
            constraints = constraint_values(self.limits, {"deployed_bytes": proposal.deployed_bytes})
            if broken(constraints):
                trial.set_user_attr(INFEASIBLE, constraints)
                self.settle(trial.number)
                on_rejected()
                continue
            if set(self.limits.given()) == {"deployed_bytes"}:  # else the worker's measurements decide
                for key, value in constraints.items():
                    trial.set_constraint(key, value)
            trial.set_user_attr(BYTES, proposal.deployed_bytes)
            frozen = self.study._storage.get_trial(trial._trial_id)
            return Assignment(
                number=trial.number,
                trial_id=trial._trial_id,
                config=proposal.config,
                recipe=proposal.recipe,
                seed=seeds(self.seed, place(self.study, frozen))[1],
                bundle=self.bundles / f"{trial.number:05d}",
            )

    def settle(self, number: int, lost: str | None = None) -> State:
        """Tell Optuna what the storage says about a trial; a settled trial stays as it is.

        Args:
            number: of the trial.
            lost: what to record as the error if the storage holds no result.

        Raises:
            InputError: too many infeasible proposals in a row.
            OutputError: the worker could not write the result; the trial is left to `recover`.
        """
        trial_id = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        trial = self.study._storage.get_trial(trial_id)
        if trial.state.is_finished():
            return state_of(trial)
        if STOPPED in trial.user_attrs:
            raise OutputError(trial.user_attrs[STOPPED], "What has finished is kept: go on with --resume.")
        state = self._tell(trial, lost or "the worker ended without a result")
        self._count("running", -1)
        self._count(state)
        self._rejected_in_a_row = self._rejected_in_a_row + 1 if state == "infeasible" else 0
        if self._rejected_in_a_row >= self.most_rejections:
            raise InputError(
                f"{self._rejected_in_a_row} proposals in a row broke the limits of study {self.study.study_name!r}.",
                "Loosen limits, or narrow the space to smaller students.",
            )
        return state

    def _tell(self, trial: FrozenTrial, lost: str) -> State:
        attributes = trial.user_attrs
        if RECORD in attributes:
            record = read_record(attributes)
            values = objective_values(record, self.objectives)
            if all(math.isfinite(value) for value in values):
                constraints = constraint_values(self.limits, record.costs())
                set_constraints(self.study, trial._trial_id, constraints)
                self.study.tell(trial.number, values, skip_if_finished=True)
                return "finished"
            lost = "not a number: " + ", ".join(
                name for name, value in zip(self.objectives, values, strict=True) if not math.isfinite(value)
            )
        elif INFEASIBLE in attributes:
            set_constraints(self.study, trial._trial_id, attributes[INFEASIBLE])
            self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
            return "infeasible"
        if ERROR not in attributes:
            self.study._storage.set_trial_user_attr(trial._trial_id, ERROR, lost)
        self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return "failed"

    def recover(self) -> int:
        """Settle or queue again the trials that a driver which went away left running; remove what they left on disk.

        Only for a study that no other driver works on.

        Returns:
            How many trials will be repeated.
        """
        trials = self.study.get_trials(deepcopy=False)
        repeated = {t.user_attrs[RETRY_OF] for t in trials if RETRY_OF in t.user_attrs}
        count = 0
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            attributes = trial.user_attrs
            if any(key in attributes for key in (RECORD, INFEASIBLE, ERROR)):
                self.settle(trial.number)
                continue
            if trial.number not in repeated:
                self._repeat(trial)
            # Queued first, ended second: killed in between, the next recovery finds both and ends it only.
            self.study._storage.set_trial_user_attr(trial._trial_id, ORPHANED, True)
            self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self._count("running", -1)
            self._count("orphaned")
            count += 1
        self._remove_leftovers()
        return count

    def _remove_leftovers(self) -> None:
        """Remove half-written bundles, and complete ones whose trial was killed before its record was written."""
        if not self.bundles.is_dir():
            return
        trials = {trial.number: trial for trial in self.study.get_trials(deepcopy=False)}
        for folder in self.bundles.iterdir():
            whole = re.fullmatch(r"\d{5,}", folder.name)
            trial = trials.get(int(folder.name)) if whole else None
            unrecorded = trial is not None and trial.state.is_finished() and RECORD not in trial.user_attrs
            if unrecorded or re.match(r"\.\d{5,}\.", folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _repeat(self, trial: FrozenTrial) -> None:
        # Without its byte count a trial was killed while being asked for: some of its parameters may be
        # missing. It is asked for again from the same seed.
        params = trial.params if BYTES in trial.user_attrs else {}
        again = {RETRY_OF: trial.number, PLACE: place(self.study, trial)}
        self.study.enqueue_trial(params, user_attrs=again)
        self._count("waiting")
