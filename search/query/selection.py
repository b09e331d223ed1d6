"""Trials that were asked for, and what can be asked of them further."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from objectives.pareto import Direction, hypervolume, knee, non_dominated
from search import fields
from search.query.conditions import Where
from search.query.retime import Backend, Retimed, retime
from search.query.table import TrialTable, task_label
from search.states import PROPOSED
from search.study import Study, load_study, reference_point
from search.validation import closest
from space.errors import InputError

if TYPE_CHECKING:
    import pandas

    from runners.record import TrialRecord

Studies = str | Study | Sequence[str | Study] | TrialTable
Indices = npt.NDArray[np.int64]
ROUNDING = 1e-9  # of a quality


@dataclass(frozen=True)
class SelectedTrial:
    """A trial of a selection.

    Attributes:
        study: its study's name.
        task: what the study learns, in a word or two.
        number: in the study.
        record: what was measured; its latencies are of the device that was asked for.
    """

    study: str
    task: str
    number: int
    record: TrialRecord


@dataclass(frozen=True, eq=False)
class Selection:
    """Feasible finished trials of one study or several.

    Attributes:
        table: all trials that were asked.
        indices: int64 [selected], rows of the table.
        objectives: what fronts are about, unless said otherwise.
        where: the condition that the trials keep, if there was one.
        untimed: trials that could not be timed again, for want of their bundles.
    """

    table: TrialTable
    indices: Indices
    objectives: tuple[str, ...]
    where: str | None = None
    untimed: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SelectedTrial]:
        for index in self.indices:
            row = self.table.rows[int(index)]
            record = row.study.record(row.number)
            if row.content is not row.study.measurements[row.number]:  # timed on another device
                from runners.record import TrialRecord

                own = {name: value for name, value in row.content.items() if name != PROPOSED}
                record = TrialRecord.model_validate(own)
            yield SelectedTrial(row.study.name, task_label(row.study), row.number, record)

    @property
    def records(self) -> list[TrialRecord]:
        """The records, checked."""
        return [trial.record for trial in self]

    @property
    def studies(self) -> list[Study]:
        """The studies that were asked, each once, in the order of the trials."""
        return self.table.studies

    def values(self, name: str) -> list[Any]:
        """A measure or parameter of each trial; None where a trial has none.

        Raises:
            InputError: no trial has it.
        """
        column = self.table.require(name)
        return [column.values[int(index)] for index in self.indices]

    def filter(self, condition: str) -> Selection:
        """Those that keep a condition too.

        Raises:
            InputError: it is no condition, or names what no trial has.
        """
        holds = Where(condition).answer(self.table).holds
        both = condition if self.where is None else f"({self.where}) and ({condition})"
        return replace(self, indices=self.indices[holds[self.indices]], where=both)

    def points(self, objectives: Sequence[str] | None = None) -> npt.NDArray[np.float64]:
        """Values [selected, objectives], NaN where a trial lacks one.

        Raises:
            InputError: an objective that no trial has, or that is neither quality nor cost.
        """
        chosen = check_objectives(self.table, objectives or self.objectives)
        columns = [self.table.require(name).numbers[self.indices] for name in chosen]
        return np.stack(columns, axis=1)

    def front(self, objectives: Sequence[str] | None = None, *, each: bool = False) -> Selection:
        """Those that no other dominates, best quality first. A trial that lacks an objective is not on the front.

        Args:
            objectives: in place of the selection's.
            each: a front for each study instead of one for all.

        Raises:
            InputError: see `points`.
        """
        chosen = tuple(objectives or self.objectives)
        signs = _directions(chosen)

        def dominating(part: Selection) -> Indices:
            kept = part.indices[non_dominated(part.points(), signs)]
            return replace(part, indices=kept)._sorted().indices

        return replace(self, objectives=chosen)._pick(dominating, each)

    def knee(self, objectives: Sequence[str] | None = None, *, each: bool = False) -> Selection:
        """The knee of the front (`objectives.pareto.knee`), or that of each study's; arguments as of `front`."""
        chosen = tuple(objectives or self.objectives)
        signs = _directions(chosen)

        def bent(part: Selection) -> Indices:
            front = part._sorted()
            found = knee(front.points(), signs)
            return front.indices[:0] if found is None else front.indices[[found]]

        return replace(self, objectives=chosen)._pick(bent, each)

    def within(self, loss: str | float, *, each: bool = False) -> Selection:
        """The smallest trial, by deployed bytes, that loses at most so much of the best quality; one of each study.

        Args:
            loss: `"1%"` of the best quality, or in units of quality, `0.01`.
            each: of each study instead of all.

        Raises:
            InputError: `loss` is neither, or a difference that every trial keeps.
        """
        least_of = tolerance(loss)
        best = max(self.table.require("quality").numbers[self.indices], default=0.0) if len(self) else 0.0
        if best <= 1 and best - least_of(best) > 1 + 2 * ROUNDING:  # 5 is meant as 5 %
            raise InputError(f"--within: {loss} is a difference in quality that all trials keep.", f"Write {loss}%.")

        def smallest(part: Selection) -> Indices:
            quality, size = (self.table.require(name).numbers[part.indices] for name in ("quality", "deployed_bytes"))
            good = np.flatnonzero(quality >= least_of(float(np.nanmax(quality))))
            return part.indices[good[np.lexsort((-quality[good], size[good]))[:1]]]

        return self._pick(smallest, each)

    def hypervolume(self) -> float | None:
        """Of the trials of one study, against its reference; None of several, or where an objective has none there."""
        if len(self.studies) != 1:
            return None
        try:
            reference = reference_point(list(self.objectives), self.studies[0].file.limits)  # type: ignore[arg-type]
        except KeyError:
            return None
        return hypervolume(self.points(), reference, _directions(self.objectives))

    def rows(self, *, parameters: bool = True) -> list[dict[str, Any]]:
        """One flat row per trial, all with the same keys: measures, then parameters; None where a trial has none."""
        from search.query.formats import flat_rows

        return flat_rows(self, parameters=parameters)

    def frame(self) -> pandas.DataFrame:
        """The same as a pandas frame, one row per trial."""
        import pandas

        return pandas.DataFrame(self.rows())

    def _pick(self, choose: Callable[[Selection], Indices], each: bool) -> Selection:
        if not len(self):
            return self
        parts = self.by_study() if each else [self]
        return replace(self, indices=np.concatenate([choose(part) for part in parts]))

    def by_study(self) -> list[Selection]:
        """A selection for each study that has trials in this one."""
        names = np.array([row.study.name for row in self.table.rows], dtype=object)[self.indices]
        return [replace(self, indices=self.indices[names == name]) for name in dict.fromkeys(names)]

    def _sorted(self) -> Selection:
        """Best quality first; of equals the faster, then the smaller one."""
        if not len(self):
            return self
        keys = [self.table.column(name) for name in ("deployed_bytes", "latency_ms")]
        columns = [column.numbers[self.indices] for column in keys if column is not None]
        quality = self.table.require("quality").numbers[self.indices]
        return replace(self, indices=self.indices[np.lexsort((self.indices, *columns, -quality))])


def load(studies: Studies, storage: str | None = None) -> TrialTable:
    """The feasible finished trials of studies, to be asked more than once.

    Args:
        studies: names, studies, or a table, which is answered as it is.
        storage: URL of the storage of those that are names; default `home()/studies.db`.

    Raises:
        InputError: there is no such study; a study is named twice.
    """
    if isinstance(studies, TrialTable):
        return studies
    given = [studies] if isinstance(studies, (str, Study)) else list(studies)
    found = [load_study(study, storage) if isinstance(study, str) else study for study in given]
    names = [study.name for study in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Study {twice[0]!r} is named twice.")
    return TrialTable.of(found)


def select(
    studies: Studies,
    *,
    where: str | None = None,
    objectives: Iterable[str] | None = None,
    device: str | None = None,
    latency: Backend | None = None,
    storage: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Selection:
    """Feasible finished trials that keep a condition.

    Args:
        studies: names, studies, or what `load` answered.
        where: condition (`search.query.grammar`); all trials without it.
        objectives: of fronts; by default those that all the studies have.
        device: a profile on which trials are timed again, without training (`search.query.retime`); latencies in
            `where` and among the objectives are of this device then.
        latency: how: emulated or estimated; by default emulated where that can be had.
        storage: URL of the storage of studies given by name.
        on_progress: called with trials timed and to be timed.

    Raises:
        InputError: there is no such study, device, name or objective; the condition is none.
    """
    table = load(studies, storage)
    condition = None if where is None else Where(where)
    untimed, asked, rows = 0, table, None
    if not len(table):
        return Selection(table, np.zeros(0, np.int64), tuple(objectives or ("quality", "latency_ms")), where)
    if device is not None:
        maybe = np.ones(len(table), bool)
        if condition is not None:  # what fails whatever its latency is need not be timed
            maybe = ~condition.answer(table, fields.OF_DEVICE).fails
        retimed: Retimed = retime(table, np.flatnonzero(maybe), device, latency, on_progress)
        if maybe.any():  # else none holds below, whatever its latency is
            table, rows, untimed = retimed.table, retimed.indices, retimed.untimed
            asked = asked.replaced(rows, table.rows)
    chosen = tuple(objectives) if objectives is not None else _common_objectives(table)
    check_objectives(table, chosen)
    everything = Selection(table, np.arange(len(table)), chosen, untimed=untimed)
    if condition is None or not len(table):
        return everything
    # Of all trials, so that each name and its type are known that were before trials were left out.
    holds = condition.answer(asked).holds
    if rows is not None:
        holds = holds[rows]
    return replace(everything, indices=np.flatnonzero(holds), where=where)


def tolerance(loss: str | float) -> Callable[[float], float]:
    """The least quality that is good enough, by the best: of `"1%"` or `0.01`.

    Raises:
        InputError: it is neither a share from 0 % to 100 % nor a number of at least 0.
    """
    text = str(loss).strip()
    share = text.endswith("%")
    try:
        amount = float(text.removesuffix("%"))
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= 100:  # quality is at most 1, of several tasks a share in percent
        hint = "Give a share of the best quality, 1%, or a difference in quality, 0.01."
        raise InputError(f"--within: {text!r} is neither a share up to 100% nor a difference in quality.", hint)
    # Of a correlation below zero, a share of its size. What loses just as much is good enough, however it is rounded.
    if share:
        return lambda best: best - abs(best) * amount / 100 - ROUNDING
    return lambda best: best - amount - ROUNDING


def check_objectives(table: TrialTable, objectives: Iterable[str]) -> tuple[str, ...]:
    """Objectives that the trials have.

    Raises:
        InputError: one that no trial has, that is neither quality nor cost, or that is named twice.
    """
    chosen = tuple(objectives)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("--objectives should name one objective or more, each once.")
    _directions(chosen)
    for name in chosen:
        if table.column(name) is None:
            message, hint = table.unknown(name)
            raise InputError(f"--objectives: {message}", hint)
    return chosen


def _directions(objectives: Sequence[str]) -> list[Direction]:
    found = []
    for name in objectives:
        direction = fields.direction_of(name)
        if direction is None:
            hint = closest(name, ("quality", *fields.COSTS))
            raise InputError(f"--objectives: {name!r} is neither a quality nor a cost.", hint)
        found.append(direction)
    return found


def _common_objectives(table: TrialTable) -> tuple[str, ...]:
    """The objectives that all studies have, in the order of the first."""
    first, *others = table.studies
    kept = [name for name in first.objectives if all(name in other.objectives for other in others)]
    return tuple(name for name in kept if table.column(name) is not None)
