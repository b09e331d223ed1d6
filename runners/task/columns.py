"""Texts and labels out of a split's columns, each row checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    if not _is_text(values.type):
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
    if _is_text(values.type):
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


def class_labels(
    table: Table, column: str, names: tuple[str, ...], train: Table | None = None, listed: bool = False
) -> npt.NDArray[np.int64]:
    """Class indices, int64 [n], each in `range(len(names))`.

    Text is read by name, integers as places among the names, with two exceptions. Integers that the data set itself
    names (`ClassLabel`) are read by these names where the task, or the train split, has them in another order; names of
    the study that only rename them keep their places. Where the names spell numbers (of truth values: "True", "False")
    and every integer of the train split is among them, integers are these numbers: of `labels: ["2", "1", "0"]`, 2 is
    the first class.

    Args:
        names: of the classes in index order, as `class_names` of the train split.
        train: the train split, which decides how integers are read; None where `table` is it.
        listed: whether the study lists the names.

    Raises:
        InputError: the column is missing, or a label is null, unknown or out of range; or the train split has names
            in no order that the study or the data set tells, and this one has numbers.
    """
    values = values_of(table, column)
    refuse_null(table, column, values, "label")
    if _is_text(values.type):
        index = {name: number for number, name in enumerate(names)}
        return _known(table, column, names, [(name, index.get(name)) for name in values.to_pylist()])
    numbers = _integers(table, column, values)
    train = table if train is None else train
    own = table.class_names.get(column) or train.class_names.get(column)
    if own == names:
        _check_range(table, column, numbers, len(names))
        return numbers
    if own is not None and _named_otherwise(own, train, column, names):
        _check_range(table, column, numbers, len(own))
        index = {name: number for number, name in enumerate(names)}
        hint = f"The data set names its classes {shown(own)}: list all of these names under labels, or none of them."
        return _known(table, column, names, [(own[number], index.get(own[number])) for number in numbers], hint)
    spelled = None if column in train.class_names else _spelled_numbers(table, column, names, train, listed)
    if spelled is not None:
        return _known(table, column, names, [(number, spelled.get(number)) for number in numbers.tolist()])
    _check_range(table, column, numbers, len(names))
    return numbers


def _named_otherwise(own: tuple[str, ...], train: Table, column: str, names: tuple[str, ...]) -> bool:
    """Whether integers that a data set names are no places among the task's names."""
    if _is_text(values_of(train, column).type):
        return own != names
    first = train.class_names.get(column, own)
    same_as_train = own == first or (not set(own).isdisjoint(first) and not _misplaced(own, first))
    return _misplaced(first, names) if same_as_train else True


def _misplaced(own: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether a name that both hold has another place in one than in the other, so that neither renames the other."""
    return any(name in names and names.index(name) != place for place, name in enumerate(own))


def _spelled_numbers(
    table: Table, column: str, names: tuple[str, ...], train: Table, listed: bool
) -> dict[float, int] | None:
    """Class index of each number that the names spell; None where integers are places among the names."""
    values, taught = values_of(table, column), values_of(train, column)
    boolean = any(pa.types.is_boolean(kind) for kind in (values.type, taught.type))
    truth = {"true": 1.0, "false": 0.0} if boolean else {}
    spelled: dict[float, int] = {}
    for index, name in enumerate(names):
        try:
            spelled[truth[name.casefold()] if name.casefold() in truth else float(name)] = index
        except ValueError:
            break
    numeric = len(spelled) == len(names)
    if _is_text(taught.type):
        if not numeric and not listed:
            raise InputError(
                f"Column {column!r} of {train.where} holds names, {shown(names)}, but that of {table.where} holds "
                f"{values.type}: which number is which name is not told.",
                "List the names in the order of their numbers: labels: [NAME, ...].",
            )
        return spelled if numeric else None
    identity = all(number == index for number, index in spelled.items())
    known = set(np.unique(_integers(train, column, taught)).tolist())
    return spelled if numeric and not identity and known <= spelled.keys() else None


def _known(
    table: Table,
    column: str,
    names: tuple[str, ...],
    labels: Iterable[tuple[object, int | None]],
    hint: str | None = None,
) -> npt.NDArray[np.int64]:
    found = []
    for row, (label, index) in enumerate(labels):
        if index is None:
            raise InputError(f"Label {label!r} in {place(table, column, row)} is not one of {shown(names)}.", hint)
        found.append(index)
    return np.array(found, dtype=np.int64)


def _check_range(table: Table, column: str, numbers: npt.NDArray[np.int64], count: int) -> None:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= count))
    if len(wrong):
        row = int(wrong[0])
        hint = "A split with hidden labels (-1) cannot be used." if numbers[row] == -1 else None
        raise InputError(f"Label {numbers[row]} in {place(table, column, row)} is outside 0 to {count - 1}.", hint)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
