"""The command that trains a published method beside a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.messages import messages_on
from search.cli.options import JsonOption, StorageOption
from search.cli.running import print_result, resume_with, stoppable


def baseline(
    name: Annotated[str, typer.Argument(help="tinybert, minilm, distilbert, ei-bert, ...; `list` shows all.")],
    study: Annotated[str | None, typer.Argument(help="A study in the storage, a shipped study or FILE.yaml.")] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings, each with another seed.", show_default="1, or those of a resumed run"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with train.* and validation.*.")] = None,
    text: Annotated[str | None, typer.Option(help="Text column; two with a comma for pairs.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rows with COLUMN=VALUE; several with commas.")] = None,
    latency: Annotated[str | None, typer.Option(help="emulated, native or estimated.")] = None,
    device: Annotated[str | None, typer.Option(help="Device profile, like cortex-a53.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trainings at a time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run, or add seeds.")] = False,
    storage: StorageOption = None,
    json: JsonOption = False,
) -> None:
    """Train a published method on a study's task, under its limits, as a study STUDY-NAME of its own.

    Compare them with: shoebox pareto STUDY STUDY-NAME
    """
    from search.baselines import baseline_study, baselines
    from search.cli.tables import output_console
    from space.errors import InputError

    if name == "list":
        for known, found in baselines().items():
            typer.echo(f"{known:<14} {found.description}")
        return
    if study is None:
        raise InputError(
            "No study is named.", "Write: shoebox baseline NAME STUDY; `shoebox baseline list` shows names."
        )
    from search.find_file import find_file
    from search.progress import display_for
    from search.run import run_study
    from search.study import load_study

    overrides = {
        "data": data,
        "text": text,
        "label": label,
        "where": where,
        "latency": latency,
        "device": device,
        "workers": workers,
    }
    file, _ = find_file(study, storage, overrides)
    trains = baseline_study(name, file, seeds or 1)
    if resume and seeds is None:
        trains = baseline_study(name, file, load_study(trains.name, storage).file.search.trials)
    console = output_console(stderr=True)

    def how_to_go_on() -> str:
        given = [text for key, value in overrides.items() if value is not None for text in (f"--{key}", str(value))]
        return resume_with(trains.name, ["shoebox", "baseline", name, study, *given], storage)

    with stoppable(how_to_go_on), messages_on(console):
        trained = run_study(trains, resume=resume, storage=storage, display=display_for(console))
    print_result(trained, as_json=json)
