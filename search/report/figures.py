"""The figures of a report's page, as descriptions that plotly.js draws.

Colours of text, grids and background are left to the page, which knows whether it is read in the dark. All texts that a
study brings are escaped: plotly reads some HTML in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from runners.record import TrialRecord
from search.report.gather import Report
from search.report.traits import Trait, bits_of_modules, kind_of, kinds_of, traits_of
from search.states import Objective

Figure = dict[str, Any]
COLOURS = ("#3f76b5", "#d98032", "#4c9a6a", "#b8524a", "#7d6bb1", "#8a8f98", "#b9983a", "#4aa3a8", "#c474a4")
ACCENT, FAINT = COLOURS[0], "#9aa3ad"
# Of bits on a scale of their logarithms: 2, 4 and 8 (and 16, 32, should a family have them).
_BITS = [[0.0, "#e7c9a0"], [0.25, "#e7c9a0"], [0.5, "#8fb3d9"], [0.75, "#3f76b5"], [1.0, "#2b4f7d"]]
_IN_THE_LEGEND: Figure = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip"}
_MOST_POINTS = 2000  # beside the front: more make the page slow


def front(report: Report) -> Figure:
    """Quality against the first cost, all feasible trials and the front as a staircase."""
    cost = cost_of(report)
    kept = {record.trial for record in report.front}
    others = [record for record in report.records if record.trial not in kept]
    others = others[:: max(1, math.ceil(len(others) / _MOST_POINTS))]
    ordered = sorted(report.front, key=lambda record: (_cost(record, cost), record.quality))
    kinds = colours_of_kinds(report)

    def colours(records: Sequence[TrialRecord], otherwise: str) -> str | list[str]:
        return [kinds[kind_of(record)] for record in records] if kinds else otherwise

    def points(records: Sequence[TrialRecord], **more: Any) -> Figure:
        return {
            "type": "scatter",
            "x": [_cost(record, cost) for record in records],
            "y": [record.quality for record in records],
            "customdata": [record.trial for record in records],
            "text": [_hover(record) for record in records],
            "hovertemplate": "%{text}<extra></extra>",
            **more,
        }

    stairs = {"shape": "hv", "width": 1.5, "color": ACCENT} if len(report.study.objectives) == 2 else {"width": 0}
    mode = "lines+markers" if len(report.study.objectives) == 2 else "markers"
    small, large = {"size": 6, "opacity": 0.55}, {"size": 11}
    legend: list[Figure] = []
    if kinds:  # the points have colours of their own: the legend has size alone for what is on the front
        legend = [
            {**_IN_THE_LEGEND, "name": "other trials", "legendgroup": "other", "marker": {**small, "color": FAINT}},
            {**_IN_THE_LEGEND, "name": "front", "legendgroup": "front", "marker": {**large, "color": FAINT}},
            *({**_IN_THE_LEGEND, "name": name, "marker": {"color": colour}} for name, colour in kinds.items()),
        ]
    shown = {"showlegend": not kinds}
    return _figure(
        [
            points(
                others,
                name="other trials",
                legendgroup="other",
                mode="markers",
                marker={**small, "color": colours(others, FAINT)},
                **shown,
            ),
            points(
                ordered,
                name="front",
                legendgroup="front",
                mode=mode,
                line=stairs,
                marker={**large, "color": colours(ordered, ACCENT)},
                **shown,
            ),
            *legend,
        ],
        xaxis={"title": {"text": escape(report.study.file.label_of(cost))}, "rangemode": "tozero"},
        yaxis={"title": {"text": escape(report.study.file.label_of("quality"))}},
        hovermode="closest",
        height=460,
    )


def colours_of_kinds(report: Report) -> dict[str, str]:
    """A colour for each kind of student (family and method), most frequent first; empty where there is one kind."""
    kinds = kinds_of(report.records)
    return {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)} if len(kinds) > 1 else {}


def hypervolume(report: Report, *, over_cost: bool) -> Figure:
    """Hypervolume after each trained trial."""
    x = [step.seconds / 60 if over_cost else step.trained for step in report.progress]
    y = [step.hypervolume for step in report.progress]
    texts = [f"after trial {step.trial}: {step.hypervolume:.4g}" for step in report.progress]
    line = {"shape": "hv", "width": 2, "color": ACCENT}
    title = "minutes of trials, added up" if over_cost else "trained trials"
    return _figure(
        [
            {
                "type": "scatter",
                "mode": "lines+markers" if len(x) <= 60 else "lines",
                "marker": {"size": 5},
                "x": x,
                "y": y,
                "text": texts,
                "hovertemplate": "%{text}<extra></extra>",
                "line": line,
            }
        ],
        xaxis={"title": {"text": title}, "rangemode": "tozero"},
        yaxis={"title": {"text": "hypervolume"}},
        showlegend=False,
    )


def parallel(report: Report) -> Figure:
    """The students of the front as lines across what distinguishes them."""
    traits = [trait for trait in traits_of(report) if len(set(trait.values)) > 1]
    traces = []
    best, worst = report.front[0].quality, report.front[-1].quality
    for index, record in enumerate(report.front):
        texts = [f"<b>trial {record.trial}</b><br>{escape(t.name)}: {escape(t.told(index))}" for t in traits]
        share = (record.quality - worst) / (best - worst) if best > worst else 1.0
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(len(traits))),
                "y": [trait.place(index) for trait in traits],
                "text": texts,
                "customdata": [record.trial] * len(traits),
                "hovertemplate": "%{text}<extra></extra>",
                "line": {"width": 2, "color": _between("#d98032", "#3f76b5", share)},
                "marker": {"size": 6},
            }
        )
    return _figure(
        traces,
        xaxis={
            "tickvals": list(range(len(traits))),
            "ticktext": [_ends(trait) for trait in traits],
            "tickangle": 0,
            "range": [-0.4, len(traits) - 0.6],
            "zeroline": False,
        },
        yaxis={"visible": False, "range": [-0.08, 1.08]},
        showlegend=False,
        hovermode="closest",
        annotations=[
            {"x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": escape(trait.high), "showarrow": False}
            for x, trait in enumerate(traits)
        ],
    )


def bits(report: Report) -> Figure:
    """Bits of every module of the students shown."""
    names, rows = bits_of_modules([record.config for record in report.shown])
    logarithms = [[None if value is None else math.log2(value) for value in row] for row in rows]
    return _figure(
        [
            {
                "type": "heatmap",
                "x": [f"{record.trial}" for record in report.shown],
                "y": names,
                "z": logarithms,
                "text": [["" if value is None else str(value) for value in row] for row in rows],
                "texttemplate": "%{text}",
                "hovertemplate": "trial %{x}, %{y}: %{text} bits<extra></extra>",
                "colorscale": _BITS,
                "zmin": 0,
                "zmax": 4,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "hoverongaps": False,
            }
        ],
        height=max(240, 26 * len(names) + 90),
        xaxis={"title": {"text": "trial, best quality first"}, "type": "category", "showgrid": False},
        yaxis={"autorange": "reversed", "type": "category", "showgrid": False},
    )


def stacked(amounts: Mapping[int, Mapping[str, float]], unit: str, form: str) -> Figure:
    """Horizontal bars of parts, one for each trial.

    Args:
        amounts: by trial and part.
        unit: what is counted, for the axis.
        form: format of a number, as d3 writes it.
    """
    totals: dict[str, float] = {}
    for parts in amounts.values():
        for name, amount in parts.items():
            totals[name] = totals.get(name, 0.0) + amount
    trials = [f"trial {number}" for number in amounts]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(name),
            "y": trials,
            "x": [parts.get(name, 0.0) for parts in amounts.values()],
            "customdata": list(amounts),
            "marker": {"color": COLOURS[index % len(COLOURS)]},
            "hovertemplate": f"%{{y}}, {escape(name)}: %{{x:{form}}} {unit}<extra></extra>",
        }
        for index, name in enumerate(sorted(totals, key=lambda name: -totals[name]))
    ]
    return _figure(
        traces,
        barmode="stack",
        height=34 * len(amounts) + 220,
        xaxis={"title": {"text": unit}},
        yaxis={"autorange": "reversed", "type": "category", "showgrid": False},
        bargap=0.3,
    )


def importance(shares: Mapping[str, float], most: int = 12) -> Figure:
    """Importances of the parameters, largest first."""
    kept = list(shares.items())[:most]
    return _figure(
        [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escape(name) for name, _ in kept],
                "x": [share for _, share in kept],
                "marker": {"color": ACCENT},
                "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
            }
        ],
        height=24 * len(kept) + 80,
        xaxis={"tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "type": "category", "showgrid": False},
        showlegend=False,
        bargap=0.3,
    )


def curves(report: Report) -> Figure:
    """Training losses of the students shown."""
    traces = []
    for index, record in enumerate(record for record in report.shown if record.losses):
        steps = len(record.losses)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"trial {record.trial}",
                "x": [100 * (place + 1) / steps for place in range(steps)],
                "y": list(record.losses),
                "line": {"width": 2, "color": COLOURS[index % len(COLOURS)]},
                "hovertemplate": f"trial {record.trial}: %{{y:.4f}}<extra></extra>",
            }
        )
    return _figure(
        traces, xaxis={"title": {"text": "% of training"}}, yaxis={"title": {"text": "loss"}, "rangemode": "tozero"}
    )


def cost_of(report: Report) -> Objective:
    """The cost that the front is drawn over: the first objective that is one, else bytes."""
    return next((name for name in report.study.objectives if name != "quality"), "deployed_bytes")


def _cost(record: TrialRecord, name: str) -> float:
    return record.costs().get(name, math.nan)


def _hover(record: TrialRecord) -> str:
    told = [
        f"<b>trial {record.trial}</b>",
        f"{escape(record.metric)} {record.quality:.4f}",
        f"{record.latency.milliseconds:.2f} ms, {record.deployed_bytes:,} bytes",
        *(escape(part) for part in record.config.summary().split(", ")),
    ]
    return "<br>".join(told)


def _ends(trait: Trait) -> str:
    return f"{escape(trait.low)}<br><b>{'<br>'.join(escape(part) for part in trait.name.split(' '))}</b>"


def _between(first: str, second: str, share: float) -> str:
    """The colour at a share of the way from one to the other."""
    ends = [[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (first, second)]
    mixed = [round(a + (b - a) * share) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _figure(traces: list[Figure], **layout: Any) -> Figure:
    """A figure with what all have in common."""
    for axis in ("xaxis", "yaxis"):
        layout[axis] = {"automargin": True, "zeroline": False, **layout.get(axis, {})}
    common = {
        "height": 340,
        "margin": {"l": 8, "r": 12, "t": 24, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "dragmode": False,
    }
    return {"data": traces, "layout": {**common, **layout}}
