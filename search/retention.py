"""What trials leave on disk, and how long it stays there."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from objectives.pareto import Direction, non_dominated

Keep = Literal["all", "front"]


class Folders:
    """The bundles and checkpoints of a study.

    Args:
        bundles: folder in which every finished trial has a folder of its own.
        keep: which bundles stay: all of them, or those of trials that no other one beats. Records stay in any case.
        directions: of the study's objectives.
    """

    def __init__(self, bundles: Path, keep: Keep, directions: Sequence[Direction]) -> None:
        self.bundles = bundles
        self.all_checkpoints = bundles.with_name("checkpoints")
        self._keep = keep
        self._directions = list(directions)
        self._front: dict[int, Sequence[float]] = {}

    def bundle(self, number: int) -> Path:
        """Where a trial's bundle goes."""
        return self.bundles / f"{number:05d}"

    def checkpoints(self, number: int) -> Path:
        """Where a trial's checkpoints go."""
        return self.all_checkpoints / f"{number:05d}"

    def finished(self, number: int, values: Sequence[float]) -> None:
        """Enter a feasible finished trial; the bundles of those that are not on the front any more are removed."""
        if self._keep == "all":
            return
        self._front[number] = values
        numbers = list(self._front)
        kept = {numbers[index] for index in non_dominated([self._front[n] for n in numbers], self._directions)}
        for other in numbers:
            if other not in kept:
                del self._front[other]
                self.remove(self.bundle(other))

    def remove_passed(self, rungs: Sequence[dict[str, Any]]) -> None:
        """Remove the checkpoints of a trial that the storage knows a later one of: it may go on from the last alone."""
        for rung in rungs[:-1]:
            path = located(rung["checkpoint"], self.all_checkpoints)
            if self._holds_checkpoints(path.parent):
                with contextlib.suppress(OSError):  # they are removed with the trial's folder at last
                    path.unlink()

    def remove_checkpoints(self, number: int, rungs: Iterable[dict[str, Any]]) -> None:
        """Remove the checkpoints of a trial that has ended, those that it took over from another one included."""
        taken_over = {located(rung["checkpoint"], self.all_checkpoints).parent for rung in rungs}
        for folder in taken_over | {self.checkpoints(number)}:
            if self._holds_checkpoints(folder):
                self.remove(folder)

    def _holds_checkpoints(self, folder: Path) -> bool:
        """Whether a folder is one of this study's for the checkpoints of a trial, however it is spelt."""
        return folder.parent.resolve() == self.all_checkpoints.resolve()

    def remove(self, folder: Path) -> None:
        """Remove a folder. Killed in between, it is gone under its name: no half of a bundle is left there."""
        hidden = folder.with_name(f".{folder.name}.removed")
        try:
            folder.rename(hidden)
        except FileNotFoundError:
            return
        except OSError:  # left from a removal that was killed
            hidden = folder
        shutil.rmtree(hidden, ignore_errors=True)

    def remove_leftovers(self, unrecorded: set[int], wanted_checkpoints: set[Path]) -> None:
        """Remove what a killed search left.

        Args:
            unrecorded: trials that ended without a record: their bundles are complete, but nothing leads to them.
            wanted_checkpoints: folders of those from which a training may go on.
        """
        wanted = {folder.resolve() for folder in wanted_checkpoints}  # the home may be spelt in another way than then
        for folder in _folders(self.bundles):
            whole = re.fullmatch(r"\d{5,}", folder.name)
            if (whole and int(folder.name) in unrecorded) or re.match(r"\.\d{5,}\.", folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in _folders(self.all_checkpoints):
            if re.fullmatch(r"\.?\d{5,}(\.removed)?", folder.name) and folder.resolve() not in wanted:
                shutil.rmtree(folder, ignore_errors=True)


def located(checkpoint: str, folder: Path) -> Path:
    """Where a checkpoint is now: in its study's home, which may have been moved since.

    Args:
        checkpoint: its path as it was recorded.
        folder: of the study's checkpoints.

    Returns:
        The path as it was recorded if the file is there, or nowhere.
    """
    recorded = Path(checkpoint)
    moved = folder / recorded.parent.name / recorded.name
    return moved if moved.is_file() and not recorded.is_file() else recorded


def bundle_now(record: Mapping[str, Any], folder: Path) -> str:
    """Where a trial's bundle is now: in its study's home, which may have been moved since.

    Args:
        record: of the trial, as JSON.
        folder: of the study's bundles.

    Returns:
        The place as it was recorded if it is there, or nowhere.
    """
    recorded = str(record["bundle"])
    if "://" in recorded or recorded.startswith(f"{folder}/") or Path(recorded).is_dir():
        return recorded
    moved = folder / Path(recorded).name
    try:
        told = json.loads((moved / "metrics.json").read_text(encoding="utf-8"))
        # A study of that name in another storage may have been searched here.
        same = all(told[key] == record[key] for key in ("trial", "seed", "quality", "deployed_bytes"))
    except (OSError, ValueError, KeyError, TypeError):
        return recorded
    return str(moved) if same else recorded


def _folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
