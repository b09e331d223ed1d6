"""What becomes of the trials that a driver or a worker left running."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from search.retention import located
from search.samplers import RETRY_OF
from search.states import ANSWERED_BY, RECORD, RUNGS, state_of
from search.telling import has_result

if TYPE_CHECKING:
    from search.ledger import Ledger


def recover(ledger: Ledger) -> int:
    """Settle or queue again the trials that a driver which went away left running; remove what they left on disk.

    Returns:
        How many trials will be repeated.
    """
    count = settle_left(ledger)
    remove_leftovers(ledger)
    return count


def settle_left(
    ledger: Ledger,
    is_left: Callable[[FrozenTrial], bool] = lambda trial: True,
    is_wanted: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> int:
    """Settle or queue again what is left running. Paused trials stay: nobody had them.

    Args:
        ledger: of the study.
        is_left: whether a running trial has no worker any more.
        is_wanted: whether one that is left is to be run again.

    Returns:
        How many trials will be repeated.
    """
    trials = ledger.study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
    count = 0
    for before in trials:
        if state_of(before) != "running" or not is_left(before):
            continue
        trial = ledger.stored(before.number)  # a worker whose driver is gone may have ended it by now
        if has_result(trial):
            ledger.settle(trial.number)
            continue
        again = ANSWERED_BY not in trial.user_attrs and is_wanted(trial)
        # Queued first, ended second: killed in between, the next recovery finds both and ends it only.
        if again and trial.number not in repeated:
            ledger.repeat(trial)
        ledger.orphan(trial)
        count += again
    return count


def remove_leftovers(ledger: Ledger) -> None:
    """Remove what nobody will go on with, or read; for a study of which no trial runs."""
    unrecorded: set[int] = set()
    wanted: set[Path] = set()
    for trial in ledger.study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            if RECORD not in trial.user_attrs:
                unrecorded.add(trial.number)
            continue
        checkpoints = (rung["checkpoint"] for rung in trial.user_attrs.get(RUNGS) or ())
        wanted.update(located(checkpoint, ledger.folders.all_checkpoints).parent for checkpoint in checkpoints)
    ledger.folders.remove_leftovers(unrecorded, wanted)
