"""The training loop of a student."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from runners.distill.checkpoint import read_checkpoint, write_checkpoint
from runners.distill.fit import fit_projections
from runners.distill.losses import CrossDistillation, TaskLayer
from runners.distill.pool import Batch, LessonPool
from runners.distill.words import WordDistillation
from runners.lessons import Lessons
from runners.optimizer import parameter_groups, warm_up_then_decay
from runners.plan import FidelitySpec
from runners.precision import autocast
from runners.progress import ProgressLines
from space.config import Recipe
from space.families import Student

logger = logging.getLogger("shoebox.runners.distill")

WARMUP = 0.06
WEIGHT_DECAY = 0.01
# Token pruning is phased in over this share of the steps: all tokens at first, the configured share from then on,
# so that attention has learned what matters before anything is thrown away.
PRUNING_PHASE = 0.5


@dataclass(frozen=True)
class TrainingLog:
    """How a training went: steps, examples seen, and the loss averaged over each tenth of the steps."""

    steps: int
    examples: int
    losses: tuple[float, ...]


class DivergedError(RuntimeError):
    """The training loss became NaN or infinite."""


class Distillation:
    """The training of one student, which can stop and go on.

    The same arguments give the same weights, bit for bit, whether or not it was stopped, saved and restored on the
    way. After `run`, the student's `head` holds the folded task layer, and tokens are pruned as configured.

    Args:
        student: with its initial weights; trained in place.
        sources: lessons of the task's train split, then those of further text.
        shares: of all texts seen, those of each further source.
        teacher: brings the task layer and the scale of its outputs.
        recipe: how to train.
        fidelity: how long; epochs are counted in passes over the first source.
        regression: labels are real values.
        tokens: the student's vocabulary in the order of its ids.
        seed: of the order of examples, and of the sample of `fidelity.train_examples`. The weights of new
            projections are drawn from torch's global generator.
        device: where to train.
    """

    def __init__(
        self,
        student: Student,
        sources: Sequence[Lessons],
        shares: Sequence[float],
        teacher: TaskLayer,
        recipe: Recipe,
        fidelity: FidelitySpec,
        regression: bool,
        tokens: Sequence[str],
        seed: int,
        device: torch.device,
    ) -> None:
        self.student, self._recipe, self._device = student, recipe, device
        words = sources[0].words if recipe.learns_words else None
        self._pool = LessonPool(
            sources,
            shares,
            fidelity.batch_size,
            fidelity.train_examples,
            None if words is None else tokens,
            regression,
            seed,
        )
        self.steps = max(1, round(self._pool.batches_per_epoch * fidelity.epochs))
        self.done = 0
        self._objective = CrossDistillation(student.width, teacher, recipe, regression).to(device)
        self._words = None
        if words is not None:
            self._words = WordDistillation(student.width, student.depth, words).to(device)
        student.to(device)
        if recipe.initialization == "pretrained":
            fit_projections(student, self._pool, self._objective, self._words, device)
        self._optimizer = self._make_optimizer()
        self._losses = np.zeros(self.steps)

    def _make_optimizer(self) -> torch.optim.AdamW:
        # The head is written at the end, from the projection and the task layer.
        trained = [value for name, value in self.student.named_parameters() if not name.startswith("head.")]
        trained += self._objective.projection.parameters()
        if self._words is not None:
            trained += self._words.parameters()
        groups = parameter_groups(trained, WEIGHT_DECAY)
        for group in groups:
            group["lr"] = self._recipe.learning_rate
        if self._recipe.teacher_learning_rate > 0:
            rate = self._recipe.teacher_learning_rate
            groups.append({"params": list(self._objective.task_layer.parameters()), "weight_decay": 0.0, "lr": rate})
        for group in groups:
            group["peak"] = group["lr"]
        return torch.optim.AdamW(groups, fused=True)

    def run(self, until: int | None = None) -> TrainingLog:
        """Train up to step `until`, by default to the end.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        end = self.steps if until is None else min(until, self.steps)
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        progress = ProgressLines(logger, "Distilling", self.steps, before=self.done)
        self.student.to(self._device).train()
        while self.done < end:
            factor = warm_up_then_decay(self.done, self.steps, WARMUP)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            self.student.set_pruning(min(1.0, self.done / (PRUNING_PHASE * self.steps)))
            loss = self._loss(self._pool.batch(self.done, self._device))
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimizer.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the loss became {value} at step {self.done} of {self.steps}")
            self._losses[self.done] = value
            self.done += 1
            progress.update(self.done)
        self.student.set_pruning(1.0)
        self._objective.fold_into(self.student.head)
        self.student.cpu().eval()
        return self.log()

    def log(self) -> TrainingLog:
        """How the training went so far."""
        parts = np.array_split(self._losses[: self.done], min(10, max(1, self.done)))
        examples = round(self.done / self._pool.batches_per_epoch * self._pool.examples_per_epoch)
        return TrainingLog(self.done, examples, tuple(float(part.mean()) for part in parts if len(part)))

    def _loss(self, batch: Batch) -> Tensor:
        with autocast(self._device, self._pool.mean_length):
            pooled, states = self.student.encode_layers(**batch.inputs)
        loss: Tensor = self._objective(pooled.float(), batch.hidden, batch.logits, batch.labels)
        if self._words is None or batch.words is None:
            return loss
        wants_relations = self._recipe.relation_weight > 0
        found, relations = self._words(
            states, batch.words, self._pool.texts_of, self._pool.word_states, wants_relations
        )
        loss = loss + self._recipe.state_weight * found
        return loss if relations is None else loss + self._recipe.relation_weight * relations

    def save(self, path: Path) -> None:
        """Write all that `restore` needs to a safetensors file."""
        modules = {"student": self.student, "objective": self._objective, "words": self._words}
        write_checkpoint(path, modules, self._optimizer, self._losses[: self.done])

    def restore(self, path: Path) -> None:
        """Continue where the training stood that wrote `path`, made with the same arguments.

        Raises:
            InputError: the file is of another training, or damaged.
        """
        modules = {"student": self.student, "objective": self._objective, "words": self._words}
        losses = read_checkpoint(path, modules, self._optimizer)
        self.done = len(losses)
        self._losses[: self.done] = losses


def distil(
    student: Student,
    sources: Sequence[Lessons],
    shares: Sequence[float],
    teacher: TaskLayer,
    recipe: Recipe,
    fidelity: FidelitySpec,
    regression: bool,
    tokens: Sequence[str],
    seed: int,
    device: torch.device,
) -> TrainingLog:
    """Train a student in place, from start to end; arguments as of `Distillation`.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    training = Distillation(student, sources, shares, teacher, recipe, fidelity, regression, tokens, seed, device)
    return training.run()
