"""The report as Markdown, for issues and notes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from search.report.gather import Report
from search.report.words import front_table, summary, trials_in_words


def as_markdown(report: Report) -> str:
    """The report's figures as tables; texts that a study brings cannot format it."""
    study = report.study
    header, rows = front_table(report)
    parts = [f"# {plain(study.name)}"]
    if study.file.description:
        parts.append(plain(study.file.description))
    parts.append("\n".join(f"- {value}: {plain(what)}" for value, what in summary(report)))
    parts.append("## Front\n\n" + table(header, [cells for _, cells in rows]))
    if report.bytes_of:
        parts.append("## Where the bytes go\n\n" + _amounts(report.bytes_of, "{:,.0f}"))
    if report.milliseconds_of:
        title = f"## Milliseconds by operator (estimated, {plain(study.file.device.profile.rsplit('/', 1)[-1])})"
        parts.append(title + "\n\n" + _amounts(report.milliseconds_of, "{:.2f}"))
    for each in report.importances:
        shares = [[name, f"{share:.0%}"] for name, share in each.shares.items() if share >= 0.005]
        told = table(["parameter", "importance"], shares) + "\n\n" if shares else ""
        parts.append(f"## What {plain(study.file.label_of(each.objective))} depends on\n\n{told}{each.remark}")
    states = [[words, f"{count:,}", f"{share:.0f} %"] for _, words, count, share in trials_in_words(report)]
    parts.append("## Trials\n\n" + table(["", "trials", "share"], states))
    if report.broken_limits:
        told = ", ".join(f"{plain(name)} by {count:,}" for name, count in report.broken_limits.items())
        parts.append(f"Limits that infeasible trials broke: {told}.")
    if report.failures:
        failed = [[each.reason, ", ".join(map(str, each.trials))] for each in report.failures]
        parts.append("## Failures\n\n" + table(["reason", "trials"], failed))
    parts.append("## Provenance\n\n" + table(["", ""], [list(row) for row in report.provenance]))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text on one line that formats nothing and mentions nobody."""
    one_line = " ".join(text.split()).replace("\\", "\\\\")
    return re.sub(r"([`*_\[\]<>|#@])", r"\\\1", one_line)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are plain text."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = [cells if number == 1 else [plain(cell) for cell in cells] for number, cells in enumerate(lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in escaped)


def _amounts(amounts: dict[int, dict[str, float]] | dict[int, dict[str, int]], form: str) -> str:
    names = list(dict.fromkeys(name for parts in amounts.values() for name in parts))
    rows = [
        [str(number), *(form.format(parts.get(name, 0)) for name in names), form.format(sum(parts.values()))]
        for number, parts in amounts.items()
    ]
    return table(["trial", *names, "all"], rows)
