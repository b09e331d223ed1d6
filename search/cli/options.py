"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from search.cli.completion import complete_study

StorageOption = Annotated[
    str | None, typer.Option(help="Storage URL of Optuna.", show_default="SHOEBOX_STORAGE, or SQLite in ~/.shoebox")
]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study in the storage.", autocompletion=complete_study)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def storage_option(storage: str | None) -> list[str]:
    if storage is None:
        return []
    from search.storage import masked

    return ["--storage", masked(storage)]


def given_of(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Those options of the names that were given to the command, be it with their defaults, as they are typed."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [f"--{name}" for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
