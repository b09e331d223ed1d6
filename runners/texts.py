"""Rows of text files, read one at a time, and the answers of a bundle to them."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from runners.column_names import refuse_doubled
from runners.plain_quotes import swallowed_rows, swallows
from runners.predict import Bundle, Prediction, check_unicode
from runners.standard_lines import StandardLines
from runners.tags import Tagged
from space.errors import InputError
from space.paths import expanded

Layout = Literal["jsonl", "csv", "tsv", "txt"]
LAYOUTS: tuple[Layout, ...] = ("jsonl", "csv", "tsv", "txt")
STANDARD = "-"  # standard input
ANSWER = "prediction"  # column of the answers
LONGEST_CELL = 1 << 26  # characters of a cell in csv and tsv; Python's own limit, 131,072, is less than a long document
WINDOW = 32  # batches that are read together, so that texts of similar length can be run together


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        values: what stands in it, by column.
        texts: those that the bundle reads: one, or two of a pair; of tagged words a list of words may stand for a text.
        place: where it stands, for messages.
        last: whether it is the last that is there so far, and who wrote it may wait for the answer.
    """

    values: dict[str, Any]
    texts: tuple[Any, ...]
    place: str
    last: bool = False


def layout_of(path: str, given: str | None) -> Layout:
    """How a file is laid out: as said, else by its ending; standard input has lines.

    Raises:
        InputError: an unknown layout or ending.
    """
    if path == STANDARD and given is None:
        return "txt"
    ending = given or Path(path).suffix.lower().removeprefix(".")
    for layout in LAYOUTS:
        if ending == layout or (ending == "json" and layout == "jsonl" and given is None):
            return layout
    known = ", ".join(LAYOUTS)
    if given is not None:
        raise InputError(f"There is no layout {given!r} of input files.", f"Known: {known}.")
    raise InputError(
        f"{path} has an unknown ending.", f"Known: {known}; else say which of them it is by --input-format."
    )


def read_rows(path: str, layout: Layout, columns: Sequence[str], words: bool = False) -> Iterator[Row]:
    """The rows of a file in order, one at a time: the file may be of any size.

    Lines of a `txt` file are texts; the texts of a pair stand on one line with a tab between. Empty lines are passed
    over in `jsonl` files, and in `csv` and `tsv` files of several columns; in those of one they are empty texts.

    Args:
        path: of the file, or `STANDARD`.
        layout: of the file.
        columns: that hold the texts.
        words: whether a list of words may stand for a text.

    Raises:
        InputError: no such file; a row that is no row, lacks a column, has something other than text in it, names a
            column twice or has one named as that of the answers (with file and line).
    """
    where = "standard input" if path == STANDARD else path
    with _opened(path) as file:
        line = 1
        try:
            for line, values in _numbered(file, where, layout, columns, words):
                place = f"{where}, line {line}"
                if ANSWER in values:
                    raise InputError(f"{place} has {ANSWER!r}, where the answer will stand.", "Name it otherwise.")
                texts = tuple(_text(values, column, place, words) for column in columns)
                yield Row(values, texts, place, isinstance(file, StandardLines) and file.waits())
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8 text, after line {line}: {error.reason}.") from None
        except csv.Error as error:
            raise InputError(f"{where}, after line {line}: {error}.", "Is a quote left open?") from None


@contextmanager
def _opened(path: str) -> Iterator[Iterable[str]]:
    if path == STANDARD:
        if sys.stdin is None:
            raise InputError("Standard input is closed.", "Give texts as arguments, or a file by --input.")
        yield StandardLines(sys.stdin.buffer)
        return
    try:
        file = open(expanded(path), encoding="utf-8-sig", newline="")  # noqa: SIM115  # only what opening raises is wrapped
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        yield file


def _numbered(
    file: Iterable[str], where: str, layout: Layout, columns: Sequence[str], words: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of an open file with the numbers of their lines."""
    if layout == "jsonl":
        return _read_jsonl(file, where)
    if layout == "txt":
        return _read_lines(file, where, columns, words)
    return _read_csv(file, where, columns, "\t" if layout == "tsv" else ",")


def _read_jsonl(file: Iterable[str], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        refuse_doubled([name for name, _ in pairs], f"{where}, line {number}")
        return dict(pairs)

    def refuse(constant: str) -> float:
        raise InputError(f"{where}, line {number} is not JSON: {constant}.", "Write null, or leave the value out.")

    def finite(digits: str) -> float:
        if math.isinf(value := float(digits)):  # it would be written as Infinity
            raise InputError(f"{where}, line {number} has a number that is too large: {digits}.")
        return value

    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=unique, parse_constant=refuse, parse_float=finite)
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
            raise InputError(f"{where}, line {number} is not JSON: {reason}.") from None
        if not isinstance(values, dict):
            raise InputError(f"{where}, line {number} is no JSON object, but {_shown(values)}.")
        yield number, values


def _read_csv(
    file: Iterable[str], where: str, columns: Sequence[str], separator: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = _read_cells(file, where, separator)
    _, header = next(rows, (0, None))
    if header is None:
        raise InputError(f"{where} is empty.", "The first line names the columns.")
    if missing := [column for column in columns if column not in header]:
        raise InputError(
            f"{where} has no column {missing[0]!r}; it has {', '.join(header)}.", "Name the text columns by --text."
        )
    refuse_doubled([name for name in header if name], f"{where}, line 1")  # separators may trail
    for line, cells in rows:
        if not cells and len(header) > 1:
            continue
        cells = cells or [""]
        if len(cells) != len(header):
            raise InputError(f"{where}, line {line} has {len(cells)} cells, but there are {len(header)} columns.")
        yield line, dict(zip(header, cells, strict=True))


def _read_cells(file: Iterable[str], where: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows with the numbers of their first lines, as pandas reads them, which searches read such files with.

    What follows a closed quote belongs to the cell, and a quote must be closed; in files of tabs, it must not look like
    a plain character.
    """
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        yield from file
        ended = True

    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    rows = csv.reader(lines(), delimiter=separator)
    line = 1
    for cells in rows:
        if ended:  # within the row: a complete one asks for no line after its last
            raise InputError(f"{where}, line {line} opens a quote that is not closed.", "End the cell with a quote.")
        if (
            separator == "\t"
            and rows.line_num > line
            and any(swallows(cell, column, len(cells)) for column, cell in enumerate(cells))
        ):
            raise swallowed_rows(f"{where}, line {line}")
        yield line, cells
        line = rows.line_num + 1


def _read_lines(
    file: Iterable[str], where: str, columns: Sequence[str], words: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        parts = line.rstrip("\r\n").split("\t", 1) if len(columns) == 2 else [line.rstrip("\r\n")]
        if len(parts) != len(columns):
            raise InputError(
                f"{where}, line {number} has no tab.", "The bundle judges pairs of texts: put a tab between the two."
            )
        if len(columns) == 1 and "\t" in line and not words:
            raise InputError(
                f"{where}, line {number} has a tab, but the bundle judges single texts.", "Leave the second text out."
            )
        yield number, dict(zip(columns, parts, strict=True))


def _text(values: dict[str, Any], column: str, place: str, words: bool) -> Any:
    if column not in values:
        raise InputError(
            f"{place} has no {column!r}; it has {', '.join(map(str, values)) or 'nothing'}.",
            "Name the text columns by --text.",
        )
    value = values[column]
    if isinstance(value, str) or (words and isinstance(value, list) and all(isinstance(word, str) for word in value)):
        for text in [value] if isinstance(value, str) else value:
            check_unicode(text, f"{place}: {column!r}")
        return value
    raise InputError(f"{place}: {column!r} should be {'text or words' if words else 'text'}, not {_shown(value)}.")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def answer_rows(
    bundle: Bundle,
    rows: Iterator[Row],
    batch_size: int,
    task: str | None = None,
    split_at_spaces: bool = False,
) -> Iterator[tuple[Row, Prediction | Tagged]]:
    """Each row with the bundle's answer, in order; no more than `WINDOW` batches of rows are held at a time.

    What is there is answered before a row is waited for.

    Args:
        bundle: to ask.
        rows: with the texts.
        batch_size: texts that are run together, at most.
        task: which of several tasks.
        split_at_spaces: where words are tagged, they are what stands between spaces.
    """
    ask = _tagger(bundle, batch_size, split_at_spaces) if bundle.config.shape.per_token else None
    while window := _window(rows, WINDOW * batch_size):
        if ask is not None:
            yield from zip(window, ask([row.texts[0] for row in window]), strict=True)
            continue
        pairs = [row.texts[1] for row in window] if len(window[0].texts) == 2 else None
        found = bundle.predict([row.texts[0] for row in window], pairs, task, batch_size)
        yield from zip(window, found, strict=True)


def _window(rows: Iterator[Row], most: int) -> list[Row]:
    found = []
    for row in islice(rows, most):
        found.append(row)
        if row.last:
            break
    return found


def _tagger(bundle: Bundle, batch_size: int, split_at_spaces: bool) -> Callable[[list[Any]], list[Tagged]]:
    """Tags texts, and lists of words among them."""

    def ask(texts: list[Any]) -> list[Tagged]:
        whole = [index for index, text in enumerate(texts) if isinstance(text, str) and not split_at_spaces]
        split = [index for index in range(len(texts)) if index not in set(whole)]
        words = [texts[i].split() if isinstance(texts[i], str) else texts[i] for i in split]
        found = dict(zip(whole, bundle.tag([texts[i] for i in whole], batch_size), strict=True))
        found |= dict(zip(split, bundle.tag_words(words, batch_size), strict=True))
        return [found[index] for index in range(len(texts))]

    return ask


def as_json(values: dict[str, Any], answer: Prediction | Tagged) -> str:
    """A line of JSON: what the row held, and under `prediction` the answer."""
    line = json.dumps({**values, ANSWER: answer.model_dump(mode="json")}, ensure_ascii=False)
    return line.encode(errors="backslashreplace").decode()  # columns that are not read may hold half surrogate pairs
