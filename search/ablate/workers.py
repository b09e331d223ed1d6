"""Trainings of an ablation in several processes, by a local Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.util import ActorPool

from search.local_ray import local_ray
from space.errors import InputError, OutputError

if TYPE_CHECKING:
    from search.ablate.run import Job, Outcome


class _Process:
    """A `Trainer` in a process of its own."""

    def __init__(self, folder: Path, threads: int, path: tuple[str, ...]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        from search.ablate.run import Trainer

        self._trainer = Trainer(folder, threads)

    def train(self, job: Job) -> tuple[Job, Outcome | None, OutputError | None]:
        try:
            return job, self._trainer.train(job), None
        except OutputError as error:  # Ray would wrap it in an error of its own
            return job, None, error


def train_in_processes(jobs: list[Job], folder: Path, workers: int, threads: int) -> Iterator[tuple[Job, Outcome]]:
    """Train jobs, so many at a time; in the order in which they end.

    Raises:
        OutputError: as of `Trainer.train`.
        InputError: a process died.
    """
    with local_ray(workers, threads):
        kind: Any = ray.remote(num_cpus=1)(_Process)
        pool = ActorPool([kind.remote(folder, threads, tuple(sys.path)) for _ in range(workers)])
        try:
            for job, outcome, error in pool.map_unordered(lambda process, job: process.train.remote(job), jobs):
                if error is not None:
                    raise error
                yield job, outcome
        except RayActorError:
            hint = "Run the same command again, with fewer workers if memory was short: what finished is kept."
            raise InputError("A process that trained was killed.", hint) from None
