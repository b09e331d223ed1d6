"""The ledger of a study that several processes search at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from search.assignment import Assignment
from search.drivers import Drivers
from search.ledger import Ledger
from search.recovery import remove_leftovers, settle_left
from search.states import BYTES, DRIVER, Counts, State, state_of
from search.study_storage import backend_of

LOOK_SECONDS = 1.0  # how often what other drivers do is looked up while there is nothing to hand out
_RESULTS: tuple[State, ...] = ("finished", "failed", "infeasible")


@dataclass(kw_only=True)
class SharedLedger(Ledger):
    """A ledger that knows what other drivers have handed out, and takes over from those that die.

    Trials are handed out in turns, each after a look at the storage: so the budget is kept exactly, and no
    configuration is trained by two of them. For studies without early stopping that keep all bundles.

    Args:
        drivers: of the study, which this one has joined.
    """

    drivers: Drivers
    _seen: dict[int, State] = field(init=False, default_factory=dict)
    _news: list[tuple[int, State]] = field(init=False, default_factory=list)  # trials of others, since the last look
    _looked: float = field(init=False, default=0.0)
    _astray: bool = field(init=False, default=False)  # whether trials run that no driver has
    _known_drivers: tuple[set[str], int] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.driver = self.drivers.name
        self._seen = {trial.number: state_of(trial) for trial in self.study.get_trials(deepcopy=False)}
        self._known_drivers = self._now()

    def turn(self) -> AbstractContextManager[None]:
        return self.drivers.turn()

    def next(self, on_rejected: Callable[[], None] = lambda: None) -> Assignment:
        with self.turn():
            self.drivers.read()
            if self._is_shared:
                self._refresh()
            before = backend_of(self.study).cut_offs
            try:
                return super().next(on_rejected)
            finally:
                if backend_of(self.study).cut_offs != before:
                    self._end_unknown()

    def settle(self, number: int, lost: str | None = None, *, again: bool = False) -> State:
        with self.turn():  # else another driver might end it meanwhile
            return super().settle(number, lost, again=again)

    def look(self) -> list[tuple[int, State]]:
        if self._is_shared and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._refresh()
            if self._astray or self.drivers.others()[1]:
                with self.turn():
                    self.drivers.read()
                    self._take_over({self.drivers.name})
                    self._refresh()
            self._looked = time.monotonic()
        ended, self._news = self._news, []
        return ended

    def recover(self) -> int:
        with self.turn():
            self.drivers.read()
            count = self._take_over(set())
            if not self.drivers.others()[0]:  # nor are there workers of this one's: what is not whole, stays so
                remove_leftovers(self)
            return count

    def _end_unknown(self) -> None:
        """End, in a turn, what the server made or took from the queue for calls whose answers never came.

        What was queued is queued again; the others have been asked for once more.
        """

        def has_no_driver(trial: FrozenTrial) -> bool:
            return DRIVER not in trial.user_attrs

        def was_queued(trial: FrozenTrial) -> bool:
            return "fixed_params" in trial.system_attrs

        settle_left(self, has_no_driver, was_queued)
        self._refresh()

    @property
    def _is_shared(self) -> bool:
        """Whether the storage may say something that this ledger does not know."""
        return self._astray or bool(self._known_drivers[0]) or self._known_drivers != self._now()

    def _now(self) -> tuple[set[str], int]:
        living, dead = self.drivers.others()
        return living | dead, self.drivers.joined

    def _take_over(self, mine: set[str]) -> int:
        """Settle or queue again, in a turn, what is run by no other driver that lives and by none of `mine`.

        Returns:
            How many trials will be repeated.
        """
        living, dead = self.drivers.others()

        # Nobody is in the middle of asking: a trial that has no driver has none that lives.
        def is_left(trial: FrozenTrial) -> bool:
            return trial.user_attrs.get(DRIVER) not in living | mine

        count = settle_left(self, is_left)
        self.drivers.bury(dead)
        return count

    def _refresh(self) -> None:
        """Enter what the storage says by now."""
        self._known_drivers = self._now()  # before the trials: one that joins now is seen the next time
        drivers = {self.driver, *self._known_drivers[0]}
        counts, astray = Counts(), False
        for trial in self.study.get_trials(deepcopy=False):
            state, driver = state_of(trial), trial.user_attrs.get(DRIVER)
            counts.add(state)
            astray = astray or (state == "running" and driver not in drivers)
            if self._seen.get(trial.number) == state or (state == "running" and BYTES not in trial.user_attrs):
                continue
            self._seen[trial.number] = state
            self._enter(trial, state)
            if state in ("orphaned", "answered"):
                self._known.remove(trial.number)
                self.time.remove(trial.number)
            if state in _RESULTS and driver not in (None, self.driver):
                self._news.append((trial.number, state))
        self.counts, self._astray = counts, astray
