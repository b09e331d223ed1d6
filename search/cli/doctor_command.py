"""The command that looks at the machine."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from search.cli.completion import complete_study
from search.cli.options import (
    JsonOption,
    LabelOption,
    StorageOption,
    TextOption,
    WhereOption,
    given_of,
    overrides_of,
)


def doctor(
    context: typer.Context,
    study: Annotated[
        str | None,
        typer.Argument(
            help="Also look at a study's device, data, text and teacher: one in the storage, a shipped one, FILE.yaml.",
            autocompletion=complete_study,
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with train.* and validation.*.")] = None,
    text: TextOption = None,
    label: LabelOption = None,
    where: WhereOption = None,
    json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Say what a search would find on this machine, and how to mend what it would not.

    Exit code 1 if something would keep a search from running.
    """
    from search.cli.tables import output_console
    from search.doctor import examine

    if study is None and (given := given_of(context, ("data", "text", "label", "where"))):
        raise typer.BadParameter(f"{given[0]} is of a study: name it too")
    console, findings = output_console(), []
    for finding in examine(storage, study, overrides_of(context)):
        findings.append(finding)
        if json:
            continue
        line = f"{finding.state:<8} {finding.subject:<19} {finding.text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        if finding.fix is not None:
            console.print(f"{'':<28} -> {finding.fix}", markup=False, highlight=False, soft_wrap=True)
    if json:
        typer.echo(json_format.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
