"""Ray Tune's scheduler over the ledger: a trial at a rung goes on or gives its worker to another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.states import RUNGS

if TYPE_CHECKING:
    from search.searcher import StudySearcher


class RungScheduler(FIFOScheduler):
    """Stops Ray's row of a trial that may not go on from its rung (`search.halving`).

    The trial itself is paused in the study, and its checkpoint lies on disk: when it may go on, the searcher hands it
    out in a new row, to whichever worker is free. So Ray keeps nothing that a kill could lose, unlike with its own
    pauses.

    Args:
        searcher: who knows which trial a row is.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ask the ledger about a trial that has reached a rung; others go on."""
        if result.get("outcome") == RUNGS and not self._searcher.goes_on(trial.trial_id):
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}
