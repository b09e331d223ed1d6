"""The command that tells others of a study."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import StorageOption, StudyArgument


class ReportFormat(StrEnum):
    """What a report is written as."""

    html = "html"
    md = "md"
    png = "png"


def report(
    study: StudyArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="STUDY.html, .md or .png")
    ] = None,
    format: Annotated[
        ReportFormat | None, typer.Option(help="What to write.", show_default="by the file's ending, else html")
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Write a report of a study: one page that needs no network, Markdown, or a picture.

    It shows the front with the card of each student, how the search went, what the students are made of, where bytes
    and milliseconds go, which parameters matter, what failed and why, and where it all comes from.
    """
    kind = format or _kind_of(output)
    target = output or Path(f"{study}.{kind}")
    from search.output import new_file
    from search.report import as_markdown, as_page, gather
    from search.report.picture import as_picture
    from search.study import load_study

    found = gather(load_study(study, storage))
    content: str | bytes
    if kind is ReportFormat.png:
        content = as_picture(found)
    else:
        content = as_page(found) if kind is ReportFormat.html else as_markdown(found)
    data = content.encode() if isinstance(content, str) else content
    with new_file(target) as file:
        file.write(data)
    typer.echo(f"{target}: {len(data):,} bytes")


def _kind_of(output: Path | None) -> ReportFormat:
    """By the ending of a file's name.

    Raises:
        InputError: it has another one.
    """
    if output is None:
        return ReportFormat.html
    ending = output.suffix.lower().removeprefix(".")
    if ending == "htm":
        return ReportFormat.html
    if ending not in list(ReportFormat):
        from space.errors import InputError

        raise InputError(
            f"--output {output}: a report is html, md or png.",
            "Give the file such an ending, or say which by --format.",
        )
    return ReportFormat(ending)
