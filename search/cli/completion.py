"""What the shell offers at the tab key. It is asked at every press, so that nothing slow is imported here."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import typer

_ROOT = Path(__file__).resolve().parents[2]
SAMPLERS = ("known-cost", "tpe", "nsga2", "gp", "random", "qmc")
LATENCIES = ("emulated", "native", "estimated")


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Names of studies in the storage; of other databases than SQLite none, since asking them takes too long."""
    given = context.params.get("studies") or ()
    taken = set(given) if isinstance(given, (list, tuple)) else set()
    return [
        name for name in _stored(context.params.get("storage")) if name.startswith(incomplete) and name not in taken
    ]


def complete_shipped_study(incomplete: str) -> list[str]:
    """Names of shipped studies, and study files."""
    shipped = sorted(file.stem for file in (_ROOT / "studies").glob("*.yaml"))
    files = sorted(str(path) for path in Path().glob(f"{incomplete}*.yaml")) if "*" not in incomplete else []
    return [name for name in shipped if name.startswith(incomplete)] + files


def complete_sampler(incomplete: str) -> list[str]:
    """Names of samplers."""
    return [name for name in SAMPLERS if name.startswith(incomplete)]


def complete_latency(incomplete: str) -> list[str]:
    """Latency backends."""
    return [name for name in LATENCIES if name.startswith(incomplete)]


def complete_device(incomplete: str) -> list[str]:
    """Names of shipped device profiles."""
    folder = _ROOT / "objectives" / "latency" / "devices"
    return sorted(file.stem for file in folder.glob("*.yaml") if file.stem.startswith(incomplete))


def _stored(storage: str | None) -> Iterator[str]:
    with contextlib.suppress(Exception):  # at the tab key, no message helps
        # As `search.storage.default_url` has it, but importing the packages takes seconds.
        storage = storage or os.environ.get("SHOEBOX_STORAGE")
        home = Path(os.environ.get("SHOEBOX_HOME") or "~/.shoebox").expanduser()
        path = Path(storage.removeprefix("sqlite:///")) if storage else home / "studies.db"
        if not path.is_file():
            return
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=0.5)) as database:
            for (name,) in database.execute("SELECT study_name FROM studies ORDER BY study_name"):
                yield name
