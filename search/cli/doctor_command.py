"""The command that looks at the machine."""

from __future__ import annotations

import typer

from search.cli.options import StorageOption


def doctor(storage: StorageOption = None) -> None:
    """Say what a search would find on this machine; exit code 1 if something would keep it from running."""
    from search.cli.tables import output_console
    from search.doctor import examine

    console, problems = output_console(), 0
    for finding in examine(storage):
        problems += finding.state == "problem"
        line = f"{finding.state:<8} {finding.subject:<19} {finding.text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
