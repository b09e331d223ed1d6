"""Answers of the command line as tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from runners.record import TrialRecord
    from search.study import Study

WIDTH_WITHOUT_TERMINAL = 140


def output_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables to 80 columns when written to a file or a pipe."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


def front_table(study: Study, records: list[TrialRecord]) -> tuple[Table, list[str]]:
    """A table of trials, and the remarks that belong under it."""
    metric = study.file.task.metric
    labels = sorted({_conditions(record) for record in records})
    table = Table(title=f"{study.name}: {len(records)} trials on the front", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column(f"{metric} (validation)", justify="right")
    table.add_column(f"latency ms ({labels[0]})" if len(labels) == 1 else "latency ms", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("student")
    for record in records:
        latency = f"{record.latency.milliseconds:.2f}"
        if len(labels) > 1:
            latency += f" ({_conditions(record)})"
        table.add_row(
            str(record.trial),
            f"{record.quality:.4f}",
            latency,
            f"{record.deployed_bytes:,}",
            record.config.summary(),
        )
    remarks = []
    if any(record.latency.backend == "estimated" for record in records):
        remarks.append("Latencies marked estimated were computed from operation counts, not measured.")
    if any(not record.latency.calibrated for record in records):
        remarks.append("The device profile is not calibrated on a board: trust the ranking more than the ms.")
    return table, remarks


def _conditions(record: TrialRecord) -> str:
    latency = record.latency
    return f"{latency.device}, {latency.tokens} tokens, {latency.backend}"


def front_rows(records: list[TrialRecord]) -> list[dict[str, Any]]:
    """One flat row per trial, the same keys for JSON and CSV."""
    return [
        {
            "trial": record.trial,
            "quality": record.quality,
            "metric": record.metric,
            "latency_ms": record.latency.milliseconds,
            "device": record.latency.device,
            "tokens": record.latency.tokens,
            "backend": record.latency.backend,
            "calibrated": record.latency.calibrated,
            "deployed_bytes": record.deployed_bytes,
            "student": record.config.summary(),
            "bundle": str(record.bundle),
        }
        for record in records
    ]


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
        "" if best is None else f"{study.file.task.metric} {best:.4f}",
        study.file.description,
    ]
