"""Where Shoebox keeps what it makes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Results that are worth keeping (`SHOEBOX_HOME`, default `~/.shoebox`): studies and bundles."""
    return Path(os.environ.get("SHOEBOX_HOME") or Path.home() / ".shoebox").expanduser()


def cache() -> Path:
    """What can be made again (`SHOEBOX_CACHE`, default `~/.cache/shoebox`): teachers, emulator, latencies."""
    return Path(os.environ.get("SHOEBOX_CACHE") or Path.home() / ".cache" / "shoebox").expanduser()
