"""Answers of the command line as tables of a terminal and of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from objectives.latency import LatencyReading
    from runners.record import TrialRecord
    from search.query import SelectedTrial, Selection
    from search.study import Study

WIDTH_WITHOUT_TERMINAL = 140


def output_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables to 80 columns when written to a file or a pipe."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


@dataclass(frozen=True)
class TrialColumn:
    """A column of a table of trials."""

    header: str
    cell: Callable[[SelectedTrial], str]
    figures: bool = True


@dataclass(frozen=True)
class Cells:
    """A table of trials as text, and the remarks that belong under it."""

    columns: list[TrialColumn]
    rows: list[list[str]]
    remarks: list[str]

    def table(self, title: str) -> Table:
        """For a terminal."""
        return as_table([(column.header, column.figures) for column in self.columns], self.rows, title)

    def markdown(self) -> str:
        """For a README or an issue."""
        from search.query.formats import as_markdown

        header, right = [column.header for column in self.columns], [column.figures for column in self.columns]
        return as_markdown(header, right, self.rows)


def as_table(columns: Iterable[tuple[str, bool]], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table for a terminal. Texts are shown as they are: a [ or a : of a user's is no markup of rich's.

    Args:
        columns: headers, and whether figures are below.
        rows: cells.
        title: above it.
    """
    table = Table(title=None if title is None else Text(title, "table.title"), title_justify="left")
    for header, figures in columns:
        table.add_column(Text(header), justify="right" if figures else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def trial_cells(selection: Selection) -> Cells:
    """A row for each trial: quality, costs, and what was built."""
    trials = list(selection)
    studies = {study.name: study for study in selection.studies}
    records = [trial.record for trial in trials]
    columns = [*_which(trials, studies), *_qualities(records, studies), *_costs(selection, records)]
    columns.append(TrialColumn("student", lambda trial: trial.record.config.summary(), figures=False))
    rows = [[column.cell(trial) for column in columns] for trial in trials]
    return Cells(columns, rows, _remarks(selection, records))


def _which(trials: list[SelectedTrial], studies: dict[str, Study]) -> list[TrialColumn]:
    columns = [TrialColumn("trial", lambda trial: str(trial.number))]
    if len(studies) == 1:
        return columns
    study = TrialColumn("study", lambda trial: trial.study, figures=False)
    task = TrialColumn("task", lambda trial: trial.task, figures=False)
    sampler = TrialColumn("sampler", lambda trial: studies[trial.study].file.search.sampler, figures=False)
    samplers = {found.file.search.sampler for found in studies.values()}
    return [study, task, *([sampler] if len(samplers) > 1 else []), *columns]


def _qualities(records: list[TrialRecord], studies: dict[str, Study]) -> list[TrialColumn]:
    metrics = list(dict.fromkeys(study.file.metric for study in studies.values()))
    if len(metrics) == 1:
        columns = [TrialColumn(f"{metrics[0]} (validation)", lambda trial: f"{trial.record.quality:.4f}")]
    else:
        columns = [
            TrialColumn("quality (validation)", lambda trial: f"{trial.record.metric} {trial.record.quality:.4f}")
        ]
    tasks = {name: task.metric for record in records for name, task in record.tasks.items()}
    for name, metric in tasks.items():

        def quality(trial: SelectedTrial, name: str = name) -> str:
            return f"{trial.record.tasks[name].quality:.4f}" if name in trial.record.tasks else ""

        columns.append(TrialColumn(f"{name} {metric}", quality))
    if any(record.on_arm for record in records):

        def on_arm(trial: SelectedTrial) -> str:
            record = trial.record
            return record.on_arm.beside(record.quality) if record.on_arm else ""

        columns.append(TrialColumn("ARM kernels", on_arm))
    return columns


def _costs(selection: Selection, records: list[TrialRecord]) -> list[TrialColumn]:
    longer = any(record.long_latency for record in records)
    labels = sorted({_conditions(record.latency, tokens=not longer) for record in records})
    alike = len(labels) == 1

    def latency(trial: SelectedTrial) -> str:
        reading = trial.record.latency
        text = _latency(reading, tokens=longer)
        return text if alike else f"{text}, {_conditions(reading, tokens=not longer)}"

    def long_latency(trial: SelectedTrial) -> str:
        reading = trial.record.long_latency
        return _latency(reading, tokens=True) if reading else ""

    columns = [TrialColumn(f"latency ms ({labels[0]})" if alike else "latency ms", latency)]
    if longer:
        columns.append(TrialColumn("long text", long_latency))
    columns.append(TrialColumn("bytes", lambda trial: f"{trial.record.deployed_bytes:,}"))
    shown = {name for study in selection.studies for name in (*study.objectives, *study.file.limits.given())}
    if "peak_heap_bytes" in shown | {*selection.objectives}:
        columns.append(TrialColumn("peak heap", lambda trial: _bytes(trial.record.costs().get("peak_heap_bytes"))))
    for name in selection.objectives:
        if name not in ("quality", "latency_ms", "long_latency_ms", "deployed_bytes", "peak_heap_bytes"):
            columns.append(_further(selection, name))
    return columns


def _further(selection: Selection, name: str) -> TrialColumn:
    """A column for an objective that tables do not show otherwise."""
    values = selection.values(name)
    by_trial = {(trial.study, trial.number): value for trial, value in zip(selection, values, strict=True)}

    def cell(trial: SelectedTrial) -> str:
        value = by_trial[trial.study, trial.number]
        if not isinstance(value, float):
            return "" if value is None else f"{value:,}"
        return f"{value:.4g}"

    return TrialColumn(name, cell)


def _bytes(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _remarks(selection: Selection, records: list[TrialRecord]) -> list[str]:
    remarks = []
    studies = selection.studies
    if any(record.tasks for record in records):
        remarks.append("Retention: the mean over the tasks of the quality over that of the task's teacher, in percent.")
    if any(record.long_latency for record in records):
        named = any(study.file.device.tokens != "auto" for study in studies)
        lengths = (
            "of the lengths that `device.tokens` gives" if named else "of median length and of the 95th percentile"
        )
        remarks.append(f"Latency on texts {lengths}; word pieces in brackets.")
    if any(record.latency.backend == "estimated" for record in records):
        remarks.append("Latencies marked estimated were computed from operation counts, not measured.")
    if any(not record.latency.calibrated for record in records):
        remarks.append("The device profile is not calibrated on a board: trust the ranking more than the ms.")
    if len({study.file.metric for study in studies}) > 1 or len({_task(study) for study in studies}) > 1:
        remarks.append("These studies learn different tasks: their qualities do not compare (--each parts them).")
    if len({(record.latency.device, record.latency.backend) for record in records}) > 1:
        remarks.append("Latencies of different devices or backends do not compare (--device times all on one).")
    if selection.untimed:
        remarks.append(f"Left out, because their bundles are gone or damaged: {selection.untimed} trials.")
    return remarks


def _task(study: Study) -> str:
    from search.query.table import task_label

    return task_label(study)


def _conditions(latency: LatencyReading, *, tokens: bool = False) -> str:
    return f"{latency.device}, " + (f"{latency.tokens} tokens, " if tokens else "") + latency.backend


def _latency(latency: LatencyReading, *, tokens: bool) -> str:
    return f"{latency.milliseconds:.2f}" + (f" ({latency.tokens})" if tokens else "")


def studies_table(rows: list[dict[str, Any]]) -> Table:
    """One line per study of `search.cli.studies_command.study_rows`."""
    names = ("study", "trained", "infeasible", "failed", "best quality", "description")
    return as_table([(name, name not in ("study", "description")) for name in names], map(_study_cells, rows))


def _study_cells(row: dict[str, Any]) -> list[str]:
    if not row["readable"]:
        return [row["study"], "", "", "", "", "(made by another version of Shoebox, cannot be read)"]
    best = "" if row["best_quality"] is None else f"{row['metric']} {row['best_quality']:.4f}"
    trained = f"{row['trained']} of {row['trials']}"
    return [row["study"], trained, str(row["infeasible"]), str(row["failed"]), best, row["description"]]
