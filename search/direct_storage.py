"""Optuna's storage in SQLite or PostgreSQL, which writes trials in a fraction of Optuna's time.

Optuna makes an object of every row that it touches, looks for each value before it writes it, and takes four statements
to number a trial. Here values overwrite what is there, and the database counts.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from search.study_storage import StudyStorage, Writes
from search.tables import PARAMS, STUDIES, SYSTEM, TRIALS, USER, VALUES

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
OLDEST_SQLITE = (3, 35)  # from here on it answers what it has inserted

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
                    rows = [
                        {"trial_id": trial_id, "key": k, "value_json": json.dumps(v)} for k, v in attributes.items()
                    ]
                    connection.execute(_replacement(connection.dialect.name, table, "trial_id", "key"), rows)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        now = _utc(datetime.datetime.now())
        with self._transaction() as connection:
            before = self._check_updatable(connection, trial_id)
            if state == TrialState.RUNNING and before != TrialState.WAITING:
                return False  # another one has taken it
            if values is not None:
                stored = map(models.TrialValueModel.value_to_stored_repr, values)
                rows = [
                    {"trial_id": trial_id, "objective": objective, "value": value, "value_type": kind}
                    for objective, (value, kind) in enumerate(stored)
                ]
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


def _utc(moment: datetime.datetime) -> datetime.datetime:
    """As Optuna stores times: in UTC, without a zone."""
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)
