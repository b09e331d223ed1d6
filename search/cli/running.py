"""How commands that search are stopped, and what they say at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from search.cli.options import to_copy
from search.cli.pareto_command import print_front

if TYPE_CHECKING:
    from search.study import Study


@contextmanager
def stoppable(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """What it holds ends as cleanly when it is terminated as by Ctrl-C: with exit code 130 and how to go on.

    Args:
        how_to_go_on: what to tell the user then.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(how_to_go_on(), err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_with(study: str, command: list[str], storage: str | None, *more: str) -> str:
    """What to do after a stopped search: resume it if it is in the storage, else start it again.

    Args:
        study: its name in the storage.
        command: the words that start it, up to where the storage is named.
        storage: URL as it was given; None if it was not.
        more: words behind it.
    """
    from search.study import load_study
    from space.errors import InputError

    try:
        load_study(study, storage)
    except InputError:
        return "Stopped before the first trial; run the same command again (a finished teacher is kept)."
    return f"Stopped; what has finished is kept. Resume with: {to_copy(command, storage, *more, '--resume')}"


def print_result(study: Study, *, as_json: bool = False) -> None:
    """The front of a study that has just been searched; exit code 1 where nothing is on it."""
    finished, failed = study.trials("finished"), study.trials("failed")
    if failed and not finished:
        first = failed[0]
        typer.echo(f"shoebox: all {len(failed)} trials failed; trial {first.number}: {first.error}", err=True)
        raise typer.Exit(1)
    if not study.pareto():
        kept = f"no trial of study {study.name!r} has finished within its limits"
        typer.echo(f"shoebox: {kept}. Go on by --resume with a larger budget, or another space or limit.", err=True)
        raise typer.Exit(1)
    print_front(study, as_json=as_json)
