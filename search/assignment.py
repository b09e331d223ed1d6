"""What the ledger hands out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runners.rungs import Rungs
from space.config import Recipe, StudentConfig


class NothingToDo(Exception):
    """No trial can be handed out now."""


@dataclass(frozen=True)
class Proposal:
    """What a trial would build, and what it weighs (exact, before training)."""

    config: StudentConfig
    recipe: Recipe
    deployed_bytes: int


@dataclass(frozen=True)
class Assignment:
    """One feasible trial, ready for a worker.

    Attributes:
        number: the trial's number in the study.
        trial_id: its key in the storage.
        seed: of the training.
        bundle: where the exported student goes.
        rungs: where it is judged on its way; None without early stopping.
    """

    number: int
    trial_id: int
    config: StudentConfig
    recipe: Recipe
    seed: int
    bundle: Path
    rungs: Rungs | None = None
