"""Answers of the command line as tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from objectives.latency import LatencyReading
    from runners.record import TrialRecord
    from search.study import Study

WIDTH_WITHOUT_TERMINAL = 140


def output_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables to 80 columns when written to a file or a pipe."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


def front_table(study: Study, records: list[TrialRecord]) -> tuple[Table, list[str]]:
    """A table of trials, and the remarks that belong under it."""
    metric = study.file.metric
    names = list(study.file.task_plans) if study.file.tasks else []
    longer = any(record.long_latency for record in records)
    labels = sorted({_conditions(record.latency, tokens=not longer) for record in records})
    heap = "peak_heap_bytes" in {*study.objectives, *study.file.limits.given()}
    on_arm = [record for record in records if record.on_arm]
    table = Table(title=f"{study.name}: {len(records)} trials on the front", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column(f"{metric} (validation)", justify="right")
    for name in names:
        table.add_column(f"{name} {study.file.task_plans[name].task.metric}", justify="right")
    if on_arm:
        table.add_column("ARM kernels", justify="right")
    table.add_column(f"latency ms ({labels[0]})" if len(labels) == 1 else "latency ms", justify="right")
    if longer:
        table.add_column("long text", justify="right")
    table.add_column("bytes", justify="right")
    if heap:
        table.add_column("peak heap", justify="right")
    table.add_column("student")
    for record in records:
        cells = [str(record.trial), f"{record.quality:.4f}"]
        cells += [f"{record.tasks[name].quality:.4f}" for name in names]
        if on_arm:
            cells.append(f"{record.on_arm.quality:.4f}" if record.on_arm else "")
        latency = _latency(record.latency, tokens=longer)
        cells.append(f"{latency}, {_conditions(record.latency)}" if len(labels) > 1 else latency)
        if longer:
            cells.append(_latency(record.long_latency, tokens=True) if record.long_latency else "")
        cells.append(f"{record.deployed_bytes:,}")
        if heap:
            cells.append(f"{record.costs()['peak_heap_bytes']:,}")
        table.add_row(*cells, record.config.summary())
    remarks = []
    if names:
        remarks.append("Retention: the mean over the tasks of the quality over that of the task's teacher, in percent.")
    if longer:
        remarks.append("Latency on a text of median length and on one of the 95th percentile; word pieces in brackets.")
    if any(record.latency.backend == "estimated" for record in records):
        remarks.append("Latencies marked estimated were computed from operation counts, not measured.")
    if any(not record.latency.calibrated for record in records):
        remarks.append("The device profile is not calibrated on a board: trust the ranking more than the ms.")
    return table, remarks


def _conditions(latency: LatencyReading, *, tokens: bool = False) -> str:
    return f"{latency.device}, " + (f"{latency.tokens} tokens, " if tokens else "") + latency.backend


def _latency(latency: LatencyReading, *, tokens: bool) -> str:
    return f"{latency.milliseconds:.2f}" + (f" ({latency.tokens})" if tokens else "")


def front_rows(records: list[TrialRecord]) -> list[dict[str, Any]]:
    """One flat row per trial, the same keys for JSON and CSV."""
    return [
        {
            "trial": record.trial,
            "quality": record.quality,
            "quality_on_arm": record.on_arm.quality if record.on_arm else None,
            "metric": record.metric,
            **_task_cells(record),
            "latency_ms": record.latency.milliseconds,
            "device": record.latency.device,
            "tokens": record.latency.tokens,
            "long_latency_ms": record.long_latency.milliseconds if record.long_latency else None,
            "long_tokens": record.long_latency.tokens if record.long_latency else None,
            "peak_heap_bytes": record.costs().get("peak_heap_bytes"),
            "backend": record.latency.backend,
            "calibrated": record.latency.calibrated,
            "deployed_bytes": record.deployed_bytes,
            "student": record.config.summary(),
            "bundle": str(record.bundle),
        }
        for record in records
    ]


def _task_cells(record: TrialRecord) -> dict[str, float]:
    """Of several tasks, the quality of each by its own metric, and its retention."""
    cells: dict[str, float] = {}
    for name, task in record.tasks.items():
        cells |= {f"{name}.{task.metric}": task.quality, f"{name}.retention": task.retention}
    return cells


def as_json(study: Study, records: list[TrialRecord]) -> str:
    """The front with what it is a front of."""
    answer = {
        "study": study.name,
        "objectives": study.objectives,
        "split": "validation",
        "hypervolume": study.hypervolume(),
        "trials": front_rows(records),
    }
    return json.dumps(answer, indent=2)


def as_csv(records: list[TrialRecord]) -> str:
    """A front that is not empty as CSV with a header line."""
    text = io.StringIO()
    rows = front_rows(records)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def studies_table(studies: list[Study]) -> Table:
    """One line per study."""
    from space.errors import InputError

    table = Table()
    for name in ("study", "trained", "infeasible", "failed", "best quality", "description"):
        table.add_column(name, justify="left" if name in ("study", "description") else "right")
    for study in studies:
        try:
            table.add_row(study.name, *_study_cells(study))
        except InputError:
            table.add_row(study.name, "", "", "", "", "(made by another version of Shoebox, cannot be read)")
    return table


def _study_cells(study: Study) -> list[str]:
    states = [trial.state for trial in study.trials()]
    best = max((record.quality for record in study.records()), default=None)
    failed = states.count("failed")
    return [
        f"{states.count('finished') + failed} of {study.file.search.trials}",
        str(states.count("infeasible")),
        str(failed),
        "" if best is None else f"{study.file.metric} {best:.4f}",
        study.file.description,
    ]
