"""Hand out a trial's bundle."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from space.errors import InputError

if TYPE_CHECKING:
    from runners.record import TrialRecord


def export_bundle(record: TrialRecord, output: Path) -> Path:
    """Copy a trial's bundle to a new folder; all of it or nothing.

    Args:
        record: of the trial.
        output: folder to make; it must not exist.

    Returns:
        The folder.

    Raises:
        InputError: the folder exists, the bundle is gone, or it cannot be written (disk full, no permission).
    """
    source = Path(record.bundle)
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists already.", "Choose a new folder, or remove that one.")
    if not source.is_dir():
        raise InputError(f"The bundle of trial {record.trial} is not at {source} any more.")
    temporary: str | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent)
        copy = Path(temporary) / output.name
        shutil.copytree(source, copy)
        # A rename onto a folder that appeared meanwhile fails unless that folder is empty.
        copy.rename(output)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{output} cannot be written: {_reason(error)}.") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return output


def _reason(error: OSError | shutil.Error) -> str:
    # copytree collects what went wrong per file as (source, target, text) in one error.
    first = str(error.args[0][0][2]) if isinstance(error, shutil.Error) and error.args[0] else str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in first:
        return "the disk is full"
    return getattr(error, "strerror", None) or first
