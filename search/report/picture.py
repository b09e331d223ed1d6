"""The report as one picture, for papers and issues. It is drawn by matplotlib, so that no browser is needed."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from search.report.figures import COLOURS, colours_of_kinds, cost_of
from search.report.gather import Report
from search.report.traits import kind_of
from space.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS_PER_INCH = 160


def as_picture(report: Report) -> bytes:
    """A PNG of 11 by 8 inches: the front, the hypervolume over trials, the bytes, and the importances for quality.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "Pictures are drawn by matplotlib, which is not installed.", "Install shoebox[report], or write html or md."
        ) from None
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    (front, volume), (sizes, matters) = figure.subplots(2, 2)
    # A name with dollar signs would be read as a formula.
    figure.suptitle(report.study.name.replace("$", r"\$"), fontsize=14, x=0.01, ha="left")
    _draw_front(front, report)
    _draw_hypervolume(volume, report)
    _draw_bytes(sizes, report)
    _draw_importance(matters, report)
    for axes in (front, volume, sizes, matters):
        axes.spines[["top", "right"]].set_visible(False)
    written = BytesIO()
    figure.savefig(written, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return written.getvalue()


def _draw_front(axes: Axes, report: Report) -> None:
    cost = cost_of(report)
    everything = [record.costs().get(cost, float("nan")) for record in report.records]
    kinds = colours_of_kinds(report)
    colours: Any = [kinds[kind_of(record)] for record in report.records] if kinds else COLOURS[5]
    label = None if kinds else "trials"
    axes.scatter(everything, [r.quality for r in report.records], s=12, c=colours, alpha=0.5, label=label)
    ordered = sorted(report.front, key=lambda record: record.costs().get(cost, float("nan")))
    at = [record.costs().get(cost, float("nan")) for record in ordered]
    line = "steps-post" if len(report.study.objectives) == 2 else "default"
    style = "-" if len(report.study.objectives) == 2 else "none"
    quality = [record.quality for record in ordered]
    axes.plot(at, quality, linestyle=style, marker="o", drawstyle=line, color=COLOURS[0], label="front")
    for name, colour in kinds.items():
        of_it = [index for index, record in enumerate(ordered) if kind_of(record) == name]
        axes.plot([at[i] for i in of_it], [quality[i] for i in of_it], "o", color=colour, label=name)
    axes.set(xlabel=report.study.file.label_of(cost), ylabel=report.study.file.label_of("quality"), title="Front")
    axes.legend(frameon=False, loc="lower right")


def _draw_hypervolume(axes: Axes, report: Report) -> None:
    steps = report.progress
    axes.step([s.trained for s in steps], [s.hypervolume for s in steps], where="post", color=COLOURS[0])
    axes.set(xlabel="trained trials", ylabel="hypervolume", title="Hypervolume", ylim=(0, None))


def _draw_bytes(axes: Axes, report: Report) -> None:
    axes.set(title="Deployed bytes", xlabel="kB")
    names = list(dict.fromkeys(name for parts in report.bytes_of.values() for name in parts))
    labels, begin = [f"trial {number}" for number in report.bytes_of], [0.0] * len(report.bytes_of)
    for index, name in enumerate(names):
        amounts = [parts.get(name, 0) / 1000 for parts in report.bytes_of.values()]
        axes.barh(labels, amounts, left=begin, label=name, color=COLOURS[index % len(COLOURS)])
        begin = [before + amount for before, amount in zip(begin, amounts, strict=True)]
    axes.invert_yaxis()
    if names:
        axes.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _draw_importance(axes: Axes, report: Report) -> None:
    quality = next(each for each in report.importances if each.objective == "quality")
    kept = list(quality.shares.items())[:12]
    axes.barh([name for name, _ in kept], [100 * share for _, share in kept], color=COLOURS[0])
    axes.invert_yaxis()
    axes.set(
        title=f"What {report.study.file.label_of('quality')} depends on", xlabel=f"% ({quality.remark.rstrip('.')})"
    )
