"""The command that shows a study's front."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import StorageOption, StudyArgument

if TYPE_CHECKING:
    from runners.record import TrialRecord
    from search.study import Study


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def pareto(
    study: StudyArgument,
    format: Annotated[Format, typer.Option(help="How to print.")] = Format.table,
    storage: StorageOption = None,
) -> None:
    """The front of a study: finished trials that keep every limit and that no other trial beats."""
    from search.cli.tables import as_csv, as_json
    from search.study import load_study

    found = load_study(study, storage)
    if format is Format.table:
        print_front(found)
    else:
        front = _front(found)
        typer.echo(as_json(found, front) if format is Format.json else as_csv(front))


def print_front(study: Study) -> None:
    from search.cli.tables import front_table, output_console

    front = _front(study)
    console = output_console()
    table, remarks = front_table(study, front)
    console.print(table)
    for remark in remarks:
        console.print(remark, highlight=False)
    console.print(f"Hypervolume: {study.hypervolume():.4g}", highlight=False)


def _front(study: Study) -> list[TrialRecord]:
    front = study.pareto()
    if not front:
        from space.errors import InputError

        raise InputError(f"Study {study.name!r} has no finished trial that keeps its limits yet.")
    return front
