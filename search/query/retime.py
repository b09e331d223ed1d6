"""Time the students of finished trials on another device, without training them again.

Every bundle holds the file that is to be timed, and weights do not change what is executed. Readings are remembered
(`runners.latency`), so that asking again costs nothing, and so does asking for a device that a search has used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from search.fields import READINGS
from search.query.table import Row, TrialTable
from search.validation import closest
from space.errors import InputError

if TYPE_CHECKING:
    from runners.latency import LatencyMeter

Backend = Literal["emulated", "estimated"]
BATCH = 10  # students in one emulator process: what it starts with is shared, and a stop loses no more


@dataclass(frozen=True)
class Retimed:
    """What came of it.

    Attributes:
        table: the trials that were timed, with their new readings.
        indices: int64, the rows that they are in the table that was asked.
        untimed: how many were not, because their bundles are gone or damaged.
    """

    table: TrialTable
    indices: npt.NDArray[np.int64]
    untimed: int


@dataclass(frozen=True)
class _Student:
    """A trial's student, as far as it is timed."""

    key: str
    model: Path
    tokens: tuple[int, ...]


def retime(
    table: TrialTable,
    rows: Iterable[Any],
    device: str,
    backend: Backend | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Retimed:
    """Trials with the latency of another device, at the lengths at which the search timed them.

    Args:
        table: of trials.
        rows: which of them.
        device: a shipped profile's name, or the path of one.
        backend: emulated, or estimated from recorded costs; by default emulated if the emulator is installed and no
            study was estimated itself.
        on_progress: called with trials timed and to be timed.

    Raises:
        InputError: an unknown device or backend, a device without recorded costs, an emulator that cannot be had,
            bundles that are all gone or damaged, or at a URL that cannot be read.
    """
    from runners.latency import DeviceSpec, LatencyMeter

    if backend is None:
        backend = _suitable(table)
    elif backend not in get_args(Backend):
        raise InputError(f"--latency: there is no {backend!r} here.", closest(backend, get_args(Backend)))
    meter = LatencyMeter(DeviceSpec(profile=device, latency=backend))
    rows = list(rows)
    students = {int(index): student for index in rows if (student := _student(table.rows[int(index)])) is not None}
    if not students and rows:
        raise InputError("The bundles of these trials are gone or damaged: none can be timed on another device.")
    timed: list[Row] = []
    pending = list(students.items())
    for first in range(0, len(pending), BATCH):
        on_progress(first, len(pending))
        timed += _time(table, pending[first : first + BATCH], meter)
    on_progress(len(pending), len(pending))
    return Retimed(TrialTable(timed), np.array(list(students), np.int64), len(rows) - len(students))


def _suitable(table: TrialTable) -> Backend:
    from runners.emulator import find_installation

    estimated = any(row.content["latency"]["backend"] == "estimated" for row in table.rows)
    return "estimated" if estimated or find_installation() is None else "emulated"


def _student(row: Row) -> _Student | None:
    """None where the trial's bundle is gone or damaged."""
    from runners.bundle import MODEL, read_config, read_vocabulary
    from search.bundles import whole_bundle
    from space.families import architecture_key

    folder = whole_bundle(row.content["bundle"])
    if folder is None:
        return None
    config, vocabulary = read_config(folder), read_vocabulary(folder)
    readings = [row.content.get(reading) for reading in READINGS]
    return _Student(
        key=architecture_key(config.student, config.shape, len(vocabulary)),
        model=folder / MODEL,
        tokens=tuple(reading["tokens"] for reading in readings if reading is not None),
    )


def _time(table: TrialTable, students: Sequence[tuple[int, _Student]], meter: LatencyMeter) -> list[Row]:
    """The rows of some trials with readings of their students; one emulator process for each set of lengths."""
    by_tokens: dict[tuple[int, ...], list[tuple[int, _Student]]] = {}
    for index, student in students:
        by_tokens.setdefault(student.tokens, []).append((index, student))
    found: dict[int, Row] = {}
    for tokens, group in by_tokens.items():
        readings = meter.measure_many([(student.key, _copier(student.model)) for _, student in group], tokens)
        for (index, _), several in zip(group, readings, strict=True):
            row = table.rows[index]
            new: dict[str, Any] = {name: r.model_dump(mode="json") for name, r in zip(READINGS, several, strict=False)}
            on_arm = row.content.get("on_arm")
            if on_arm is not None and on_arm["device"] != several[0].device:  # the kernels of another core
                new["on_arm"] = None
            found[index] = row._replace(content={**row.content, **new})
    return [found[index] for index, _ in students]


def _copier(model: Path) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(model.read_bytes())
