"""The command `shoebox`. Every command imports what it needs itself, so that `--help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from search.cli.ablate_command import ablate
from search.cli.baseline_command import baseline
from search.cli.bench_commands import bench_samplers
from search.cli.cluster_command import cluster_app
from search.cli.dashboard_command import dashboard
from search.cli.doctor_command import doctor
from search.cli.emulator_commands import emulator_app
from search.cli.examples import epilog, exit_codes
from search.cli.export_command import export
from search.cli.pareto_command import pareto
from search.cli.predict_command import predict
from search.cli.quantize_command import quantize
from search.cli.report_command import report
from search.cli.search_command import search
from search.cli.studies_command import studies
from search.cli.study_command import study_app
from search.cli.submit_command import submit

__all__ = ["app", "main"]

app = typer.Typer(
    name="shoebox",
    help="Search for BERT students that fit in 2 MB, as accurate and as fast on an ARM phone as they can be.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    epilog=exit_codes(),
)
app.add_typer(emulator_app, name="emulator")
app.add_typer(cluster_app, name="cluster")
app.add_typer(study_app, name="study")
_COMMANDS: tuple[Callable[..., None], ...] = (
    search,
    submit,
    pareto,
    report,
    export,
    predict,
    quantize,
    studies,
    doctor,
    ablate,
    baseline,
    bench_samplers,
    dashboard,
)
for _command in _COMMANDS:
    _name = _command.__name__.replace("_", "-")
    app.command(_name, epilog=epilog(_name))(_command)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

    try:
        version = metadata.version("shoebox")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    typer.echo(f"shoebox {version}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point: what a user did wrong is one sentence and exit 2, never a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"shoebox: {sentence}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: Exception) -> str | None:
    """What to say of an error that a user or the machine caused; None for one of ours."""
    # Imported only now: the packages take a second or more, and --help must answer at once.
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from space.errors import InputError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f" {error.filename}" if error.filename else ""
        return f"The system refused to go on: {error.strerror}{place}."
    if isinstance(error, (StorageInternalError, SQLAlchemyError)):
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
        return f"The storage of the study does not work: {reason}."
    return None
