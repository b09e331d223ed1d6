"""The command that asks studies for their best trials."""

from __future__ import annotations

import io
import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.completion import complete_device, complete_study
from search.cli.options import JsonOption, StorageOption

if TYPE_CHECKING:
    from rich.console import Console

    from search.query import Selection
    from search.study import Study
    from space.errors import InputError


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    parquet = "parquet"
    markdown = "markdown"


class Retiming(StrEnum):
    """How trials are timed on another device."""

    emulated = "emulated"
    estimated = "estimated"


_SUFFIXES = {
    ".json": Format.json,
    ".csv": Format.csv,
    ".parquet": Format.parquet,
    ".md": Format.markdown,
    ".txt": Format.table,
}


def pareto(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY", help="Studies in the storage.", autocompletion=complete_study)
    ],
    where: Annotated[
        str | None,
        typer.Option("--where", "-w", help="Only trials that keep this condition on measures or parameters."),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="What the front is about, with commas: quality and any costs.", show_default="the study's"),
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Only the knee of the front.")] = False,
    within: Annotated[
        str | None, typer.Option(help="Only the smallest trial that loses at most so much quality: 1% or 0.01.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All feasible trials, not only the front.")] = False,
    each: Annotated[bool, typer.Option("--each", help="Of several studies, a front for each.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="Time the trials on this device first; nothing is trained.", autocompletion=complete_device),
    ] = None,
    latency: Annotated[
        Retiming | None, typer.Option(help="With --device: how to time.", show_default="emulated if installed")
    ] = None,
    scatter: Annotated[bool, typer.Option("--scatter", help="Draw the trials, the front marked.")] = False,
    format: Annotated[
        Format | None, typer.Option(help="How to print.", show_default="table, or as --output ends")
    ] = None,
    json: JsonOption = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    storage: StorageOption = None,
) -> None:
    """The front of one study or several: finished trials that keep every limit and that no other trial beats.

    Conditions join comparisons of measures (quality, latency_ms, deployed_bytes, peak_heap_bytes, ...) and parameters
    (depth, layer0.ffn_bits, recipe.temperature, ...) by and, or, not, in and parentheses. Exit code 1: no trial keeps
    the condition.
    """
    form = _format(format, json, output)
    if sum((knee, within is not None, all)) > 1:
        raise typer.BadParameter("give one of --knee, --within and --all")
    if latency is not None and device is None:
        raise typer.BadParameter("--latency says how --device is timed: give --device too")
    if scatter and form is not Format.table and output is None:
        raise typer.BadParameter(f"--scatter would stand in the middle of {form.value}: give --output FILE too")
    from search import query
    from search.cli.tables import output_console

    if within is not None:
        query.tolerance(within)  # a wrong one is said before anything is timed
    names = None if objectives is None else [name.strip() for name in objectives.split(",")]
    table = query.load(studies, storage)
    if not len(table):
        raise _nothing_finished(studies)
    errors = output_console(stderr=True)
    for name in sorted({*studies} - {study.name for study in table.studies}):
        _tell(errors, f"Study {name} has no finished trial that keeps its limits.")
    found = query.select(
        table,
        where=where,
        objectives=names,
        device=device,
        latency=None if latency is None else latency.value,
        on_progress=lambda done, of: _tell_timing(errors, device or "", done, of),
    )
    if (
        names is None
        and not all
        and within is None
        and len({frozenset(study.objectives) for study in table.studies}) > 1
    ):
        common = " and ".join(found.objectives)
        _tell(errors, f"These studies have different objectives: fronts are of {common}. Name others by --objectives.")
    picked = found.front(each=each)
    if knee:
        picked = found.knee(each=each)
    elif within is not None:
        picked = found.within(within, each=each)
    elif all:
        picked = found
    title = _title(found, picked, knee, within, all)
    _print(found, picked, title, form, output, found.front(each=each) if scatter else None)
    if not len(picked):
        asked = f"keeps --where {where!r}" if where and not len(found) else "has every objective"
        _tell(errors, f"shoebox: of {len(found.table)} trials none {asked}.")
        raise typer.Exit(1)


def print_front(study: Study, *, as_json: bool = False) -> None:
    """The front of a study that has just been searched."""
    from search import query

    found = query.select(study)
    front = found.front()
    _print(found, front, _title(found, front), Format.json if as_json else Format.table)


def _format(format: Format | None, json: bool, output: Path | None) -> Format:
    if json and format not in (None, Format.json):
        raise typer.BadParameter(f"--json and --format {format} are two answers: give one")
    chosen = Format.json if json else format
    if chosen is None:
        chosen = Format.table if output is None else _SUFFIXES.get(output.suffix.lower())
        if chosen is None:
            raise typer.BadParameter(f"--output {output} has no ending that says how to write: give --format too")
    if chosen is Format.parquet and output is None:
        raise typer.BadParameter("--format parquet is for a file: give --output FILE.parquet")
    return chosen


def _print(
    found: Selection,
    picked: Selection,
    title: str,
    form: Format = Format.table,
    output: Path | None = None,
    front: Selection | None = None,
) -> None:
    from search.cli.tables import output_console, trial_cells
    from search.query.formats import write_whole

    console = output_console()
    if front is not None:
        _print_scatter(found, picked, front, console)
    if output is None and form is Format.table:
        _print_table(picked, title, console)
        return
    if form not in (Format.table, Format.markdown):  # the others are for programs
        errors = output_console(stderr=True)
        for remark in trial_cells(picked).remarks:
            _tell(errors, remark)
    content = _content(picked, form, title)
    if output is None:
        typer.echo(content.decode(), nl=False)
        return
    write_whole(output, content)
    typer.echo(f"Written: {output} ({_count(len(picked), 'trial')})")


def _content(picked: Selection, form: Format, title: str) -> bytes:
    from search.cli.tables import WIDTH_WITHOUT_TERMINAL, trial_cells
    from search.query import formats

    if form is Format.parquet:
        return formats.parquet_bytes(picked)
    if form is Format.json:
        return (formats.as_json(picked) + "\n").encode()
    if form is Format.csv:
        return (formats.as_csv(picked) + "\n").encode()
    if form is Format.markdown:
        cells = trial_cells(picked)
        return ("\n\n".join([cells.markdown(), *cells.remarks]) + "\n").encode()
    from rich.console import Console

    text = io.StringIO()
    _print_table(picked, title, Console(file=text, width=WIDTH_WITHOUT_TERMINAL))
    return text.getvalue().encode()


def _print_table(picked: Selection, title: str, console: Console) -> None:
    from search.cli.tables import trial_cells
    from search.study import reference_in_words

    if not len(picked):
        return
    cells = trial_cells(picked)
    console.print(cells.table(title))
    for remark in cells.remarks:
        console.print(remark, markup=False, highlight=False)
    volume = picked.hypervolume()
    if volume is not None and len(picked) > 1:
        limits = picked.studies[0].file.limits
        reference = reference_in_words(list(picked.objectives), limits, volume)  # type: ignore[arg-type]
        console.print(f"Hypervolume: {volume:.4g} ({reference})", highlight=False)


def _print_scatter(found: Selection, picked: Selection, front: Selection, console: Console) -> None:
    from search.query.scatter import Dot, scatter

    costs = [name for name in found.objectives if name != "quality"]
    x_name, y_name = (costs or ["deployed_bytes"])[0], "quality"
    names = [study.name for study in found.studies]
    on_front, answer = ({int(index) for index in part.indices} for part in (front, picked))
    if answer == on_front or len(answer) == len(found):  # nothing was chosen among them
        answer = set()
    places = zip(found.indices, found.values(x_name), found.values(y_name), strict=True)
    dots = [
        Dot(
            _number(x),
            _number(y),
            names.index(found.table.rows[int(i)].study.name),
            int(i) in on_front,
            int(i) in answer,
        )
        for i, x, y in places
    ]
    unicode = (console.encoding or "").lower().startswith("utf")
    for line in scatter(dots, x_name, y_name, names, min(console.width, 80), unicode=unicode):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _title(
    found: Selection, picked: Selection, knee: bool = False, within: str | None = None, all: bool = False
) -> str:
    names = ", ".join(study.name for study in found.studies)
    if knee:
        what = "the knee of the front"
    elif within is not None:
        what = f"the smallest within {within} of the best quality"
    else:
        what = f"{_count(len(picked), 'trial')}{'' if all else ' on the front'}"
    asked = "" if found.where is None else f", of {len(found)} where {found.where}"
    return f"{names}: {what}{asked}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tell_timing(console: Console, device: str, done: int, of: int) -> None:
    if done < of:
        _tell(console, f"Timing on {device}: {done} of {of} trials")


def _tell(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _nothing_finished(studies: list[str]) -> InputError:
    from space.errors import InputError

    if len(studies) == 1:
        return InputError(f"Study {studies[0]!r} has no finished trial that keeps its limits yet.")
    return InputError(f"None of the studies {', '.join(studies)} has a finished trial that keeps its limits yet.")
