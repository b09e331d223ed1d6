"""The bookkeeping of a study: which trial is next, what became of it, what is left.

The study in storage is the only truth. A trial's result is written there by the worker that ran it (as one
of the attributes of `search.states`); the driver then *settles* the trial, which is to say tells Optuna what the
attribute says. A driver that was killed in between loses nothing: `Ledger.recover` settles what has a
result, and queues again what has none.

With early stopping a training goes from rung to rung (`runners.rungs`). A trial that may not go on is *paused*: for
Optuna it runs, but no worker has it, and it may go on later from its checkpoint (anew, if that is gone). `Ledger.close`
tells those that never did as pruned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.limits import Limits
from objectives.pareto import Direction
from search import telling
from search.assignment import Assignment, NothingToDo, Proposal
from search.budget import Time
from search.halving import EarlyStoppingSpec
from search.known import KnownConfigurations
from search.ladder import Ladder, last_rung
from search.recovery import recover
from search.rejections import Rejections
from search.retention import Folders, Keep
from search.samplers import place, seeds, worth_by
from search.states import (
    ANSWERED_BY,
    BYTES,
    PAUSED,
    RUNGS,
    STOPPED,
    WORKERS_LOST,
    Counts,
    Objective,
    State,
    state_of,
)
from search.study_storage import one_proposal, rest
from space.errors import OutputError

logger = logging.getLogger("shoebox.search.ledger")


@dataclass
class Ledger:
    """Hands out the trials of one study and enters their results.

    Args:
        study: the Optuna study, with the sampler to ask.
        propose: what a trial's parameters build. It calls the trial's `suggest_*`.
        limits: of the study; limits on latency and heap are checked by a trial's worker before it trains.
        objectives: of the study, in the order of the Optuna study's directions.
        seed: of the study.
        budget: trainings wanted in total: finished, failed, or stopped early.
        bundles: folder in which every trial's bundle gets a folder of its own.
        most_rejections: proposals in a row that may be infeasible before the search gives up (`Rejections`).
        most_answered: proposals in a row that were trained before, after which the space counts as used up.
        hours, training_hours: limits of time (`search.budget.Time`).
        early_stopping: when trainings are stopped early; never by default.
        repeats: trainings of one configuration, each with a seed of its own.
        keep_bundles: which bundles stay on disk.
        driver: who hands out, where several drivers may (`search.shared_ledger`).
    """

    study: optuna.Study
    propose: Callable[[Any], Proposal]
    limits: Limits
    objectives: list[Objective]
    seed: int
    budget: int
    bundles: Path
    most_rejections: int = 500
    most_answered: int = 200
    hours: float | None = None
    training_hours: float | None = None
    early_stopping: EarlyStoppingSpec | None = None
    repeats: int = 1
    keep_bundles: Keep = "all"
    driver: str | None = None
    counts: Counts = field(init=False)
    time: Time = field(init=False)
    folders: Folders = field(init=False)
    _rejections: Rejections = field(init=False, default_factory=Rejections)
    _answered_in_a_row: int = field(init=False, default=0)
    _last_told: FrozenTrial | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.counts = Counts()
        self.time = Time(self.study, self.hours, self.training_hours)
        directions: list[Direction] = ["maximize" if name == "quality" else "minimize" for name in self.objectives]
        self.folders = Folders(self.bundles, self.keep_bundles, directions)
        self._ladder = Ladder(self.early_stopping, self.objectives, worth_by(self.study))
        self._known = KnownConfigurations(self.repeats)
        for trial in self.study.get_trials(deepcopy=False):
            state = state_of(trial)
            self.counts.add(state)
            self._enter(trial, state)

    def _enter(self, trial: FrozenTrial, state: State) -> None:
        """Enter what a trial that this ledger has not handed out says of times, rungs and configurations."""
        if state not in ("orphaned", "answered", "waiting"):
            self.time.add(trial)
            self._ladder.enter(trial.number, trial.user_attrs)
            self._remember(trial)
        if state == "paused":
            self._ladder.waiting[trial.number] = trial.user_attrs[PAUSED]
            rest(self.study, trial)
        self._ladder.end(trial.number, state)
        if state == "finished":
            self._enter_finished(trial)

    def turn(self) -> AbstractContextManager[None]:
        """What must be done by one driver of the study at a time is done inside."""
        return nullcontext()

    def look(self) -> list[tuple[int, State]]:
        """Find out what other drivers of the study do; their trials that have ended since the last look."""
        return []

    def stored(self, number: int) -> FrozenTrial:
        """A trial as the storage has it now."""
        storage = self.study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number))

    def ended(self, number: int) -> FrozenTrial:
        """A trial that has ended; the storage is asked for all but the one that was told last."""
        last = self._last_told
        return last if last is not None and last.number == number else self.stored(number)

    def _remember(self, trial: FrozenTrial) -> None:
        if BYTES not in trial.user_attrs or trial.number in self._known:  # the first: never handed out
            return
        try:
            proposal = self.propose(trial)
        except ValueError:  # of a space that was another one
            return
        self._known.add(trial.number, proposal.config, proposal.recipe)

    def _enter_finished(self, trial: FrozenTrial) -> None:
        if trial.values is not None and all(value <= 0 for value in trial.constraints.values()):
            self.folders.finished(trial.number, trial.values)

    @property
    def has_room(self) -> bool:
        """Whether the budget allows another training beside those that were begun."""
        return self.counts.started < self.budget and not self._used_up and not self.time.over

    @property
    def _used_up(self) -> bool:
        """Whether the space seems to hold no configuration that was not trained, and none waits to be run again."""
        return self._answered_in_a_row >= self.most_answered and self.counts.waiting == 0

    @property
    def has_work(self) -> bool:
        """Whether there is a training to begin or to go on with."""
        return self.has_room or (not self.time.over and self._ladder.has_promotions())

    @property
    def exhausted(self) -> bool:
        """Whether the search is over: no trial runs, and none is to come."""
        return self.counts.running == 0 and not self.has_work

    def next(self, on_rejected: Callable[[], None] = lambda: None) -> Assignment:
        """A trial of the queue, else a paused one that may go on, else a new one: asks until a proposal keeps every
        limit that is known before training, and was not trained before.

        Rejected proposals are told to Optuna as pruned, with their constraint values, so that samplers
        learn from them; they cost no worker's time and do not count in the budget. Nor do those whose configuration
        was trained before: they are answered from its record.

        Args:
            on_rejected: called after every proposal that is not handed out.

        Raises:
            InputError: `most_rejections` proposals in a row broke a limit.
            NothingToDo: there is none.
        """
        while True:
            waiting = self.counts.waiting > 0
            # What waits may be a trial that had been promoted when its worker went away: nobody moves up in its place.
            if not self.time.over and not (waiting and self.has_room):
                number = self._ladder.promoted(last=not self.has_room)
                if number is not None:
                    return self._go_on(number)
            if not self.has_room:
                raise NothingToDo
            trial = self.study.ask()
            if waiting:
                self.counts.add("waiting", -1)
            self.counts.add("running")
            # A repeated trial has its parameters, so nothing would ask the sampler; but NSGA-II enters a trial into
            # its generation only when it is asked.
            trial.relative_params  # noqa: B018
            attributes = trial.user_attrs
            with one_proposal(self.study):
                proposal = self.propose(trial)
                twin = self._known.twin(proposal.config, proposal.recipe)
                feasible = telling.enter_proposal(self.study, trial, proposal, self.limits, twin, self.driver)
            if not feasible:
                self.settle(trial.number)
                on_rejected()
                continue
            if twin is not None:
                self._answer(trial, twin)
                on_rejected()
                continue
            self._answered_in_a_row = 0
            self._rejections.start(trial.number)
            self._known.add(trial.number, proposal.config, proposal.recipe)
            # One that is repeated from a rung at which its fate was not decided.
            if attributes.get(RUNGS) and not self.goes_on(trial.number):
                on_rejected()
                continue
            return self._assignment(trial, proposal)

    def _assignment(self, trial: optuna.Trial | FrozenTrial, proposal: Proposal) -> Assignment:
        number = trial.number
        return Assignment(
            number=number,
            trial_id=trial._trial_id,
            config=proposal.config,
            recipe=proposal.recipe,
            seed=seeds(self.seed, place(self.study, trial))[1],
            bundle=self.folders.bundle(number),
            rungs=self._ladder.rungs(trial.user_attrs, self.folders.checkpoints(number)),
        )

    def _go_on(self, number: int) -> Assignment:
        trial = self.stored(number)
        self.study._storage.set_trial_user_attr(trial._trial_id, PAUSED, None)
        del self._ladder.waiting[number]
        self._rejections.start(number)
        self.counts.add("paused", -1)
        self.counts.add("running")
        return self._assignment(trial, self.propose(trial))

    def goes_on(self, number: int) -> bool:
        """Whether a running trial may go on from the rung that it has reached; if not, it is paused.

        The worker has written the result of the rung to the storage.
        """
        trial = self.stored(number)
        self._ladder.enter(number, trial.user_attrs)
        self.folders.remove_passed(trial.user_attrs.get(RUNGS) or ())
        self.time.add(trial)
        if not self.time.over and self._ladder.goes_on(number, trial.user_attrs, not self.has_room):
            return True
        self._ladder.waiting[number] = rung = last_rung(trial.user_attrs)
        self.study._storage.set_trial_user_attr(trial._trial_id, PAUSED, rung)
        rest(self.study, trial)
        self._rejections.settle(number, handed_out=True, broke=False)
        self.counts.add("running", -1)
        self.counts.add("paused")
        return False

    def _answer(self, trial: optuna.Trial, twin: int) -> None:
        telling.tell_answer(self.study, trial, self.stored(twin))
        self.folders.remove_checkpoints(trial.number, trial.user_attrs.get(RUNGS) or ())  # of what it was to repeat
        self.counts.add("running", -1)
        self.counts.add("answered")
        self._answered_in_a_row += 1
        self._rejections.keep()
        if self._used_up:
            logger.warning(
                "The last %d proposals were trained before: the search ends, its space seems to be used up.",
                self._answered_in_a_row,
            )

    def settle(self, number: int, lost: str | None = None, *, again: bool = False) -> State:
        """Tell Optuna what the storage says about a trial; a settled trial stays as it is.

        Args:
            number: of the trial.
            lost: what to record as the error if the storage holds no result.
            again: run a trial without a result once more, unless that was done before: its worker may have died of
                something else.

        Raises:
            InputError: too many infeasible proposals in a row.
            OutputError: the worker could not write the result; the trial is left to `recover`.
        """
        trial = self.stored(number)
        if trial.state.is_finished() or trial.user_attrs.get(PAUSED) is not None:
            return state_of(trial)
        if STOPPED in trial.user_attrs:
            raise OutputError(trial.user_attrs[STOPPED], "What has finished is kept: go on with --resume.")
        if again and not telling.has_result(trial) and WORKERS_LOST not in trial.user_attrs:
            self.repeat(trial, {WORKERS_LOST: 1})
            self.orphan(trial)
            return "orphaned"
        lost = lost or "the worker ended without a result"
        told = telling.tell_result(self.study, trial, self.limits, self.objectives, lost)
        state = state_of(told)
        self.counts.add("running", -1)
        self.counts.add(state)
        self._ended(told)
        self._rejections.settle(number, handed_out=BYTES in trial.user_attrs, broke=state == "infeasible")
        self._rejections.check(self.most_rejections, self.study.study_name)
        return state

    def _ended(self, trial: FrozenTrial) -> None:
        """Enter what a trial has cost, and free what nobody needs any more."""
        self._last_told = trial
        self._ladder.end(trial.number, state_of(trial))
        if BYTES in trial.user_attrs:
            self.time.add(trial)
            self.folders.remove_checkpoints(trial.number, trial.user_attrs.get(RUNGS) or ())
        if trial.state == TrialState.COMPLETE:
            self._enter_finished(trial)

    def close(self, on_change: Callable[[int, State], None] = lambda number, state: None) -> None:
        """End an exhausted search: the paused trials are told as pruned, and their checkpoints removed."""
        for number in sorted(self._ladder.waiting):
            trial = self.stored(number)
            told = telling.tell_stopped(self.study, trial, self.limits)
            self.counts.add("paused", -1)
            self.counts.add("stopped")
            self._ended(told)
            on_change(number, "stopped")
        self.time.keep()

    def recover(self) -> int:
        """Settle or queue again the trials that a driver which went away left running; how many will be repeated."""
        return recover(self)

    def repeat(self, trial: FrozenTrial, further: Mapping[str, Any] | None = None) -> None:
        """Queue a running trial again, which is to be orphaned next."""
        telling.repeat(self.study, trial, self.folders.all_checkpoints, further)
        self.counts.add("waiting")

    def orphan(self, trial: FrozenTrial) -> None:
        """End a running trial that no worker has any more."""
        telling.orphan(self.study, trial)
        self._rejections.settle(trial.number, handed_out=True, broke=False)
        self._ladder.leave(trial.number)
        self._known.remove(trial.number)
        self.time.remove(trial.number)
        self.counts.add("running", -1)
        self.counts.add("answered" if ANSWERED_BY in trial.user_attrs else "orphaned")
