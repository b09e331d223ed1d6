"""Rows of TSV files that a quote swallowed which was a plain character, as in the files of GLUE."""

from __future__ import annotations

import re

from space.errors import InputError

_LINE_END = re.compile(r"\r\n|\r|\n")


def swallows(cell: str, column: int, columns: int) -> bool:
    """Whether a cell of a TSV file has the shape of one that holds the rows after it.

    It begins with the rest of its own row, goes on with whole rows, and ends with as much of a row as stood before it.
    What was quoted for its tabs or line ends, as code is, hardly ever has that shape.

    Args:
        cell: content without the quotes.
        column: its place in its row.
        columns: of the file.
    """
    tabs = [line.count("\t") for line in _LINE_END.split(cell)]
    if columns == 1 or len(tabs) == 1:  # of one column, rows look like lines of a text
        return False
    first, *whole, last = tabs
    return (first, last) == (columns - 1 - column, column) and all(count == columns - 1 for count in whole)


def swallowed_rows(place: str) -> InputError:
    """What to say of such a cell."""
    return InputError(
        f"{place}: a cell begins with a quote and runs over tabs and line ends to the next one.",
        "Where quotes are plain characters, save the file as JSON lines: pandas.read_csv(FILE, sep='\\t', quoting=3)"
        ".to_json('NAME.jsonl', orient='records', lines=True); where the cell is meant so, without quoting=3.",
    )
