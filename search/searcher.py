"""Ray Tune's searcher over the ledger: what runs next is what the study in storage says."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from search.assignment import NothingToDo
from search.budget import KEPT_EVERY
from search.ledger import Ledger
from search.states import State

logger = logging.getLogger("shoebox.search.searcher")


class StudySearcher(Searcher):
    """Proposes the trials of one study to Ray Tune and settles them as they end.

    Ray's own rows are a cache that nothing is read from. What Ray pickles of a searcher is the storage URL
    and the study's name, never the study.

    Args:
        ledger: of the study.
        url: of the study's storage.
        workers: most trials at a time.
        on_change: called after every trial handed out, rejected or settled.
    """

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        workers: int,
        on_change: Callable[[int | None, State | None], None] = lambda number, state: None,
    ) -> None:
        super().__init__()
        self.ledger: Ledger | None = ledger
        self.url = url
        self.study_name = ledger.study.study_name
        self.workers = workers
        self.failure: Exception | None = None
        self._on_change = on_change
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Ray's `config`, None for "not now", or `FINISHED`."""
        assert self.ledger is not None
        try:
            self.ledger.time.keep(KEPT_EVERY)  # Ray asks several times a second, also while nothing is to be had
            for number, state in self.ledger.look():
                self._on_change(number, state)
        except Exception as error:
            self.failure = self.failure or error
        if self.failure is not None or self.ledger.exhausted:
            return self.FINISHED
        if len(self._numbers) >= self.workers or not self.ledger.has_work:
            return None
        try:
            assignment = self.ledger.next(on_rejected=lambda: self._on_change(None, None))
        except NothingToDo:
            return self.FINISHED if self.ledger.exhausted else None
        except Exception as error:  # let running trials end, then `run_study` raises it
            self.failure = error
            return self.FINISHED
        self._numbers[trial_id] = assignment.number
        self._on_change(None, None)
        return {"assignment": assignment}

    def goes_on(self, trial_id: str) -> bool:
        """Whether a trial that has reached a rung may go on; the scheduler stops Ray's row of it if not."""
        assert self.ledger is not None
        number = self._numbers.get(trial_id)
        if number is None:
            return False
        try:
            if self.failure is None:
                return self.ledger.goes_on(number)
        except Exception as problem:
            self.failure = problem
        # The search ends, through no fault of this trial: it has no result, and is left to be repeated from its rung.
        del self._numbers[trial_id]
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settle a trial from the storage; `result` is not looked at."""
        assert self.ledger is not None
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        try:
            # A worker that died may have died of something else: of its node, of another process's appetite.
            state = self.ledger.settle(number, "the worker process died" if error else None, again=error)
            self._on_change(number, state)
        except Exception as problem:
            self.failure = self.failure or problem

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "study_name": self.study_name, "workers": self.workers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, ledger=None, failure=None, _numbers={}, _on_change=lambda *_: None)

    def save(self, checkpoint_path: str) -> None:
        """Write where the study is; the storage holds everything else."""
        # The bare file name of a database would do; the URL may hold a password and is left out.
        Path(checkpoint_path).write_text(json.dumps({"study": self.study_name}), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a study is resumed from its storage."""
