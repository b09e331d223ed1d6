"""Options that several commands have."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.completion import complete_device, complete_sampler, complete_study

StorageOption = Annotated[
    str | None, typer.Option(help="Storage URL of Optuna.", show_default="SHOEBOX_STORAGE, or SQLite in ~/.shoebox")
]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study in the storage.", autocompletion=complete_study)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# Of what searches a study, here or elsewhere.
TextOption = Annotated[str | None, typer.Option(help="Text column (of words: tokens); two with a comma for pairs.")]
LabelOption = Annotated[str | None, typer.Option(help="Label column; of tagged words, that of the tags.")]
WhereOption = Annotated[str | None, typer.Option(help="Only rows with COLUMN=VALUE; several with commas.")]
TrialsOption = Annotated[int | None, typer.Option(help="Trained trials in total.")]
HoursOption = Annotated[float | None, typer.Option(help="Hours of searching in total.")]
SamplerOption = Annotated[
    str | None, typer.Option(help="known-cost, tpe, nsga2, gp, random or qmc.", autocompletion=complete_sampler)
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of the search.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="Device profile, like cortex-a53.", autocompletion=complete_device)
]
WarmStartOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Older study whose good configurations are tried first; may be repeated, or auto for the most similar "
        "ones, four at most."
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a stopped or killed study.")]
NameOption = Annotated[str | None, typer.Option(help="Another name for the study.")]
BundlesOption = Annotated[
    str | None, typer.Option(help="URL for the bundles, like s3://bucket/folder.", show_default="SHOEBOX_HOME")
]
SharedDataOption = Annotated[
    Path | None, typer.Option(help="Folder with train.* and validation.*, as all hosts see it.")
]


def to_copy(command: list[str], storage: str | None, *more: str) -> str:
    """A command that uses a storage, to be copied into a shell; a password in the URL is not shown.

    Args:
        command: words up to where the storage is named.
        storage: URL as it was given to the command that runs; None if it was not.
        more: words behind it.
    """
    from search.storage import STORAGE, masked

    if storage is None:
        return shlex.join([*command, *more])
    if masked(storage) != storage:
        return f"{shlex.join([*command, *more])} with {STORAGE} set to that storage"
    return shlex.join([*command, "--storage", storage, *more])


def given_of(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those options of the names that were given to the command, be it with their defaults, as they are typed."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [f"--{name}" for name, source in sources.items() if source is not None and source.name != "DEFAULT"]


def overrides_of(context: typer.Context) -> dict[str, Any]:
    """What the options of a command that searches a study change in its file, by the names of `OVERRIDES`."""
    from search.overrides import OVERRIDES

    return {name: value for name, value in context.params.items() if name in OVERRIDES}
