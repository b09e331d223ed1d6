"""Hand out a trial's bundle."""

from __future__ import annotations

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
    from runners.bundle import copy_bundle
    from runners.bundle_store import fetch

    source = fetch(record.bundle)
    if not source.is_dir():
        raise InputError(f"The bundle of trial {record.trial} is not at {source} any more.")
    copy_bundle(source, output)
    return output
