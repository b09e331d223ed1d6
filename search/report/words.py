"""What a report says in words and tables, on a page as in Markdown."""

from __future__ import annotations

from runners.record import TrialRecord
from search.report.gather import Report
from search.study import reference_in_words

_STATE_WORDS = {
    "finished": "trained to the end",
    "stopped": "stopped early",
    "failed": "failed",
    "infeasible": "rejected as infeasible",
    "running": "running",
    "waiting": "waiting",
    "orphaned": "interrupted and repeated",
}


def summary(report: Report) -> list[tuple[str, str]]:
    """The few figures that come first, each with what it is."""
    study, best = report.study, report.front[0]
    volume = study.hypervolume()
    fastest = min(report.front, key=lambda record: record.latency.milliseconds)
    smallest = min(report.front, key=lambda record: record.deployed_bytes)
    teacher = best.metrics.get("teacher_quality")
    taught = f" (teacher {teacher:.4f})" if teacher is not None else ""
    return [
        (f"{best.quality:.4f}", f"best {best.metric}{taught}"),
        (f"{fastest.latency.milliseconds:.2f} ms", f"fastest of the front, {fastest.metric} {fastest.quality:.4f}"),
        (f"{smallest.deployed_bytes:,} bytes", f"smallest of the front, {smallest.metric} {smallest.quality:.4f}"),
        (f"{volume:.4g}", f"hypervolume {reference_in_words(study.objectives, study.file.limits, volume)}"),
    ]


def front_table(report: Report) -> tuple[list[str], list[tuple[TrialRecord, list[str]]]]:
    """Header and rows of the front."""
    study, front = report.study, report.front
    names = list(front[0].tasks)
    longer, on_arm = any(r.long_latency for r in front), any(r.on_arm for r in front)
    header = ["trial", study.file.label_of("quality"), *(f"{name} {front[0].tasks[name].metric}" for name in names)]
    header += ["ARM kernels"] * on_arm + [study.file.label_of("latency_ms")] + ["long text, ms"] * longer
    header += ["bytes", "student"]
    rows = []
    for record in front:
        cells = [str(record.trial), f"{record.quality:.4f}", *(f"{record.tasks[name].quality:.4f}" for name in names)]
        if on_arm:
            cells.append(record.on_arm.beside(record.quality) if record.on_arm else "")
        cells.append(f"{record.latency.milliseconds:.2f}")
        if longer:
            cells.append(f"{record.long_latency.milliseconds:.2f}" if record.long_latency else "")
        cells += [f"{record.deployed_bytes:,}", record.config.summary()]
        rows.append((record, cells))
    return header, rows


def trials_in_words(report: Report) -> list[tuple[str, str, int, float]]:
    """State, what it means, number of trials, and their share of all in percent."""
    total = sum(report.states.values())
    return [
        (state, _STATE_WORDS.get(state, state), count, 100 * count / total) for state, count in report.states.items()
    ]
