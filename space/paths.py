"""Where Shoebox keeps what it makes."""

from __future__ import annotations

import os
from pathlib import Path

from space.errors import InputError


def home() -> Path:
    """Results that are worth keeping (`SHOEBOX_HOME`, default `~/.shoebox`): studies and bundles."""
    return _folder("SHOEBOX_HOME", "~/.shoebox")


def cache() -> Path:
    """What can be made again (`SHOEBOX_CACHE`, default `~/.cache/shoebox`): teachers, emulator, latencies."""
    return _folder("SHOEBOX_CACHE", "~/.cache/shoebox")


def expanded(path: str | Path) -> Path:
    """A path that a user gave, with what ``~`` stands for. Raises InputError: no such user has a home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"There is no home folder for the ~ of {path}.", "Write the whole path.") from None


def _folder(variable: str, default: str) -> Path:
    # Absolute: records name bundles by their path, and the emulator runs in a folder of its own.
    try:
        return Path(os.environ.get(variable) or default).expanduser().absolute()
    except RuntimeError:
        raise InputError("This user has no home folder.", "Set SHOEBOX_HOME and SHOEBOX_CACHE.") from None
