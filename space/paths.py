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


def ordinary_mode(folder: bool = False) -> int:
    """Permissions that a new file, or folder, has here: what the process's file mode mask leaves.

    Files made under a temporary name, and those of safetensors, are their owner's alone until they get these.
    """
    mask = os.umask(0)  # reading it takes setting it
    os.umask(mask)
    return (0o777 if folder else 0o666) & ~mask


def _folder(variable: str, default: str) -> Path:
    # Absolute: records name bundles by their path, and the emulator runs in a folder of its own.
    try:
        return Path(os.environ.get(variable) or default).expanduser().absolute()
    except RuntimeError:
        raise InputError("This user has no home folder.", "Set SHOEBOX_HOME and SHOEBOX_CACHE.") from None
