"""The command that says what each method is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.completion import complete_latency, complete_study
from search.cli.options import JsonOption, StorageOption
from search.cli.running import stoppable

if TYPE_CHECKING:
    from search.ablate import Ablation, Setup
    from search.study_file import StudyFile


def ablate(
    study: Annotated[
        str,
        typer.Argument(
            help="A study in the storage; with --config, a shipped study or FILE.yaml.", autocompletion=complete_study
        ),
    ],
    trial: Annotated[int | None, typer.Option(help="Trial to start from.", show_default="the best")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file with config and recipe to start from.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per row.")] = 3,
    rows: Annotated[str | None, typer.Option(help="Rows with commas between.", show_default="all")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write FILE.md and FILE.json.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --config: folder with train.* and validation.*.")] = None,
    text: Annotated[str | None, typer.Option(help="With --config: text column; two with a comma for pairs.")] = None,
    label: Annotated[str | None, typer.Option(help="With --config: label column.")] = None,
    where: Annotated[str | None, typer.Option(help="With --config: only rows with COLUMN=VALUE.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="With --config: emulated, native or estimated.", autocompletion=complete_latency)
    ] = None,
    json: JsonOption = False,
    storage: StorageOption = None,
) -> None:
    """Train one student whole, and again with one method removed at a time.

    Stopped by Ctrl-C, the same command goes on.
    """
    from search.ablate import ablate as run_ablation
    from search.ablate.run import check_rows
    from search.cli.messages import messages_on
    from search.cli.tables import output_console

    names = None if rows is None else [name.strip() for name in rows.split(",")]
    check_rows(names)
    overrides = {
        "data": None if data is None else str(data),
        "text": text,
        "label": label,
        "where": where,
        "latency": latency,
    }
    file, setup = _start(study, trial, config, overrides, storage)
    if output is not None:
        _check_writable(output)
    console = output_console(stderr=True)
    with stoppable(lambda: "Stopped; what has finished is kept. The same command goes on."), messages_on(console):
        found = run_ablation(file, setup, seeds=seeds, rows=names, workers=workers)
    if json:
        typer.echo(found.as_json())
    else:
        _print(found)
    if output is not None:
        for path in write_tables(found, output):
            typer.echo(f"Written: {path}", err=json)


def _start(
    study: str, trial: int | None, config: Path | None, overrides: dict[str, str | None], storage: str | None
) -> tuple[StudyFile, Setup]:
    from search.ablate import start_from_file, start_from_study
    from space.errors import InputError

    if config is not None:
        if trial is not None or storage is not None:
            raise InputError("--config takes the place of a study in the storage: leave out --trial and --storage.")
        return start_from_file(study, config, overrides)
    if given := [f"--{name}" for name, value in overrides.items() if value is not None]:
        raise InputError(f"{', '.join(given)}: a study in the storage keeps its own.", "Only --config takes them.")
    return start_from_study(study, trial, storage)


def _check_writable(output: Path) -> None:
    """Say before minutes are spent that the result could not be written."""
    from space.errors import InputError
    from space.paths import expanded

    path = expanded(output)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--output {output}: name a file in a folder that exists.")


def write_tables(found: Ablation, output: Path) -> list[Path]:
    """Write the table as Markdown and all figures as JSON; answers the files: OUTPUT.md and OUTPUT.json."""
    import os

    from space.paths import expanded

    # A name like run-0.5 has no suffix to cut.
    stem = output.stem if output.suffix in (".md", ".json") else output.name
    written = []
    for suffix, content in ((".md", found.as_markdown()), (".json", found.as_json() + "\n")):
        path = expanded(output).with_name(stem + suffix)
        part = path.with_name(f".{path.name}.part{os.getpid()}")
        part.write_text(content, encoding="utf-8")
        os.replace(part, path)
        written.append(path)
    return written


def _print(found: Ablation) -> None:
    from search.cli.tables import as_table, output_console

    console = output_console()
    columns = [(name, number >= 2) for number, name in enumerate(found.header())]
    title = f"{found.study.name}: one method removed at a time"
    console.print(as_table(columns, map(found.cells, found.rows), title))
    for remark in found.remarks():
        console.print(remark, markup=False, highlight=False)
