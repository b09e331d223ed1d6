"""The command `shoebox`."""

from __future__ import annotations

import sys

from search.cli.ablate_command import ablate
from search.cli.bench_commands import bench_samplers
from search.cli.commands import app
from search.cli.quantize_command import quantize

__all__ = ["app", "main"]

app.command()(ablate)
app.command("bench-samplers")(bench_samplers)
app.command("quantize")(quantize)


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
