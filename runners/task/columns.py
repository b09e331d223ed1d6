"""Texts and labels out of a split's columns, each row checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from runners.task.sources import Table
from runners.task.spec import Value
from space.errors import InputError


def select(table: Table, where: Mapping[str, Value | tuple[Value, ...]]) -> Table:
    """The rows that have the given values, or one of several, in the given columns.

    Raises:
        InputError: a column is missing, or no row is left.
    """
    for column, wanted in where.items():
        values = values_of(table, column, CORRECT_WHERE)
        if pa.types.is_nested(values.type):
            raise InputError(
                f"Column {column!r} of {table.where} holds {values.type}: rows cannot be chosen by it.",
                CORRECT_WHERE,
            )
        known = pc.unique(values).to_pylist()
        allowed = wanted if isinstance(wanted, tuple) else (wanted,)
        chosen = [value for value in known if any(type(value) is type(item) and value == item for item in allowed)]
        if missing := [item for item in allowed if item not in chosen]:
            raise InputError(
                f"No row of {table.where} has {missing[0]!r} in column {column!r}; it has {shown(known)}.",
                CORRECT_WHERE,
            )
        rows = np.flatnonzero(pc.is_in(values, value_set=pa.array(chosen, values.type)).to_numpy())
        if len(rows) == 0:
            raise InputError(f"No row of {table.where} has all that task.where asks for.")
        numbers = rows if table.numbers is None else table.numbers[rows]
        table = replace(table, columns=table.columns.take(pa.array(rows)), numbers=numbers)
    return table


def texts(table: Table, column: str) -> list[str]:
    """The texts of a column.

    Raises:
        InputError: the column is missing or not text, or a text is null.
    """
    values = values_of(table, column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise InputError(f"Column {column!r} of {table.where} holds {values.type}, not text.")
    refuse_null(table, column, values, "text")
    found: list[str] = values.to_pylist()
    return found


def real_labels(table: Table, column: str) -> npt.NDArray[np.float32]:
    """Labels of a regression, float32 [n].

    Raises:
        InputError: the column is missing or not a number, or a label is null, NaN or infinite.
    """
    values = values_of(table, column)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise InputError(f"Column {column!r} of {table.where} holds {values.type}, but a regression needs numbers.")
    refuse_null(table, column, values, "label")
    found = values.to_numpy().astype(np.float32)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found))[0])
        raise InputError(f"Label {found[row]} in {place(table, column, row)} is not a finite number.")
    return found


def class_names(table: Table, column: str, declared: int | tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of the classes in index order, from the study, else from the train split.

    Class indices without names are named "0", "1", ...

    Raises:
        InputError: train does not determine the classes.
    """
    if isinstance(declared, tuple):
        return declared
    values = values_of(table, column)
    refuse_null(table, column, values, "label")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        names = tuple(sorted(pc.unique(values).to_pylist()))
        if isinstance(declared, int) and declared != len(names):
            raise InputError(
                f"The study has labels: {declared}, but column {column!r} of {table.where} has {len(names)} names.",
                "List the names under labels.",
            )
    elif isinstance(declared, int):
        known = table.class_names.get(column, ())
        return known if len(known) == declared else tuple(str(index) for index in range(declared))
    elif column in table.class_names:
        return table.class_names[column]
    else:
        indices = np.unique(_integers(table, column, values))
        names = tuple(str(index) for index in range(len(indices)))
        if not np.array_equal(indices, np.arange(len(indices))):
            shown = ", ".join(str(index) for index in indices[:8]) + (", ..." if len(indices) > 8 else "")
            raise InputError(
                f"The labels in column {column!r} of {table.where} are {shown}: they must count from 0 without a gap.",
                "Say in the study how many there are: labels: N.",
            )
    if len(names) < 2:
        raise InputError(f"Column {column!r} of {table.where} has one label only: {names[0]!r} in every row.")
    return names


def class_labels(table: Table, column: str, names: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Class indices, int64 [n], each in `range(len(names))`.

    Raises:
        InputError: the column is missing, or a label is null, unknown or out of range.
    """
    values = values_of(table, column)
    refuse_null(table, column, values, "label")
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        index = {name: number for number, name in enumerate(names)}
        found = []
        for row, name in enumerate(values.to_pylist()):
            if name not in index:
                raise InputError(f"Label {name!r} in {place(table, column, row)} is not one of {shown(names)}.")
            found.append(index[name])
        return np.array(found, dtype=np.int64)
    numbers = _integers(table, column, values)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
    if len(wrong):
        row = int(wrong[0])
        hint = "A split with hidden labels (-1) cannot be used." if numbers[row] == -1 else None
        raise InputError(f"Label {numbers[row]} in {place(table, column, row)} is outside 0 to {len(names) - 1}.", hint)
    return numbers


COLUMNS_OF_TEXT = (
    "Set task.text and task.label (--text, --label; of words: task.tokens and task.tags) to the columns that hold them."
)
CORRECT_WHERE = "Correct task.where (--where)."


def values_of(table: Table, column: str, hint: str = COLUMNS_OF_TEXT) -> pa.ChunkedArray:
    if column not in table.columns.column_names:
        raise InputError(
            f"{table.where} has no column {column!r}; it has {', '.join(table.columns.column_names) or 'none'}.",
            hint,
        )
    if table.columns.num_rows == 0:
        raise InputError(f"{table.where} has no rows.")
    values = table.columns.column(column)
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _integers(table: Table, column: str, values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if pa.types.is_integer(values.type):
        return values.to_numpy().astype(np.int64)
    if pa.types.is_boolean(values.type):
        return np.array(values.to_pylist(), dtype=np.int64)
    if not pa.types.is_floating(values.type):
        raise InputError(f"Column {column!r} of {table.where} holds {values.type}, not class indices or names.")
    numbers = values.to_numpy()
    wrong = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.round(numbers)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"Label {numbers[row]} in {place(table, column, row)} is not a class index.",
            None if np.isnan(numbers[row]) else "For real-valued labels set kind: regression.",
        )
    return numbers.astype(np.int64)


def refuse_null(table: Table, column: str, values: pa.ChunkedArray, what: str) -> None:
    if pa.types.is_null(values.type) or values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise InputError(f"There is no {what} in {place(table, column, row)}.", "Remove such rows.")


def place(table: Table, column: str, row: int) -> str:
    number = row if table.numbers is None else int(table.numbers[row])
    return f"row {number + 1} of {table.where}, column {column!r}"


def shown(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:8])) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
