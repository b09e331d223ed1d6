"""Words and their tags out of a split's columns, each row checked."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from objectives.quality import OUTSIDE
from runners.task import columns
from runners.task.sources import Table
from space.errors import InputError


def without_empty(table: Table, column: str) -> Table:
    """The rows that have words: an empty sentence teaches and measures nothing.

    Raises:
        InputError: the column is missing, holds no lists, or a row has none; or all lists are empty.
    """
    rows = np.flatnonzero(_lengths(table, column))
    if len(rows) == 0:
        raise InputError(f"No row of {table.where} has a word in column {column!r}.")
    numbers = rows if table.numbers is None else table.numbers[rows]
    return replace(table, columns=table.columns.take(pa.array(rows)), numbers=numbers)


def words(table: Table, column: str) -> list[list[str]]:
    """The words of each row.

    Raises:
        InputError: the column holds no lists of text, or a word is null.
    """
    flat = flattened(table, column)
    found = columns.texts(flat, column)
    starts = word_starts(table, column)
    return [found[first:last] for first, last in pairwise(starts)]


def word_starts(table: Table, column: str) -> npt.NDArray[np.int64]:
    """Where the words of each row begin among all words, int64 [rows + 1]."""
    return np.concatenate(([0], np.cumsum(_lengths(table, column)))).astype(np.int64)


def flattened(table: Table, column: str) -> Table:
    """A column of lists as one of their items, each with the number of its row.

    Raises:
        InputError: the column is missing, holds no lists, or a row has none.
    """
    lengths = _lengths(table, column)
    rows = np.arange(len(lengths)) if table.numbers is None else table.numbers
    items = pc.list_flatten(table.columns.column(column))
    return Table(table.where, pa.table({column: items}), table.class_names, np.repeat(rows, lengths))


def tag_names(table: Table, column: str, declared: int | tuple[str, ...] | None, entities: bool) -> tuple[str, ...]:
    """Names of the tags in index order, from the study, else from the train split.

    Names that are found in the data begin with `O`, and each type of entity has both a `B-` and an `I-` tag.

    Args:
        table: the train split.
        column: of the tags.
        declared: `labels` of the study.
        entities: whether tags must be IOB2.

    Raises:
        InputError: train does not determine the tags, or they are not IOB2 where they must be.
    """
    flat = flattened(table, column)
    names = columns.class_names(flat, column, declared)
    listed = isinstance(declared, tuple) or column in table.class_names
    if not entities:
        return names
    if wrong := [name for name in names if name != OUTSIDE and (name[:2] not in ("B-", "I-") or not name[2:])]:
        raise InputError(
            f"Tag {wrong[0]!r} of {table.where}, column {column!r}, is not IOB2: O, B-TYPE or I-TYPE.",
            "Name the tags in the order of their indices: labels: [O, B-PER, I-PER, ...].",
        )
    types = dict.fromkeys(name[2:] for name in names if name != OUTSIDE)
    if listed:
        missing = [name for name in (OUTSIDE, *(f"B-{kind}" for kind in types)) if name not in names]
        if missing:
            raise InputError(f"The tags of {table.where}, {columns.shown(names)}, lack {missing[0]}.")
        return names
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def tag_labels(
    table: Table,
    tokens: str,
    column: str,
    names: tuple[str, ...],
    entities: bool,
    train: Table | None = None,
    listed: bool = False,
) -> npt.NDArray[np.int64]:
    """Indices of the tags of all words, int64 [words].

    Args:
        names, train, listed: as of `columns.class_labels`, which says how integers are read.

    Raises:
        InputError: a row has not as many tags as words, a tag is unknown, or it continues an entity that has not
            begun; or as of `columns.class_labels`.
    """
    counts, wanted = _lengths(table, column), _lengths(table, tokens)
    if len(wrong := np.flatnonzero(counts != wanted)):
        row = int(wrong[0])
        raise InputError(
            f"There are {wanted[row]} words but {counts[row]} tags in {columns.place(table, column, row)}.",
            "Give one tag for each word.",
        )
    flat = flattened(table, column)
    taught = None if train is None else flattened(train, column)
    labels = columns.class_labels(flat, column, names, taught, listed)
    if entities:
        _check_order(flat, column, labels, names, np.cumsum(wanted)[:-1])
    return labels


def _check_order(
    flat: Table, column: str, labels: npt.NDArray[np.int64], names: tuple[str, ...], starts: npt.NDArray[np.int64]
) -> None:
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(name[2:] for name in names))}
    kind = np.array([kinds[name[2:]] for name in names])[labels]
    inside = np.array([name.startswith("I-") for name in names])[labels]
    # The empty type is that of O: what stands before the first word of a sentence.
    before = np.concatenate(([kinds[""]], kind[:-1]))
    before[starts] = kinds[""]
    if len(wrong := np.flatnonzero(inside & (kind != before))):
        word = int(wrong[0])
        first = word == 0 or word in starts
        previous = "begins the sentence" if first else f"follows {names[labels[word - 1]]}"
        raise InputError(
            f"Tag {names[labels[word]]} {previous} in {columns.place(flat, column, word)}: tags are not IOB2.",
            "An entity begins with a B- tag.",
        )


def _lengths(table: Table, column: str) -> npt.NDArray[np.int64]:
    values = columns.values_of(table, column)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise InputError(
            f"Column {column!r} of {table.where} holds {values.type}, but words and tags are lists.",
            "CSV files have no lists: use Parquet or JSON.",
        )
    columns.refuse_null(table, column, values, "list")
    lengths: npt.NDArray[np.int64] = pc.list_value_length(values).to_numpy().astype(np.int64)
    return lengths
