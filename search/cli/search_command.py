"""The command that searches a study."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from search.cli.completion import complete_latency, complete_shipped_study
from search.cli.messages import messages_on
from search.cli.options import (
    BundlesOption,
    DeviceOption,
    HoursOption,
    JsonOption,
    LabelOption,
    NameOption,
    ResumeOption,
    SamplerOption,
    SeedOption,
    StorageOption,
    TextOption,
    TrialsOption,
    WarmStartOption,
    WhereOption,
    overrides_of,
    to_copy,
)
from search.cli.running import print_result, resume_with, stoppable


def search(
    context: typer.Context,
    study: Annotated[
        str,
        typer.Argument(
            help="A shipped study (see `shoebox studies`) or FILE.yaml.", autocompletion=complete_shipped_study
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Folder with train.* and validation.*.")] = None,
    text: TextOption = None,
    label: LabelOption = None,
    where: WhereOption = None,
    trials: TrialsOption = None,
    hours: HoursOption = None,
    workers: Annotated[int | None, typer.Option(help="Trials at a time.")] = None,
    sampler: SamplerOption = None,
    seed: SeedOption = None,
    latency: Annotated[
        str | None, typer.Option(help="emulated, native or estimated.", autocompletion=complete_latency)
    ] = None,
    device: DeviceOption = None,
    warm_start: WarmStartOption = None,
    resume: ResumeOption = False,
    name: NameOption = None,
    json: JsonOption = False,
    bundles: BundlesOption = None,
    storage: StorageOption = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster: auto, or HOST:PORT of its head.", show_default="this machine")
    ] = None,
) -> None:
    """Search a study: train students within its limits and show the front of the best."""
    from search.cli.tables import output_console

    console = output_console(stderr=True)
    overrides = overrides_of(context)

    def how_to_go_on() -> str:
        from search.study_file import study_name

        named = ["--name", overrides["name"]] if overrides["name"] else []
        where = ["--address", address] if address else []
        return resume_with(study_name(study, overrides), ["shoebox", "search", study, *named], storage, *where)

    with stoppable(how_to_go_on):
        with console.status("Loading ...") if console.is_terminal else contextlib.nullcontext():
            from search.progress import display_for
            from search.run import run_study
        with messages_on(console):
            found = run_study(
                study,
                overrides=overrides,
                resume=resume,
                storage=storage,
                display=display_for(console),
                address=address,
                warm_start=warm_start or (),
            )
    print_result(found, as_json=json)
    if json:
        return
    best = found.best()
    typer.echo(f"Best bundle: trial {best.trial}, {best.bundle}")
    typer.echo(f"Copy it with: {to_copy(['shoebox', 'export', found.name], storage, '--best', '-o', 'DIR')}")
