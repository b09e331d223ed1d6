"""Trials as Optuna's database storage reads them, in a fraction of its time.

Optuna builds an object for every row and reads the description of every parameter each time, of all trials that have
not finished, whenever it is asked for a study's trials: with 200 running ones a proposal waited 0.7 s.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from pydantic_core import from_json

from search.states import BYTES
from search.tables import INTERMEDIATE, PARAMS, SYSTEM, TRIALS, USER, VALUES

MOST_IDS = 10_000  # in one statement; SQLite allows 32,766 since 3.32 (2020), PostgreSQL 65,535


class _Table(IntEnum):
    """What a trial consists of."""

    USER = 0
    SYSTEM = 1
    PARAMS = 2
    VALUES = 3
    INTERMEDIATE = 4


def most_trials() -> int:
    """How many a statement may name, which asks all tables for each of them."""
    return MOST_IDS // len(_Table)


class Params(NamedTuple):
    """Parameters of a trial in the order in which they were suggested."""

    values: dict[str, Any]
    distributions: dict[str, BaseDistribution]


class _Known(NamedTuple):
    """A trial, and the rows that it was built of: its table's, and those of the others but of its parameters."""

    row: sqlalchemy.Row[Any]
    rows: list[_Row]
    trial: FrozenTrial


class TrialReader:
    """Reads trials; remembers those that have not finished, of which most are as they were the last time."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def of_study(
        self, connection: sqlalchemy.Connection, study_id: int, included: Collection[int], after: int
    ) -> list[FrozenTrial]:
        """Trials of a study with the ids `included` or larger ones than `after`, by id."""
        wanted = TRIALS.c.trial_id > after
        if included:
            wanted = sqlalchemy.or_(wanted, TRIALS.c.trial_id.in_(sorted(included)))
        return _read(connection, sqlalchemy.and_(TRIALS.c.study_id == study_id, wanted), self._known)


def read_trial(connection: sqlalchemy.Connection, trial_id: int) -> FrozenTrial | None:
    """The trial of that id, whose dictionaries are nobody else's."""
    answer = connection.execute(_OF_ONE, {"wanted": trial_id}).all()
    if not answer:
        return None
    rows = [_Row._make(row[_TRIAL:]) for row in answer if row[_TRIAL] is not None]
    return _built(answer[0], _sorted(rows), None)


def first_distribution(connection: sqlalchemy.Connection, trial_id: int, name: str) -> BaseDistribution | None:
    """The distribution of the first parameter of that name in a trial's study; None if there is none."""
    study = sqlalchemy.select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id).scalar_subquery()
    statement = sqlalchemy.select(PARAMS.c.distribution_json).select_from(PARAMS.join(TRIALS))
    statement = statement.where(TRIALS.c.study_id == study, PARAMS.c.param_name == name)
    text = connection.execute(statement.order_by(PARAMS.c.param_id).limit(1)).scalar()
    return None if text is None else described(text)


def _read(connection: sqlalchemy.Connection, wanted: Any, known: dict[int, _Known]) -> list[FrozenTrial]:
    # The trials come first: what is written between the two statements belongs to a trial that is known, and one that
    # has finished has all it will ever have. The other tables are asked at once: over a network each statement waits.
    statement = sqlalchemy.select(*_OF_TRIAL).where(wanted)
    trials = connection.execute(statement.order_by(TRIALS.c.trial_id)).all()
    if not trials:
        return []
    ids = [row.trial_id for row in trials]
    params = {
        number: Params(known[number].trial.params, known[number].trial.distributions)
        for number in ids
        if number in known and BYTES in known[number].trial.user_attrs  # written with the last of them
    }
    asked = {
        _Table.USER: ids,
        _Table.SYSTEM: ids,
        _Table.PARAMS: [number for number in ids if number not in params],
        _Table.VALUES: [row.trial_id for row in trials if row.state.is_finished()],
        _Table.INTERMEDIATE: ids,
    }
    found: defaultdict[int, list[_Row]] = defaultdict(list)
    for each in _rows(connection, asked, wanted):
        found[each.trial_id].append(each)
    built = []
    for row in trials:
        rows, before = found[row.trial_id], known.get(row.trial_id)
        if before is not None and row.trial_id in params and before.row == row and before.rows == rows:
            built.append(before.trial)
            continue
        trial = _built(row, rows, params.get(row.trial_id))
        built.append(trial)
        if trial.state.is_finished():
            known.pop(trial._trial_id, None)
        else:
            known[trial._trial_id] = _Known(row, [each for each in rows if each.table != _Table.PARAMS], trial)
    return built


def _built(row: sqlalchemy.Row[Any], rows: Iterable[_Row], params: Params | None) -> FrozenTrial:
    """A trial of its table's row and of its rows in the others, in the order in which they were written; without those
    of its parameters where these are given."""
    params = params or Params({}, {})
    user: dict[str, Any] = {}
    system: dict[str, Any] = {}
    values: dict[int, float] = {}
    intermediate: dict[int, float] = {}
    for each in rows:
        text = each.text or ""
        if each.table == _Table.USER:
            user[each.key] = attribute_value(text)
        elif each.table == _Table.SYSTEM:
            system[each.key] = attribute_value(text)
        elif each.table == _Table.PARAMS:
            distribution = described(text)
            assert each.number is not None  # each is written with one
            params.values[each.key] = distribution.to_external_repr(each.number)
            params.distributions[each.key] = distribution
        elif each.table == _Table.VALUES:
            value = models.TrialValueModel
            values[int(each.key)] = value.stored_repr_to_value(each.number, value.TrialValueType[text])
        else:
            model = models.TrialIntermediateValueModel
            kind = model.TrialIntermediateValueType[text]
            intermediate[int(each.key)] = model.stored_repr_to_intermediate_value(each.number, kind)
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=[values[index] for index in sorted(values)] or None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params=params.values,
        distributions=params.distributions,
        user_attrs=user,
        system_attrs=system,
        intermediate_values=intermediate,
        trial_id=row.trial_id,
    )


class _Row(NamedTuple):
    """One of any table: its number there, its key, and a number or a text or both."""

    table: int
    place: int
    trial_id: int
    key: str
    number: float | None
    text: str | None


_OF_TRIAL = tuple(TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete"))
_TRIAL = len(_OF_TRIAL)  # where the columns of `_Row` begin in a row of `_OF_ONE`


def _columns(table: Any, which: _Table, key: str, number: str | None, text: str) -> sqlalchemy.Select[Any]:
    """A table's columns as those of `_Row`."""
    return sqlalchemy.select(
        sqlalchemy.literal_column(str(which.value)).label("which"),
        table.primary_key.columns[0].label("place"),
        table.c.trial_id,
        sqlalchemy.cast(table.c[key], sqlalchemy.Text).label("key"),
        sqlalchemy.cast(sqlalchemy.null() if number is None else table.c[number], sqlalchemy.Double).label("number"),
        sqlalchemy.cast(table.c[text], sqlalchemy.Text).label("text"),
    )


_SELECTS = {
    which: (table, _columns(table, which, key, number, text))
    for which, table, key, number, text in (
        (_Table.USER, USER, "key", None, "value_json"),
        (_Table.SYSTEM, SYSTEM, "key", None, "value_json"),
        (_Table.PARAMS, PARAMS, "param_name", "param_value", "distribution_json"),
        (_Table.VALUES, VALUES, "objective", "value", "value_type"),
        (_Table.INTERMEDIATE, INTERMEDIATE, "step", "intermediate_value", "intermediate_value_type"),
    )
}
_OF_FEW = sqlalchemy.union_all(
    *(
        select.where(table.c.trial_id.in_(sqlalchemy.bindparam(which.name, expanding=True)))
        for which, (table, select) in _SELECTS.items()
    )
)

_ROWS_OF_ONE = sqlalchemy.union_all(
    *(select.where(table.c.trial_id == sqlalchemy.bindparam("wanted")) for table, select in _SELECTS.values())
).subquery()
_OF_ONE = (
    sqlalchemy.select(*_OF_TRIAL, *_ROWS_OF_ONE.c)
    .select_from(TRIALS.outerjoin(_ROWS_OF_ONE, sqlalchemy.true()))
    .where(TRIALS.c.trial_id == sqlalchemy.bindparam("wanted"))
)


def _rows(connection: sqlalchemy.Connection, asked: Mapping[_Table, Sequence[int]], wanted: Any) -> list[_Row]:
    """Rows of trials, table by table, in the order in which they were written."""
    if all(len(ids) <= most_trials() for ids in asked.values()):
        given = {which.name: ids for which, ids in asked.items()}
        return _sorted(map(_Row._make, connection.execute(_OF_FEW, given).tuples()))
    # All trials at the beginning of a resume: more than a statement may name.
    selects = (select.select_from(table.join(TRIALS)).where(wanted) for table, select in _SELECTS.values())
    chosen = {which: set(ids) for which, ids in asked.items()}
    every = map(_Row._make, connection.execute(sqlalchemy.union_all(*selects)).tuples())
    return _sorted(row for row in every if row.trial_id in chosen[_Table(row.table)])


def _sorted(rows: Iterable[_Row]) -> list[_Row]:
    """Table by table, in the order in which they were written."""
    return sorted(rows, key=itemgetter(0, 1))


def _local(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Optuna stores them in UTC and answers local time, both without a zone."""
    return None if moment is None else moment.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


def attribute_value(text: str) -> Any:
    """The value of an attribute from its JSON. Equal strings are one object.

    Unpaired surrogates, which no file and no terminal takes, become question marks.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return from_json(text, cache_strings="all")  # half the time of `json`, but it refuses those
    except ValueError:
        return from_json(json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace"))


@cache
def described(text: str) -> BaseDistribution:
    """A distribution from its JSON; each is made once."""
    return json_to_distribution(text)
