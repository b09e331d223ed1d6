"""Read the texts of a transfer source."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from runners.task.sources import FORMATS, Table, digest_of, read_files, read_hub
from runners.transfer.spec import FileSource, HubSource
from space.errors import InputError
from space.paths import expanded

TRANSFER = "transfer.sources"
_PLAIN = ".txt"


@dataclass(frozen=True)
class Rows:
    """The rows of a source.

    Attributes:
        where: file, folder or split, for messages.
        texts: the (first) texts.
        pairs: the second texts, or None.
    """

    where: str
    texts: list[str]
    pairs: list[str] | None


def read_rows(source: FileSource | HubSource, section: str = TRANSFER) -> Rows:
    """All rows of a source.

    Args:
        source: a file, a folder, or a split of the hub.
        section: of the study file that names the source, for messages.

    Raises:
        InputError: it is missing, cannot be read, or lacks a column of text.
    """
    if isinstance(source, HubSource):
        otherwise = f"set {section} to a file or folder: {{path: FILE, text: COLUMN}}"
        table = read_hub(source.hub, source.config, source.split, otherwise=otherwise)
        return _rows(table.where, [_columns(table, source)])
    files = source_files(source)
    parts = [
        _plain(file, source) if file.suffix.lower() == _PLAIN else _columns(read_files([file]), source)
        for file in files
    ]
    return _rows(source.path, parts)


def count_rows(sources: Iterable[FileSource | HubSource], section: str = TRANSFER) -> int:
    """How many rows all sources hold; reads every one, so that what is wrong with it is known.

    Raises:
        InputError: as of `read_rows`.
    """
    return sum(len(read_rows(source, section).texts) for source in sources)


def identity(source: FileSource | HubSource) -> list[str]:
    """What tells the text of a source from another: digests of the files, or the names of a split.

    Where files lie is no part of it. Of a hub split only the names count, so that a cached result can be found
    without asking the hub.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if isinstance(source, HubSource):
        return [source.hub, source.config or "", source.split]
    found = []
    for path in source_files(source):
        try:
            found.append(digest_of(path))
        except OSError as error:
            raise InputError(f"Could not read {path}: {error.strerror}.") from error
    return found


def source_files(source: FileSource) -> list[Path]:
    """The file of a source, or the files of its folder, in the order of their names.

    Raises:
        InputError: there is none.
    """
    path = expanded(source.path)
    endings = (*FORMATS, _PLAIN)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"Transfer source {path} does not exist.")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
    if not found:
        raise InputError(f"Transfer folder {path} holds no file with text.", f"Known: {', '.join(endings)}.")
    return found


def _columns(table: Table, source: FileSource | HubSource) -> list[list[str]]:
    names = (source.text,) if isinstance(source.text, str) else source.text
    return [_texts(table, name) for name in names]


def _texts(table: Table, column: str) -> list[str]:
    """A column of text, or of lists of words, which are joined; where there is none, the text is empty."""
    if column not in table.columns.column_names:
        raise InputError(
            f"{table.where} has no column {column!r}; it has {', '.join(table.columns.column_names) or 'none'}.",
            "Set text of the transfer source to the column that holds text.",
        )
    values = table.columns.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if _is_list(values.type) and _is_text(values.type.value_type):  # texts that are split into words already
        return [" ".join(filter(None, words or ())) for words in values.to_pylist()]
    if not _is_text(values.type):
        raise InputError(f"Column {column!r} of {table.where} holds {values.type}, not text.")
    return [text or "" for text in values.to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _plain(file: Path, source: FileSource) -> list[list[str]]:
    if source.pairs:
        raise InputError(f"{file} has no columns: a text file holds one text on each line.", "Name one text column.")
    try:
        lines = io.StringIO(file.read_bytes().decode("utf-8"))  # not splitlines, which also cuts at U+2028 and others
        return [[line.rstrip("\r\n") for line in lines]]
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: byte {error.start} cannot be read.") from None
    except OSError as error:
        raise InputError(f"Could not read {file}: {error.strerror}.") from error


def _rows(where: str, parts: list[list[list[str]]]) -> Rows:
    columns = [[text for part in parts for text in part[number]] for number in range(len(parts[0]))]
    return Rows(where, columns[0], columns[1] if len(columns) > 1 else None)
