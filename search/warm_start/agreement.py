"""Whether older studies order what both have trained as the new one does."""

from __future__ import annotations

import logging

import optuna
from optuna.trial import TrialState
from scipy.stats import spearmanr

from search.states import FROM, ORPHANED
from search.warm_start.plan import WARM_START, WarmStart

logger = logging.getLogger("shoebox.search.warm_start")

JUDGED = 4  # shared configurations that are enough to tell that an older study says nothing


def agreement(study: optuna.Study) -> dict[str, tuple[int, float]]:
    """How each older study orders the configurations that both have trained.

    Returns:
        Their number and the rank correlation of their qualities there and here (Spearman), by study; only of studies
        with three such configurations or more, whose qualities differ.
    """
    stored = study.user_attrs.get(WARM_START)
    if stored is None:
        return {}
    quality = [direction.name for direction in study.directions].index("MAXIMIZE")
    trained = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    here = {tuple(sorted(trial.params.items())): trial.values[quality] for trial in trained}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for configuration in WarmStart.model_validate(stored).configurations:
        place = tuple(sorted(configuration.params.items()))
        if place in here:
            pairs.setdefault(configuration.study, []).append((configuration.quality, here[place]))
    found = {}
    for name, both in pairs.items():
        there, now = zip(*both, strict=True)
        if len(both) >= 3 and len(set(there)) > 1 and len(set(now)) > 1:
            found[name] = len(both), float(spearmanr(there, now).statistic)
    return found


def withdraw(study: optuna.Study) -> int:
    """Take those configurations from the queue whose study orders the ones tried so far no better than chance.

    They count as orphaned. The best configurations of a task that this one has nothing in common with are then a few
    lost trials, not a quarter of the study.

    Returns:
        How many were taken.
    """
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    queued = [trial for trial in waiting if FROM in trial.user_attrs]
    found = agreement(study) if queued else {}
    against = [name for name, (shared, order) in found.items() if shared >= JUDGED and order <= 0]
    count = 0
    for trial in queued:
        if trial.user_attrs[FROM]["study"] in against:
            study._storage.set_trial_user_attr(trial._trial_id, ORPHANED, True)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            count += 1
    if count:
        logger.info(
            "The other %d configurations of %s are not tried: it orders those tried so far the other way round.",
            count,
            ", ".join(against),
        )
    return count


def tell_agreement(study: optuna.Study) -> None:
    """Log what `agreement` finds, a line for each older study."""
    for name, (count, correlation) in agreement(study).items():
        logger.info("%s orders the %d shared configurations with rank correlation %+.2f.", name, count, correlation)
