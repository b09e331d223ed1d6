"""Optuna's storage in SQLite or PostgreSQL, which writes trials in a fraction of Optuna's time.

Optuna makes an object of every row that it touches, looks for each value before it writes it, and takes four statements
to number a trial. Here values overwrite what is there, and the database counts.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from search.study_storage import StudyStorage, Writes
from search.tables import INTERMEDIATE, PARAMS, STUDIES, SYSTEM, TRIALS, USER, VALUES

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
OLDEST_SQLITE = (3, 35)  # from here on it answers what it has inserted
TOGETHER = 500  # trials that are added in one transaction: a second or less, in which nobody else can write to SQLite
TRIES = 5  # as many as Optuna takes to make a trial

# Locked, so that nobody ends a trial between the look at its state and the write. SQLite has no such clause: see
# `_transaction`.
_STATE = sqlalchemy.select(TRIALS.c.state).where(TRIALS.c.trial_id == sqlalchemy.bindparam("wanted")).with_for_update()
_STUDY = sqlalchemy.select(STUDIES.c.study_id).where(STUDIES.c.study_id == sqlalchemy.bindparam("wanted"))
_LOCKED_STUDY = _STUDY.with_for_update()
_BEFORE = TRIALS.alias()
_HOW_MANY = sqlalchemy.select(sqlalchemy.func.count()).select_from(_BEFORE)
_CREATION = (
    sqlalchemy.insert(TRIALS)
    .values(
        study_id=sqlalchemy.bindparam("study"),
        number=_HOW_MANY.where(_BEFORE.c.study_id == sqlalchemy.bindparam("study")).scalar_subquery(),
        state=TrialState.RUNNING,
        datetime_start=sqlalchemy.bindparam("now"),
    )
    .returning(TRIALS.c.trial_id, TRIALS.c.number)
)
_ADDITION = sqlalchemy.insert(TRIALS).returning(TRIALS.c.trial_id, sort_by_parameter_order=True)


class DirectStorage(StudyStorage):
    """As `StudyStorage`, with statements of its own for what a search writes of trials (SQLite: `OLDEST_SQLITE`)."""

    def _write(self, trial_id: int, writes: Writes) -> None:
        with suppress(IntegrityError), self._transaction() as connection:
            self._check_updatable(connection, trial_id)
            if writes.params:
                rows = [{"trial_id": trial_id, **row} for row in writes.params]
                connection.execute(sqlalchemy.insert(PARAMS), rows)
            for table, attributes in ((USER, writes.user), (SYSTEM, writes.system)):
                if attributes:
                    rows = _attribute_rows(trial_id, attributes)
                    connection.execute(_replacement(connection.dialect.name, table, "trial_id", "key"), rows)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        now = _utc(datetime.datetime.now())
        with self._transaction() as connection:
            before = self._check_updatable(connection, trial_id)
            if state == TrialState.RUNNING and before != TrialState.WAITING:
                return False  # another one has taken it
            if values is not None:
                rows = _value_rows(trial_id, values)
                connection.execute(_replacement(connection.dialect.name, VALUES, "trial_id", "objective"), rows)
            changes: dict[str, Any] = {"state": state}
            if state == TrialState.RUNNING:
                changes["datetime_start"] = now
            if state.is_finished():
                changes["datetime_complete"] = now
            connection.execute(sqlalchemy.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(changes))
        return True

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None:
            return super()._create_new_trial(study_id, template_trial)
        started = datetime.datetime.now()
        try:
            with self._transaction() as connection:
                # Locked, as by Optuna's own: of two that count at a time both would come to the same number.
                if connection.execute(_LOCKED_STUDY, {"wanted": study_id}).first() is None:
                    raise KeyError(models.NOT_FOUND_MSG)
                made = connection.execute(_CREATION, {"study": study_id, "now": _utc(started)}).one()
        except StorageInternalError:
            return super()._create_new_trial(study_id)  # which tries again and again
        return FrozenTrial(
            number=made.number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=started,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=made.trial_id,
        )

    def add_trials(self, study_id: int, trials: Sequence[FrozenTrial]) -> None:
        """Write all trials of a study that has none: what `create_new_trial` does with each for a template.

        Whatever trials the study has are taken for the first of these: after a connection that broke, nobody knows what
        the server has done.

        Raises:
            KeyError: there is no such study.
            ValueError: a parameter has distributions that are not compatible; nothing is written.
        """
        check_compatible(trials)
        there = failed = 0
        while there < len(trials):
            try:
                there = self._add_next(study_id, trials)
            except StorageInternalError:
                failed += 1
                if failed == TRIES:
                    raise

    def _add_next(self, study_id: int, trials: Sequence[FrozenTrial]) -> int:
        """Write the next of a study's trials in one transaction; how many are there then."""
        with self._transaction() as connection:
            if connection.execute(_LOCKED_STUDY, {"wanted": study_id}).first() is None:
                raise KeyError(models.NOT_FOUND_MSG)
            there: int = connection.execute(_HOW_MANY.where(_BEFORE.c.study_id == study_id)).scalar_one()
            some = trials[there : there + TOGETHER]
            if some:
                rows = [_trial_row(study_id, there + place, trial) for place, trial in enumerate(some)]
                ids = connection.execute(_ADDITION, rows).scalars().all()
                for table, rows in _rows_of(dict(zip(ids, some, strict=True))).items():
                    if rows:
                        connection.execute(sqlalchemy.insert(table), rows)
        return there + len(some)

    def _check_updatable(self, connection: sqlalchemy.Connection, trial_id: int) -> TrialState:
        """The state of a trial that has not finished.

        Raises:
            KeyError: there is no such trial.
            optuna.exceptions.UpdateFinishedTrialError: it has finished.
        """
        state: TrialState | None = connection.execute(_STATE, {"wanted": trial_id}).scalar()
        if state is None:
            raise KeyError(models.NOT_FOUND_MSG)
        self.check_trial_is_updatable(trial_id, state)
        return state

    @contextmanager
    def _transaction(self) -> Iterator[sqlalchemy.Connection]:
        try:
            with self.engine.begin() as connection:
                if connection.dialect.name == "sqlite":
                    # Python would begin only before the first row is written: what was read before that may be stale.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        except IntegrityError:  # parameters that are there
            raise
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise StorageInternalError("The storage could not be written.") from error


@cache
def _replacement(dialect: str, table: Any, *key: str) -> Any:
    """Insertion of rows of a table that overwrites those of the same key."""
    insertion = _INSERTS[dialect](table)
    kept = {*key, *(column.name for column in table.primary_key)}
    others = {column.name: insertion.excluded[column.name] for column in table.columns if column.name not in kept}
    return insertion.on_conflict_do_update(index_elements=key, set_=others)


def check_compatible(trials: Sequence[FrozenTrial]) -> None:
    """Check that parameters of the same name have distributions that Optuna takes for one study.

    Raises:
        ValueError: they do not; names the trial and the parameter.
    """
    first: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            if (before := first.setdefault(name, distribution)) is not distribution:
                try:
                    check_distribution_compatibility(before, distribution)
                except ValueError as error:
                    raise ValueError(f"trial {trial.number}: parameter {name!r}: {error}") from None


def _trial_row(study_id: int, number: int, trial: FrozenTrial) -> dict[str, Any]:
    began, ended = trial.datetime_start, trial.datetime_complete
    return {
        "study_id": study_id,
        "number": number,
        "state": trial.state,
        "datetime_start": None if began is None else _utc(began),
        "datetime_complete": None if ended is None else _utc(ended),
    }


def _rows_of(trials: Mapping[int, FrozenTrial]) -> dict[Any, list[dict[str, Any]]]:
    """What the other tables hold of trials, by their ids; in the order in which Optuna would write it."""
    rows: dict[Any, list[dict[str, Any]]] = {VALUES: [], PARAMS: [], USER: [], SYSTEM: [], INTERMEDIATE: []}
    for trial_id, trial in trials.items():
        rows[VALUES] += _value_rows(trial_id, trial.values or ())
        rows[PARAMS] += (
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": distribution_to_json(distribution),
            }
            for name, distribution in ((name, trial.distributions[name]) for name in trial.params)
        )
        rows[USER] += _attribute_rows(trial_id, trial.user_attrs)
        rows[SYSTEM] += _attribute_rows(trial_id, trial.system_attrs)
        rows[INTERMEDIATE] += _intermediate_rows(trial_id, trial.intermediate_values)
    return rows


def _value_rows(trial_id: int, values: Sequence[float]) -> list[dict[str, Any]]:
    stored = map(models.TrialValueModel.value_to_stored_repr, values)
    return [
        {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(stored)
    ]


def _intermediate_rows(trial_id: int, values: Mapping[int, float]) -> list[dict[str, Any]]:
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    pairs = ((step, *stored(value)) for step, value in values.items())
    return [
        {"trial_id": trial_id, "step": step, "intermediate_value": value, "intermediate_value_type": kind}
        for step, value, kind in pairs
    ]


def _attribute_rows(trial_id: int, attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _utc(moment: datetime.datetime) -> datetime.datetime:
    """As Optuna stores times: in UTC, without a zone."""
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)
