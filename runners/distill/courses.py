"""Several tasks at once: what a student learns of each, and in which order batches of them come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from runners.distill.losses import TaskLayer
from runners.distill.pool import Batch, LessonPool
from runners.lessons import Lessons

_TASKS = 3  # what a random generator is for, beside the purposes of `runners.distill.pool`


@dataclass(frozen=True, eq=False)
class Course:
    """What a student learns of one task.

    Attributes:
        sources: lessons of the task's train split, then those of further text.
        shares: of all texts seen, those of each further source.
        teacher: brings the task layer and the scale of its outputs.
        regression: labels are real values.
        encoder: the teacher itself, where `space.config.Recipe.updates_encoder`; it is trained in place, on the inputs
            `Lessons.taught`.
    """

    sources: Sequence[Lessons]
    shares: Sequence[float]
    teacher: TaskLayer
    regression: bool
    encoder: nn.Module | None = None


class CoursePool:
    """Batches of one or more courses; each batch holds texts of one of them.

    An epoch has as many batches as a pass over each course would take together. A course with n texts gets a share of
    them in proportion to n^exponent, so that small tasks are seen more often than their size alone would have it, and
    goes through its texts at that pace: in an epoch a small task may be passed more than once, a large one not wholly.
    Which batch comes when depends on `seed` and its number alone.

    Args:
        courses: at least one.
        exponent: 1 divides batches by size, 0 evenly.
        batch_size, sample, tokens, seed, held_out: as of `LessonPool`.
    """

    def __init__(
        self,
        courses: Sequence[Course],
        exponent: float,
        batch_size: int,
        sample: int | None,
        tokens: Sequence[str] | None,
        seed: int,
        held_out: float = 0.0,
    ) -> None:
        self._seed = seed
        self.pools = [
            LessonPool(course.sources, course.shares, batch_size, sample, tokens, course.regression, seed, held_out)
            for course in courses
        ]
        self.whole_batches = sum(pool.whole_batches for pool in self.pools)
        self.batches_per_epoch = sum(pool.batches_per_epoch for pool in self.pools)
        weights = np.array([pool.examples_per_epoch for pool in self.pools], float) ** exponent
        self.counts = _divided(self.batches_per_epoch, weights)
        passes = zip(self.counts, self.pools, strict=True)
        self.examples_per_epoch = sum(
            count / pool.batches_per_epoch * pool.examples_per_epoch for count, pool in passes
        )
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def batch(self, number: int, device: torch.device) -> tuple[int, Batch]:
        """Batch `number` of the training, counted from 0 over all epochs, and the place of its course."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self._seed, _TASKS, epoch])
            self._epoch, self._order = epoch, generator.permutation(np.repeat(np.arange(len(self.pools)), self.counts))
        course = int(self._order[place])
        before = int((self._order[:place] == course).sum())
        return course, self.pools[course].batch(epoch * self.counts[course] + before, device)


def _divided(total: int, weights: npt.NDArray[np.float64]) -> list[int]:
    """`total` in whole parts, at least 1 each, in proportion to weights (largest remainders)."""
    exact = total * weights / weights.sum()
    parts = np.maximum(np.floor(exact), 1).astype(int)
    while parts.sum() != total:
        step = 1 if parts.sum() < total else -1
        gaps = (exact - parts) * step
        gaps[parts + step < 1] = -np.inf
        parts[int(gaps.argmax())] += step
    return [int(part) for part in parts]
