"""Lines of standard input as they come."""

from __future__ import annotations

import io
import select
from collections.abc import Iterator
from typing import Any, BinaryIO


class _Counted(io.BufferedIOBase):
    """A stream that is read, and how many line ends came of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.ends = stream, 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        found: bytes = self._stream.read1(size)  # type: ignore[attr-defined]
        self.ends += found.count(b"\n")
        return found


class StandardLines:
    """Lines of a stream, read as files are: strict UTF-8, with or without a byte-order mark, ends as they are."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._counted, self._taken = stream, _Counted(stream), 0
        counted: Any = self._counted  # it has all that reading takes, though typeshed asks for more
        self._text = io.TextIOWrapper(counted, encoding="utf-8-sig", newline="")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text)
        self._taken += line.endswith("\n")
        return line

    def waits(self) -> bool:
        """Whether no further line is there yet: who writes them may wait for an answer."""
        if self._taken < self._counted.ends:
            return False
        try:
            return not select.select([self._stream], [], [], 0)[0]
        except (OSError, ValueError):  # nothing that can be asked: memory, or a pipe of Windows
            return False
