"""The report as one page of HTML that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from datetime import timedelta
from importlib.resources import files
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from search.report import figures
from search.report.gather import Report
from search.report.words import front_table, summary, trials_in_words
from search.study import reference_in_words


def as_page(report: Report) -> str:
    """The page; all that a study brings is escaped, and the page forbids itself to load or run anything else."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, style = _own("page.js"), _own("page.css")
    library = get_plotlyjs()
    header, rows = front_table(report)
    drawn = _figures(report)
    return environment.from_string(_own("page.html")).render(
        report=report,
        study=report.study,
        description=report.study.file.description,
        summary=summary(report),
        reference=reference_in_words(report.study.objectives, report.study.file.limits, report.study.hypervolume()),
        header=header,
        rows=rows,
        cards={number: render_markdown(text) for number, text in report.cards.items()},
        missing=[record.trial for record in report.front if record.trial not in report.cards],
        figures=drawn,
        figures_json=embedded_json(drawn),
        labels={each.objective: report.study.file.label_of(each.objective) for each in report.importances},
        states=trials_in_words(report),
        uncalibrated=not report.front[0].latency.calibrated,
        estimated_total=any(record.latency.backend != "estimated" for record in report.shown),
        time=str(timedelta(seconds=round(report.progress[-1].seconds))) if report.progress else "",
        style=Markup(style),
        script=Markup(script),
        library=Markup(library),
        # Only these two scripts may run, whatever a study's texts hold.
        policy="; ".join(
            (
                "default-src 'none'",
                "img-src data: blob:",
                "style-src 'unsafe-inline'",
                f"script-src {_hash_of(library)} {_hash_of(script)}",
            )
        ),
    )


def _figures(report: Report) -> dict[str, Any]:
    """All figures by the id of their place."""
    found = {
        "front": figures.front(report),
        "over-trials": figures.hypervolume(report, over_cost=False),
        "over-cost": figures.hypervolume(report, over_cost=True),
        "bits": figures.bits(report),
    }
    if len(report.front) > 1:
        found["parallel"] = figures.parallel(report)
    if report.bytes_of:
        found["bytes"] = figures.stacked(report.bytes_of, "bytes", ",")
    if report.milliseconds_of:
        found["operators"] = figures.stacked(report.milliseconds_of, "ms", ".2f")
    if any(record.losses for record in report.shown):
        found["curves"] = figures.curves(report)
    for number, each in enumerate(report.importances):
        if each.shares:
            found[f"importance-{number}"] = figures.importance(each.shares)
    return found


def render_markdown(text: str) -> Markup:
    """Markdown as HTML. HTML in it is shown as text, pictures are left out, and links of other schemes too."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "html_inline", "html_block"])
    return Markup(parser.render(text))


def embedded_json(value: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hash_of(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
