"""The trials of a study as they stand in its storage, read in a few statements.

Optuna builds an object for every row of every table, and reads the description of every parameter twice: 10,000 trials
take it half a minute. Its tables are plain, though, and what a query needs of them stands in two: the trials, and their
attributes. Where they look otherwise (another version of Optuna), trials are read by Optuna itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.study_storage import backend_of
from search.trial_reader import attribute_value, described

# The trials come first: an attribute that is written between two statements belongs to a trial that is known.
_TRIALS = "SELECT trial_id, number, state FROM trials WHERE study_id = :study ORDER BY trial_id"
_ATTRIBUTES = """
    SELECT a.trial_id, a.key, a.value_json FROM {table} a JOIN trials t ON t.trial_id = a.trial_id
    WHERE t.study_id = :study
"""
_ATTRIBUTE_TABLES = ("trial_user_attributes", "trial_system_attributes")
_PARAMETERS = """
    SELECT t.number, p.param_name, p.param_value, p.distribution_json
    FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id
    WHERE t.study_id = :study ORDER BY p.param_id
"""


def read_trials(study: optuna.Study) -> list[FrozenTrial]:
    """All trials by number, with state and attributes; without parameters, values and dates."""
    try:
        found = _rows(study, _TRIALS, *(_ATTRIBUTES.format(table=table) for table in _ATTRIBUTE_TABLES))
        if found is not None:
            return _build(*found)
    except (SQLAlchemyError, KeyError):  # other tables than those known here
        pass
    return study.get_trials(deepcopy=False)


def read_parameters(study: optuna.Study) -> dict[int, dict[str, Any]]:
    """The parameters of all trials by their numbers, in the order in which they were suggested."""
    try:
        found = _rows(study, _PARAMETERS)
    except SQLAlchemyError:
        found = None
    if found is None:
        return {trial.number: dict(trial.params) for trial in study.get_trials(deepcopy=False)}
    parameters: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for number, name, value, distribution in found[0]:
        parameters[number][name] = described(distribution).to_external_repr(value)
    return parameters


def _rows(study: optuna.Study, *statements: str) -> list[list[Any]] | None:
    """The rows of each statement; None where the storage is no database."""
    storage = backend_of(study)
    if not isinstance(storage, RDBStorage):
        return None
    with storage.engine.connect() as connection:
        return [
            list(connection.execute(sqlalchemy.text(statement), {"study": study._study_id}).tuples())
            for statement in statements
        ]


def _build(trials: list[Any], user: list[Any], system: list[Any]) -> list[FrozenTrial]:
    attributes: dict[str, Mapping[int, dict[str, Any]]] = {}
    for kind, rows in (("user", user), ("system", system)):
        by_trial: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        for trial_id, key, value in rows:
            by_trial[trial_id][key] = attribute_value(value)
        attributes[kind] = by_trial
    return [
        FrozenTrial(
            number=number,
            state=TrialState[state],
            value=None,
            datetime_start=None,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs=attributes["user"].get(trial_id, {}),
            system_attrs=attributes["system"].get(trial_id, {}),
            intermediate_values={},
            trial_id=trial_id,
        )
        for trial_id, number, state in trials
    ]
