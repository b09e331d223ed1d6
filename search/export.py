"""Hand out a trial's bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from space.errors import DamagedError, InputError

if TYPE_CHECKING:
    from runners.record import TrialRecord


def export_bundle(record: TrialRecord, output: Path, keep: str = "all") -> Path:
    """Copy a trial's bundle to a new folder; all of it or nothing.

    Args:
        record: of the trial.
        output: folder to make; it must not exist.
        keep: which bundles the study keeps (`search.search_spec.SearchSpec`).

    Returns:
        The folder.

    Raises:
        DamagedError: the bundle holds something else than the record says.
        InputError: the folder exists, the bundle is gone, or it cannot be written (disk full, no permission).
    """
    from runners.bundle import copy_bundle, deployed_size, read_config
    from runners.bundle_store import fetch

    source = fetch(record.bundle)
    if not source.is_dir():
        if keep == "front":
            raise InputError(
                f"The bundle of trial {record.trial} was removed when other trials beat it: the study has "
                "search.keep_bundles: front.",
                "Its record and configuration are kept; `shoebox pareto` lists the trials whose bundles are.",
            )
        raise InputError(f"The bundle of trial {record.trial} is not at {source} any more.")
    if read_config(source).student != record.config or deployed_size(source) != record.deployed_bytes:
        raise DamagedError(f"{source} does not hold the student of trial {record.trial} any more, as it was measured.")
    copy_bundle(source, output)
    return output
