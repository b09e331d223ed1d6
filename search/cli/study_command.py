"""The commands `shoebox study ...`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import StorageOption, StudyArgument

study_app = typer.Typer(help="A study as one file, to move it between machines and people.", no_args_is_help=True)


class BundleChoice(StrEnum):
    """Which bundles go into an archive."""

    all = "all"
    front = "front"
    none = "none"


@study_app.command("export")
def export_(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to make, like STUDY.zip.")],
    bundles: Annotated[BundleChoice, typer.Option(help="Whose bundles: the front's, all or none.")] = (
        BundleChoice.front
    ),
    storage: StorageOption = None,
) -> None:
    """Write a study into one file: trials, study file, versions and bundles, with checksums.

    Data and teacher are not in it.

    Example: shoebox study export sst2 -o sst2.zip
    """
    from search.exchange import export_study

    done = export_study(study, output, bundles.value, storage)
    typer.echo(
        f"{done.path}: {_count(done.trials, 'trial')}, {_count(len(done.bundles), 'bundle')}, {done.size:,} bytes."
    )
    if done.gone:
        numbers = ", ".join(map(str, done.gone))
        typer.echo(f"Bundles that are gone or damaged and so not in it: those of trials {numbers}.")
    typer.echo("The text that the students learn from, and the teacher, are not in it.")


@study_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File that `shoebox study export` wrote.")],
    name: Annotated[str | None, typer.Option(help="Another name for the study.")] = None,
    storage: StorageOption = None,
) -> None:
    """Put a study from a file into the storage; refused if the file was damaged or changed.

    Example: shoebox study import sst2.zip --name sst2-of-ann
    """
    from search.exchange import import_study

    done = import_study(file, name, storage)
    what = f"{_count(done.trials, 'trial')}, {_count(len(done.bundles), 'bundle')}"
    if not done.existed:
        typer.echo(f"Study {done.name!r} imported: {what}.")
        typer.echo("A resumed search reads text and teacher from where the study file says; they were not in the file.")
        return
    further = f" and has {_count(done.further, 'further trial')}" if done.further else ""
    added = f"Bundles added: {len(done.bundles)}." if done.bundles else "Nothing was changed."
    typer.echo(f"Study {done.name!r} is here already{further}. {added}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
