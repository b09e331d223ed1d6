"""A trial's place in its study, and the seeds that follow from it."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from search.study_storage import study_storage

# Trial attributes (see `search.ledger`): a trial that does again what an orphaned one did not finish.
RETRY_OF = "retry_of"
PLACE = "place"


def place(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> int:
    """The trial's place in the study, counted as if no trial had ever been orphaned.

    A retry takes the place of the trial that it repeats, so that seeds after a resume are those of an
    uninterrupted study.
    """
    if PLACE in trial.user_attrs:
        return int(trial.user_attrs[PLACE])
    storage = study_storage(study)
    if storage is not None:
        return trial.number - storage.count_before(study._study_id, trial.number, RETRY_OF)
    # What Optuna read when this trial was asked for will do: those with lower numbers are all there.
    others = study._get_trials(deepcopy=False, use_cache=True)
    return trial.number - sum(t.number < trial.number and RETRY_OF in t.user_attrs for t in others)


def seeds(study_seed: int, trial_place: int) -> tuple[int, int]:
    """Seeds of one trial: (of the sampler's draw, of the training), both in [0, 2**31)."""
    draw, training = np.random.SeedSequence([study_seed, trial_place]).generate_state(2)
    return int(draw) >> 1, int(training) >> 1
