"""Files that a command writes for its user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from space.errors import InputError, OutputError
from space.paths import expanded, ordinary_mode


@contextmanager
def new_file(target: Path) -> Iterator[IO[bytes]]:
    """A file of bytes that appears under its name only when it is complete; it replaces one of that name.

    Raises:
        InputError: the name is that of a folder, or its folder cannot be written to.
        OutputError: the disk is full; nothing is left behind.
    """
    target = expanded(target)
    if target.is_dir():
        raise InputError(f"{target} is a folder.", "Name a file to write.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        with open(handle, "wb") as file:
            yield file
            _flush(file, target)
        os.chmod(part, ordinary_mode())
        os.replace(part, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def _flush(file: IO[bytes], target: Path) -> None:
    try:
        file.flush()
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}.") from error
