"""Work on a folder that only one process may do at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from space.errors import InputError


@contextlib.contextmanager
def only_one(lock_file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock; its folder is made where it is missing.

    Args:
        lock_file: to lock.
        refusal: what to say where another process holds it.

    Raises:
        InputError: another process holds it.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(refusal) from None
    try:
        yield
    finally:
        lock.release()
