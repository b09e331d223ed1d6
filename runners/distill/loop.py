"""The training loop of a student."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from runners.distill.checkpoint import read_checkpoint, write_checkpoint
from runners.distill.courses import Course, CoursePool
from runners.distill.fit import fit_projections
from runners.distill.identity import training_digest
from runners.distill.losses import CrossDistillation
from runners.distill.pool import Batch
from runners.distill.schedules import HELD_OUT, JointSchedule, StagewiseSchedule
from runners.distill.words import WordDistillation
from runners.optimizer import parameter_groups
from runners.plan import FidelitySpec
from runners.precision import autocast, student_precision
from runners.progress import ProgressLines
from space.config import Recipe
from space.families import Student

logger = logging.getLogger("shoebox.runners.distill")

WEIGHT_DECAY = 0.01
# Token pruning is soft for this share of the steps and hard from then on, so that attention has learned what matters
# before anything is thrown away.
PRUNING_PHASE = 0.5
# Searched scales are searched again every so many steps: in between they follow the largest entry of their block.
CLIPPING_PERIOD = 50


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
    way. After `run`, the student's `head` holds the folded task layers, and tokens are pruned as configured. With
    quantisation after training, the student still computes in full precision: rounding it is left to the caller.

    Of several tasks each has losses of its own: its teacher's task layer behind its own projection, and projections of
    its own onto its teacher's states of words, since fine-tuning has taken each teacher's states another way.

    With `schedule: stagewise` losses come one after another (`runners.distill.schedules`), in as many steps.

    A teacher that learns too stays in evaluation mode, since dropout would make a training that goes on differ from one
    that was not stopped.

    Args:
        student: with its initial weights; trained in place.
        courses: what to learn of each task, in the order of the student's logits.
        recipe: how to train.
        fidelity: how long; epochs are counted in passes over the train splits (`CoursePool`).
        tokens: the student's vocabulary in the order of its ids.
        seed: of the order of examples, and of the sample of `fidelity.train_examples`. The weights of new
            projections are drawn from torch's global generator.
        device: where to train.
    """

    def __init__(
        self,
        student: Student,
        courses: Sequence[Course],
        recipe: Recipe,
        fidelity: FidelitySpec,
        tokens: Sequence[str],
        seed: int,
        device: torch.device,
    ) -> None:
        learning = courses if recipe.updates_encoder else ()
        self._encoders = [course.encoder for course in learning if course.encoder is not None]
        taught_texts = (source.taught is not None for course in learning for source in course.sources)
        if len(self._encoders) < len(learning) or not all(taught_texts):
            raise ValueError("teacher_update: encoder needs the teachers, and all texts in their word pieces")
        for encoder in self._encoders:
            encoder.to(device).eval()
        self.student, self._recipe, self._device = student, recipe, device
        words = [course.sources[0].words for course in courses if recipe.learns_words]
        taught = [states for states in words if states is not None]
        self._fidelity, self._seed = fidelity, seed
        self._courses, self._tokens = courses, tokens
        self._pool = self._make_pool(courses, tokens if taught else None)
        self.steps = max(1, round(self._pool.whole_batches * fidelity.epochs))
        self.done = 0
        student.set_rounding(recipe.quantization == "aware")
        student.use_clipping(recipe.clipping)
        self._searches_clipping = recipe.clipping in ("auto", "searched") and recipe.quantization == "aware"
        self._objectives = [
            CrossDistillation(student.width, course.teacher, recipe, course.regression).to(device) for course in courses
        ]
        self._words = [WordDistillation(student.width, student.depth, states).to(device) for states in taught]
        student.to(device)
        # A student of a supernet brings the projection of pooled states along, but none of words.
        if recipe.initialization == "pretrained" or (recipe.initialization == "supernet" and taught):
            for index, (pool, objective) in enumerate(zip(self._pool.pools, self._objectives, strict=True)):
                fit_projections(student, pool, objective, self._words[index] if taught else None, device)
        self._optimizer = self._make_optimizer()
        self._losses = np.zeros(self.steps)
        self._schedule = self._make_schedule(courses)

    def _make_pool(self, courses: Sequence[Course], tokens: Sequence[str] | None) -> CoursePool:
        size, sample = self._fidelity.batch_size, self._fidelity.train_examples
        held_out = HELD_OUT if self._recipe.schedule == "stagewise" else 0.0
        return CoursePool(courses, self._recipe.task_exponent, size, sample, tokens, self._seed, held_out)

    def _make_schedule(self, courses: Sequence[Course]) -> JointSchedule:
        if self._recipe.schedule == "joint":
            return JointSchedule(self._pool, self._recipe, self.steps)
        labelled = self._pool
        if any(len(course.sources) > 1 for course in courses):
            labelled = self._make_pool(
                [replace(course, sources=course.sources[:1], shares=()) for course in courses], None
            )
        return StagewiseSchedule(
            self._pool,
            self._recipe,
            self.steps,
            labelled,
            self.student,
            self._objectives,
            self._words,
            self._optimizer,
            self._loss,
            self._device,
        )

    def _make_optimizer(self) -> torch.optim.AdamW:
        # The head is written at the end, from the projection and the task layer.
        trained = [value for name, value in self.student.named_parameters() if not name.startswith("head.")]
        for objective in self._objectives:
            trained += objective.projection.parameters()
        for words in self._words:
            trained += words.parameters()
        groups = parameter_groups(trained, WEIGHT_DECAY)
        for group in groups:
            group["lr"] = self._recipe.learning_rate
        if self._recipe.teacher_learning_rate > 0:
            given = [value for objective in self._objectives for value in objective.task_layer.parameters()]
            given += self._encoder_parameters()
            groups.append({"params": given, "weight_decay": 0.0, "lr": self._recipe.teacher_learning_rate})
        for group in groups:
            group["peak"] = group["lr"]
        return torch.optim.AdamW(groups, fused=True)

    def _encoder_parameters(self) -> list[nn.Parameter]:
        """All of the teachers but their task layers, which the objectives hold."""
        named = [pair for encoder in self._encoders for pair in encoder.named_parameters()]
        return [value for name, value in named if not name.startswith("head.")]

    def run(self, until: int | None = None) -> TrainingLog:
        """Train up to step `until`, by default to the end.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        end = self.steps if until is None else min(until, self.steps)
        encoders = self._encoder_parameters()
        apart = set(encoders)
        parameters = [
            value for group in self._optimizer.param_groups for value in group["params"] if value not in apart
        ]
        progress = ProgressLines(logger, "Distilling", self.steps, before=self.done)
        self.student.to(self._device).train()
        while self.done < end:
            factor = self._schedule.begin(self.done)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            self.student.set_pruning(min(1.0, self.done / (PRUNING_PHASE * self.steps)))
            if self._searches_clipping and self.done % CLIPPING_PERIOD == 0:
                self.student.search_clipping()
            loss = self._loss(*self._schedule.batch(self.done, self._device))
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            nn.utils.clip_grad_norm_(encoders, 1.0)
            self._optimizer.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise DivergedError(f"the loss became {value} at step {self.done} of {self.steps}")
            self._losses[self.done] = value
            self.done += 1
            self._schedule.end(self.done)
            progress.update(self.done)
        self.student.set_pruning(1.0)
        first = 0
        for objective in self._objectives:
            objective.fold_into(self.student.head, first)
            first += len(objective.task_layer.bias)
        self.student.cpu().eval()
        return self.log()

    @torch.no_grad()
    def load_projection(self, weight: Tensor, bias: Tensor) -> None:
        """Start the projection of the pooled state of the only course from given values.

        Args:
            weight: float [teacher width, student width].
            bias: float [teacher width].
        """
        (objective,) = self._objectives
        objective.projection.weight.copy_(weight)
        objective.projection.bias.copy_(bias)

    @torch.no_grad()
    def mean_loss(self, batches: int) -> float:
        """The loss of the student as it is, on so many batches of the train splits; nothing is learned."""
        self.student.to(self._device).eval()
        self.student.set_pruning(1.0)
        count = min(batches, self._pool.batches_per_epoch)
        found = [float(self._loss(*self._pool.batch(number, self._device))) for number in range(count)]
        return sum(found) / count

    def log(self) -> TrainingLog:
        """How the training went so far."""
        parts = np.array_split(self._losses[: self.done], min(10, max(1, self.done)))
        examples = round(self.done / self._pool.batches_per_epoch * self._pool.examples_per_epoch)
        return TrainingLog(self.done, examples, tuple(float(part.mean()) for part in parts if len(part)))

    def _loss(self, course: int, batch: Batch) -> Tensor:
        pool = self._pool.pools[course]
        with student_precision(self._device):
            pooled, states = self.student.encode_layers(**batch.inputs)
        hidden = batch.hidden
        if self._encoders:
            with autocast(self._device):
                hidden = self._encoders[course](batch.taught)[1]
        answers = batch.answers(pooled).float()
        loss: Tensor = self._objectives[course](answers, hidden, batch.logits, batch.labels, batch.weights)
        recipe = self._schedule.recipe
        if batch.words is None or not recipe.learns_words:
            return loss
        wants_relations = recipe.relation_weight > 0
        found, relations = self._words[course](
            states, batch.words, pool.texts_of, pool.word_states, wants_relations, pool.weights_of
        )
        loss = loss + recipe.state_weight * found
        return loss if relations is None else loss + recipe.relation_weight * relations

    def _modules(self) -> dict[str, nn.Module]:
        learnt = {"objectives": nn.ModuleList(self._objectives), "words": nn.ModuleList(self._words)}
        encoders = nn.ModuleList(self._encoders)
        return {"student": self.student, **learnt, "encoders": encoders, **self._schedule.modules()}

    @cached_property
    def _digest(self) -> str:
        return training_digest(self._courses, self._recipe, self._fidelity, self._tokens, self._seed)

    def save(self, path: Path) -> None:
        """Write all that `restore` needs to a safetensors file."""
        write_checkpoint(path, self._modules(), self._optimizer, self._losses[: self.done], self._digest)

    def restore(self, path: Path) -> None:
        """Continue where the training stood that wrote `path`, made with the same arguments.

        Raises:
            InputError: the file is of another training, or damaged.
        """
        losses = read_checkpoint(path, self._modules(), self._optimizer, self.steps, self._digest)
        self.done = len(losses)
        self._losses[: self.done] = losses


def distil(
    student: Student,
    courses: Sequence[Course],
    recipe: Recipe,
    fidelity: FidelitySpec,
    tokens: Sequence[str],
    seed: int,
    device: torch.device,
) -> TrainingLog:
    """Train a student in place, from start to end; arguments as of `Distillation`.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    return Distillation(student, courses, recipe, fidelity, tokens, seed, device).run()
