"""What Optuna is told of a trial, according to the attributes that the storage holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.limits import Limits, broken, constraint_values
from search.assignment import Proposal
from search.ladder import open_rungs
from search.samplers import PLACE, RETRY_OF, place
from search.states import (
    ANSWERED_BY,
    BYTES,
    DRIVER,
    ERROR,
    FROM,
    INFEASIBLE,
    ORPHANED,
    PROPOSED,
    RECORD,
    RUNGS,
    WORKERS_LOST,
    Objective,
    objective_values,
    read_record,
)
from search.storage import set_constraints


def enter_proposal(
    study: optuna.Study,
    trial: optuna.Trial,
    proposal: Proposal,
    limits: Limits,
    twin: int | None,
    driver: str | None,
) -> bool:
    """Write what is known of a proposal before training: all that a worker needs of it, or why it gets none.

    Args:
        study, trial: the trial that was asked for.
        proposal: what it would build.
        limits: of the study.
        twin: number of the trial of the same configuration, if it may not be trained again.
        driver: who hands it out, where several drivers may.

    Returns:
        Whether it keeps every limit that is known before training.
    """
    constraints = constraint_values(limits, {"deployed_bytes": proposal.deployed_bytes})
    if broken(constraints):
        trial.set_user_attr(INFEASIBLE, constraints)
        return False
    if twin is None:
        if set(limits.given()) == {"deployed_bytes"}:  # else the worker's measurements decide
            set_constraints(study, trial._trial_id, constraints, known=())
        trial.set_user_attr(BYTES, proposal.deployed_bytes)
        if driver is not None:
            trial.set_user_attr(DRIVER, driver)
    return True


def has_result(trial: FrozenTrial) -> bool:
    """Whether a worker wrote what became of a trial."""
    return any(key in trial.user_attrs for key in (RECORD, INFEASIBLE, ERROR))


def tell_result(
    study: optuna.Study, trial: FrozenTrial, limits: Limits, objectives: Sequence[Objective], lost: str
) -> FrozenTrial:
    """End a trial as its attributes say, or as failed with `lost` for a reason if they say nothing; returns it."""
    attributes = trial.user_attrs
    if RECORD in attributes:
        record = read_record(study.study_name, attributes)
        values = objective_values(record, objectives)
        if all(math.isfinite(value) for value in values):
            set_constraints(study, trial._trial_id, constraint_values(limits, record.costs()), trial.system_attrs)
            return study.tell(trial.number, values, skip_if_finished=True)
        lost = "not a number: " + ", ".join(
            name for name, value in zip(objectives, values, strict=True) if not math.isfinite(value)
        )
    elif INFEASIBLE in attributes:
        set_constraints(study, trial._trial_id, attributes[INFEASIBLE], trial.system_attrs)
        return study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
    if ERROR not in attributes:
        study._storage.set_trial_user_attr(trial._trial_id, ERROR, lost)
    return study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def tell_stopped(study: optuna.Study, trial: FrozenTrial, limits: Limits) -> FrozenTrial:
    """End a trial that never got beyond its last rung: pruned, whatever it scored there; returns it."""
    constraints = constraint_values(limits, trial.user_attrs[RUNGS][-1]["costs"])
    set_constraints(study, trial._trial_id, constraints, trial.system_attrs)
    return study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)


def tell_answer(study: optuna.Study, trial: optuna.Trial, twin: FrozenTrial) -> None:
    """End a proposal whose configuration another trial has.

    The sampler sees the result of a finished one once more, as that of a draw of its own. A twin without a full
    result (yet) tells it nothing new: the proposal counts for nothing.
    """
    trial.set_user_attr(ANSWERED_BY, twin.number)
    if twin.state == TrialState.COMPLETE:
        set_constraints(study, trial._trial_id, twin.constraints)
        study.tell(trial.number, twin.values)
        return
    trial.set_user_attr(ORPHANED, True)
    study.tell(trial.number, state=TrialState.FAIL)


def repeat(
    study: optuna.Study, trial: FrozenTrial, checkpoints: Path, further: Mapping[str, Any] | None = None
) -> None:
    """Queue a trial again; it goes on from the last checkpoint that is there, in that folder of the study's."""
    attributes = trial.user_attrs
    # Without its byte count a trial was killed while being asked for: some of its parameters may be
    # missing. It is asked for again from the same seed, or as it was queued.
    params = trial.params if BYTES in attributes else trial.system_attrs.get("fixed_params", {})
    again: dict[str, Any] = {RETRY_OF: trial.number, PLACE: place(study, trial)}
    again |= {key: attributes[key] for key in (WORKERS_LOST, PROPOSED, FROM) if key in attributes}
    if passed := open_rungs(attributes, checkpoints):
        again[RUNGS] = passed
    study.enqueue_trial(params, user_attrs={**again, **(further or {})})


def orphan(study: optuna.Study, trial: FrozenTrial) -> None:
    """End a trial that no worker has any more; one that waits may repeat it."""
    study._storage.set_trial_user_attr(trial._trial_id, ORPHANED, True)
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
