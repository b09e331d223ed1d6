"""Domains of a task: which row is from which, and the one that students are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from runners.task import columns
from runners.task.sources import Table
from runners.task.spec import Value
from space.errors import InputError

_MOST = 20  # domains where most rows have one of their own: a column of texts would be named by mistake


def names_of(table: Table, column: str) -> npt.NDArray[np.str_]:
    """The domain of each row, as text [rows].

    Raises:
        InputError: the column is missing or holds no names, or a row has no domain.
    """
    values = columns.values_of(table, column)
    kind = values.type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (texts or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise InputError(
            f"Column {column!r} of {table.where} holds {kind}: it tells no domains.", "Correct task.domain."
        )
    columns.refuse_null(table, column, values, "domain")
    names = np.array([str(value) for value in values.to_pylist()], dtype=np.str_)
    if len(known := np.unique(names)) > max(_MOST, len(names) / 2):
        raise InputError(
            f"Column {column!r} of {table.where} has {len(known)} values in {len(names)} rows: it tells no domains.",
            "Correct task.domain.",
        )
    return names


def numbered(table: Table, column: str) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names of the domains, sorted, and the place of each row's domain among them, int64 [rows].

    Raises:
        InputError: as of `names_of`.
    """
    names, places = np.unique(names_of(table, column), return_inverse=True)
    return tuple(str(name) for name in names), places.astype(np.int64)


def apart(train: Table, validation: Table, column: str, unseen: Value) -> tuple[Table, Table]:
    """The train split without a domain, and of the validation split that domain alone.

    Raises:
        InputError: as of `names_of`; or nothing is left of a split.
    """
    own, other = rows_of(validation, column, "unseen", unseen), np.flatnonzero(names_of(train, column) != str(unseen))
    if len(other) == 0:
        raise InputError(
            f"All rows of {train.where} have domain {str(unseen)!r} in column {column!r}: nothing is left.",
            "Correct task.unseen.",
        )
    return _taken(train, other), _taken(validation, own)


def rows_of(table: Table, column: str, key: str, wanted: Value) -> npt.NDArray[np.int64]:
    """The rows of one domain, int64; `key` of section `task` names it.

    Raises:
        InputError: as of `names_of`; or there are none.
    """
    names = names_of(table, column)
    rows = np.flatnonzero(names == str(wanted))
    if len(rows) == 0:
        raise InputError(
            f"No row of {table.where} has domain {str(wanted)!r} in column {column!r}; it has "
            f"{columns.shown(sorted(set(names.tolist())))}.",
            f"Correct task.{key}.",
        )
    return rows


def _taken(table: Table, rows: npt.NDArray[np.int64]) -> Table:
    numbers = rows if table.numbers is None else table.numbers[rows]
    return replace(table, columns=table.columns.take(pa.array(rows)), numbers=numbers)
