"""The errors that a user can do something about."""

from __future__ import annotations

import errno

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # numbers of the system's errors: a disk takes no more


class InputError(ValueError):
    """Something the user gave is wrong: a study file, data, an option, a folder.

    The command line prints it as one sentence and exits with 2; no traceback.

    Args:
        message: what is wrong and where (file, key, row, trial).
        hint: what would be right or how to go on.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message} {hint}")


class OutputError(InputError):
    """A result cannot be written (disk full, no permission): no fault of the trial, the next one would fail too."""


class DamagedError(InputError):
    """What Shoebox wrote does not hold any more what it should: other things of its kind may be whole."""
