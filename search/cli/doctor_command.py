"""The command that looks at the machine."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from typing import Annotated

import typer

from search.cli.completion import complete_study
from search.cli.options import JsonOption, StorageOption


def doctor(
    study: Annotated[
        str | None,
        typer.Argument(
            help="Also look at this study's data and teacher: one in the storage, a shipped one or FILE.yaml.",
            autocompletion=complete_study,
        ),
    ] = None,
    json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Say what a search would find on this machine, and how to mend what it would not.

    Exit code 1 if something would keep a search from running.
    """
    from search.cli.tables import output_console
    from search.doctor import examine

    console, findings = output_console(), []
    for finding in examine(storage, study):
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
