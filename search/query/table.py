"""The feasible finished trials of studies as columns, each read when it is first asked for."""

from __future__ import annotations

import difflib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from search import fields
from search.fields import Content
from search.states import unreadable
from search.study import Study
from space.errors import InputError

MOST_SUGGESTED = 3
MANY_OBJECTS = 100_000  # those of some 5,000 trials


class Row(NamedTuple):
    """A trial as it is stored."""

    study: Study
    number: int
    content: Content


_OF_STUDY: dict[str, Callable[[Row], Any]] = {
    "study": lambda row: row.study.name,
    "trial": lambda row: row.number,
    "task": lambda row: task_label(row.study),
    "sampler": lambda row: row.study.file.search.sampler,
}


@dataclass(frozen=True)
class Column:
    """A value of every trial.

    Attributes:
        values: as they are stored; None where a trial has none.
        numbers: float64 [trials], NaN where a trial has no number. True and False are 1 and 0.
    """

    values: Sequence[Any]
    numbers: npt.NDArray[np.float64]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        return cls(values, np.array([v if isinstance(v, (int, float)) else np.nan for v in values], dtype=np.float64))

    @cached_property
    def texts(self) -> npt.NDArray[np.object_]:
        """object [trials], None where a trial has no text."""
        return np.array([v if isinstance(v, str) else None for v in self.values] or [], dtype=object)

    @property
    def is_text(self) -> bool:
        """Whether the values are texts."""
        return bool(np.isnan(self.numbers).all()) and any(isinstance(value, str) for value in self.values)


class TrialTable:
    """Trials by row, and their measures and parameters by column.

    Args:
        rows: the trials.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._columns: dict[str, Column | None] = {}
        self._parameters: dict[int, Mapping[str, Any]] = {}

    @classmethod
    def of(cls, studies: Sequence[Study]) -> TrialTable:
        """The feasible finished trials of studies, in order."""
        with _collected_once():
            return cls([Row(study, number, found) for study in studies for number, found in study.measurements.items()])

    def replaced(self, indices: npt.NDArray[np.int64], rows: Sequence[Row]) -> TrialTable:
        """The same trials with others in some places."""
        found = list(self.rows)
        for index, row in zip(indices.tolist(), rows, strict=True):
            found[index] = row
        return TrialTable(found)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def studies(self) -> list[Study]:
        """The studies of the rows, each once."""
        return list({row.study.name: row.study for row in self.rows}.values())

    def column(self, name: str) -> Column | None:
        """The measure or parameter of that name; None where no trial has it."""
        if name not in self._columns:
            values = self._values(name)
            known = any(value is not None for value in values)
            self._columns[name] = Column.of(values) if known else None
        return self._columns[name]

    def require(self, name: str) -> Column:
        """The measure or parameter of that name.

        Raises:
            InputError: no trial has it; the message ends with `unknown`'s.
        """
        found = self.column(name)
        if found is None:
            raise InputError(*self.unknown(name))
        return found

    def unknown(self, name: str) -> tuple[str, str]:
        """What to say of a name that no trial has a value of: what is wrong, and what might be meant."""
        if name in _OF_STUDY or fields.measured(name) is not None:
            return f"None of these trials has {name}.", "It was not measured in these studies."
        known = self.names()
        near = difflib.get_close_matches(name, known, n=MOST_SUGGESTED, cutoff=0.6)
        near += [other for other in known if other.rpartition(".")[2] == name and other not in near][:MOST_SUGGESTED]
        if near:
            return f"There is no {name!r}.", f"Did you mean {' or '.join(repr(other) for other in near)}?"
        return f"There is no {name!r}.", f"Known are measures and parameters: {', '.join(known)}."

    def names(self) -> list[str]:
        """What can be asked by name."""
        found = dict.fromkeys(_OF_STUDY)
        seen: set[tuple[Any, ...]] = set()
        for row in self.rows:  # trials of one kind have the same names
            config = row.content["config"]
            kind = (row.study.name, config.get("family"), len(config.get("layers", ())), *row.content["metrics"])
            if kind not in seen:
                seen.add(kind)
                found.update(dict.fromkeys(fields.names(row.content)))
        return list(found)

    def _values(self, name: str) -> list[Any]:
        if name in _OF_STUDY:
            return [_OF_STUDY[name](row) for row in self.rows]
        reader = fields.measured(name)
        if reader is not None:
            return [reader(row.content) for row in self.rows]
        found = [fields.value(row.content, name) for row in self.rows]
        # A parameter whose name only the trial's family knows, or which a record is older than.
        return [self.parameters(index).get(name) if value is None else value for index, value in enumerate(found)]

    def parameters(self, index: int) -> Mapping[str, Any]:
        """All parameters of a trial; see `search.fields.parameters`.

        Raises:
            InputError: another version of Shoebox wrote it.
        """
        if index not in self._parameters:
            row = self.rows[index]
            try:
                self._parameters[index] = fields.parameters(row.content)
            except ValidationError as error:
                raise unreadable(row.study.name, error) from None
        return self._parameters[index]


@contextmanager
def _collected_once() -> Iterator[None]:
    """Python's garbage collector waits, and goes through everything at the end if there is much that is new.

    It would otherwise do so again and again as the trials of a large study are read, half of the time that this takes,
    and once more in the middle of a query: 0.3 s with 10,000 trials. With few it is left alone: torch and other modules
    have so many objects that once costs 0.2 s.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
            if gc.get_count()[0] > MANY_OBJECTS:
                gc.collect()


def task_label(study: Study) -> str:
    """What a study learns, in a word or two."""
    file = study.file
    if file.tasks:
        return "+".join(file.tasks)
    assert file.task is not None
    data = file.task.data.model_dump(exclude_none=True)
    path = data.get("path")
    if "hub" in data:
        label = data.get("config") or data["hub"].rpartition("/")[2]
    elif path is not None:
        label = path.rstrip("/").rpartition("/")[2]
    else:
        label = data.get("grammar") or data["train"].rpartition("/")[2].partition(".")[0]
    where = ["/".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in file.task.where.values()]
    target = [str(file.task.target)] if file.task.target is not None else []
    unseen = [f"unseen {file.task.unseen}"] if file.task.unseen is not None else []
    return " ".join([label, *where, *target, *unseen])
