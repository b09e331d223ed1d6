"""Projections of a student that knows something already, fitted before its training begins."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from runners.distill.losses import CrossDistillation
from runners.distill.pool import LessonPool
from runners.distill.words import WordDistillation, word_means
from space.families import Student

_TEXTS = 1024  # at most, of the first batches
_RIDGE = 1e-2  # share of the mean variance of a feature
_LEAST = 1e-9  # penalty at least, as a share of the mean sum of squares of a feature


class Regression:
    """Ridge regression of rows that arrive in parts, with an intercept."""

    def __init__(self) -> None:
        self._count = 0
        self._gram = self._cross = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add features [n, d] and targets [n, k]."""
        inputs = nn.functional.pad(features.double(), (0, 1), value=1.0)
        self._count += len(inputs)
        self._gram = self._gram + (inputs.T @ inputs).cpu()
        self._cross = self._cross + (inputs.T @ targets.double()).cpu()

    @torch.no_grad()
    def write_to(self, linear: nn.Linear) -> None:
        """Make a layer the best linear map from features to targets; without any, it stays as it is."""
        if self._count == 0:
            return
        gram, count = self._gram, self._count
        mean = gram[-1, :-1] / count
        variance = gram.diagonal()[:-1] / count - mean.square()
        ridge = torch.zeros_like(gram.diagonal())
        # Of one text, or of equal ones, nothing varies: without a penalty there would be no one solution.
        least = max(_LEAST * float(gram.diagonal()[:-1].mean()), _LEAST)
        ridge[:-1] = max(_RIDGE * count * float(variance.mean()), least)
        found = torch.linalg.solve(gram + ridge.diag(), self._cross).float()
        linear.weight.copy_(found[:-1].T)
        linear.bias.copy_(found[-1])


@torch.no_grad()
def fit_projections(
    student: Student,
    pool: LessonPool,
    objective: CrossDistillation,
    words: WordDistillation | None,
    device: torch.device,
) -> None:
    """Make the projections of the losses the best maps from the student's states, as they are, to the teacher's.

    Random projections would first send their errors through a student that starts near the teacher, and undo part of
    what it knows. On the first `_TEXTS` texts of the training, without token pruning.
    """
    student.set_pruning(0.0)
    pooled_fit = Regression()
    word_fits = [Regression() for _ in words.projections] if words is not None else []
    batches = min(math.ceil(_TEXTS / pool.batch_size), pool.batches_per_epoch)
    for number in range(batches):
        batch = pool.batch(number, device)
        pooled, states = student.encode_layers(**batch.inputs)
        pooled_fit.add(batch.answers(pooled), batch.hidden)
        if words is not None and batch.words is not None:
            for state, fit, layer in zip(states, word_fits, words.map, strict=True):
                rows, means = word_means(state, batch.words)
                fit.add(means, pool.word_states(rows)[:, layer])
    pooled_fit.write_to(objective.projection)
    if words is not None:
        for fit, projection in zip(word_fits, words.projections, strict=True):
            fit.write_to(projection)  # type: ignore[arg-type]
