"""Rows of TSV files that a quote swallowed which was a plain character, as in the files of GLUE."""

from __future__ import annotations

from space.errors import InputError


def swallows(cell: str) -> bool:
    """Whether a cell of a TSV file looks as if it held the rows after it.

    It holds tabs and line ends both: a cell that was quoted for one of them alone is as its writer meant it.
    """
    return "\t" in cell and ("\n" in cell or "\r" in cell)


def swallowed_rows(place: str) -> InputError:
    """What to say of such a cell."""
    return InputError(
        f"{place}: a cell begins with a quote and runs over tabs and line ends to the next one.",
        "Where quotes are plain characters, save the file as JSON lines: pandas.read_csv(FILE, sep='\\t', quoting=3)"
        ".to_json('NAME.jsonl', orient='records', lines=True).",
    )
