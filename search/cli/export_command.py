"""The command that copies a bundle."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import JsonOption, StorageOption, StudyArgument


def export(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    best: Annotated[bool, typer.Option("--best", help="The trial of the highest quality.")] = False,
    trial: Annotated[int | None, typer.Option(help="The trial of this number.")] = None,
    json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Copy a student's bundle into a new folder."""
    if best == (trial is not None):
        raise typer.BadParameter("give either --best or --trial N")
    from search.export import export_bundle
    from search.study import load_study

    found = load_study(study, storage)
    record = found.best() if trial is None else found.trial(trial).record
    if record is None:
        from space.errors import InputError

        state = found.trial(trial or 0).state
        raise InputError(f"Trial {trial} of study {study!r} has no bundle: it is {state}.")
    folder = export_bundle(record, output, found.file.search.keep_bundles)
    if json:
        answer = {"study": found.name, "trial": record.trial, "folder": str(folder.absolute())}
        typer.echo(json_format.dumps(answer, indent=2))
        return
    typer.echo(f"Trial {record.trial}: {folder}")
