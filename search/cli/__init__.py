"""The command `shoebox`."""

from __future__ import annotations

import sys

from search.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point: what a user did wrong is one sentence and exit 2, never a traceback."""
    try:
        app()
    except ValueError as error:
        # Imported only now: the room brings torch, and --help must answer at once.
        from space.errors import InputError

        if not isinstance(error, InputError):
            raise
        print(f"shoebox: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
