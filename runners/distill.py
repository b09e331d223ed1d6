"""Cross-distillation of a student from a teacher's cached outputs (EI-BERT, arXiv 2507.04636)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.batches import Encoded, collate, shuffled_batches
from runners.plan import FidelitySpec
from runners.precision import autocast
from runners.progress import ProgressLines
from runners.teacher import TeacherOutputs
from space.config import Recipe
from space.families import Student

logger = logging.getLogger("shoebox.runners.distill")

WARMUP = 0.06
WEIGHT_DECAY = 0.01
# Token pruning is phased in over this share of the steps: all tokens at first, the configured share from then on,
# so that attention has learned what matters before anything is thrown away.
PRUNING_PHASE = 0.5


class CrossDistillation(nn.Module):
    """The teacher's task layer behind a learned projection of the student, and the two losses.

    Args:
        student_width: width of the student's pooled state h_S.
        teacher: brings W_T, b_T and the scale of its hidden states.
        recipe: weights and temperature.
        regression: squared errors in place of cross-entropy and KL divergence.
    """

    def __init__(self, student_width: int, teacher: TeacherOutputs, recipe: Recipe, regression: bool) -> None:
        super().__init__()
        self.recipe, self.regression = recipe, regression
        self.projection = nn.Linear(student_width, teacher.width)
        self.task_layer = nn.Linear(teacher.width, len(teacher.head_bias))
        sample = np.asarray(teacher.train_hidden[:4096], np.float32)
        # The paper leaves the scale of c open: errors are measured in standard deviations of h_T, and regression
        # targets in standard deviations of the teacher's outputs, so that weights mean the same on every task.
        self.hidden_variance = max(float(sample.var(0).mean()), 1e-12)
        self.target_variance = max(float(np.asarray(teacher.train_logits).var()), 1e-12)
        with torch.no_grad():
            self.task_layer.weight.copy_(torch.from_numpy(np.array(teacher.head_weight)))
            self.task_layer.bias.copy_(torch.from_numpy(np.array(teacher.head_bias)))

    def forward(self, pooled: Tensor, hidden: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """L_S, plus L_T of the task layer where its learning rate is not 0; both are means over the batch.

        Args:
            pooled: the student's h_S [batch, student width].
            hidden: the teacher's h_T [batch, teacher width].
            logits: the teacher's cached logits [batch, outputs].
            labels: int64 [batch], or float [batch] for a regression.
        """
        projected = self.projection(pooled)
        mutual = self.recipe.teacher_learning_rate > 0
        weight, bias = self.task_layer.weight.detach(), self.task_layer.bias.detach()
        student = functional.linear(projected, weight, bias)
        taught = functional.linear(hidden, weight, bias) if mutual else logits
        loss = self._answers(student, taught, labels)
        if self.recipe.hidden_weight > 0:
            loss = loss + self.recipe.hidden_weight * functional.mse_loss(projected, hidden) / self.hidden_variance
        if mutual:
            loss = loss + self._answers(self.task_layer(hidden), student.detach(), labels)
        return loss

    def _answers(self, learner: Tensor, other: Tensor, labels: Tensor) -> Tensor:
        """`a CE(learner, labels) + b tau^2 KL(other || learner)`, or their squared errors."""
        recipe = self.recipe
        if self.regression:
            to_label = functional.mse_loss(learner[:, 0], labels)
            to_other = functional.mse_loss(learner, other)
            return (recipe.label_weight * to_label + recipe.logit_weight * to_other) / self.target_variance
        tau = recipe.temperature
        divergence = functional.kl_div(
            functional.log_softmax(learner / tau, -1),
            functional.log_softmax(other / tau, -1),
            reduction="batchmean",
            log_target=True,
        )
        label_loss = functional.cross_entropy(learner, labels)
        return recipe.label_weight * label_loss + recipe.logit_weight * tau**2 * divergence

    @torch.no_grad()
    def fold_into(self, head: nn.Linear) -> None:
        """Write `W_T P` and its bias into the student's head, so that the file needs one small product."""
        head.weight.copy_(self.task_layer.weight @ self.projection.weight)
        head.bias.copy_(self.task_layer.weight @ self.projection.bias + self.task_layer.bias)


@dataclass(frozen=True)
class TrainingLog:
    """How a training went: steps, examples seen, and the loss averaged over each tenth of the steps."""

    steps: int
    examples: int
    losses: tuple[float, ...]


class DivergedError(RuntimeError):
    """The training loss became NaN or infinite."""


def distil(
    student: Student,
    encoded: Encoded,
    labels: np.ndarray,
    teacher: TeacherOutputs,
    recipe: Recipe,
    fidelity: FidelitySpec,
    regression: bool,
    seed: int,
    device: torch.device,
) -> TrainingLog:
    """Train a student in place; its `head` then holds the folded task layer.

    Args:
        student: with its initial weights.
        encoded: the train split in the student's word pieces.
        labels: of the train split.
        teacher: its logits and hidden states of the same rows.
        seed: of the order of examples and of the sample of `fidelity.train_examples`.
        device: where to train.

    Raises:
        DivergedError: the loss became NaN or infinite.
    """
    generator = np.random.default_rng(seed)
    rows = _sample(len(encoded), fidelity.train_examples, generator)
    per_epoch = math.ceil(len(rows) / fidelity.batch_size)
    steps = max(1, round(per_epoch * fidelity.epochs))
    objective = CrossDistillation(student.width, teacher, recipe, regression).to(device)
    student.to(device).train()
    optimizer = _optimizer(student, objective, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses = np.zeros(steps)
    progress = ProgressLines(logger, "Distilling", steps)
    for step, batch in enumerate(_batches(encoded.lengths[rows], fidelity.batch_size, steps, generator)):
        chosen = rows[batch]
        student.set_pruning(min(1.0, step / (PRUNING_PHASE * steps)))
        with autocast(device):
            pooled = student.encode(**collate(encoded, chosen, device))
        loss = objective(
            pooled.float(),
            torch.from_numpy(teacher.train_hidden[chosen].astype(np.float32)).to(device),
            torch.from_numpy(np.array(teacher.train_logits[chosen])).to(device),
            torch.from_numpy(labels[chosen]).to(device),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses[step] = float(loss.detach())
        if not math.isfinite(losses[step]):
            raise DivergedError(f"the loss became {losses[step]} at step {step} of {steps}")
        progress.update(step + 1)
    student.set_pruning(1.0)
    objective.fold_into(student.head)
    student.cpu().eval()
    parts = np.array_split(losses, min(10, steps))
    return TrainingLog(steps, steps * fidelity.batch_size, tuple(float(part.mean()) for part in parts))


def _sample(count: int, wanted: int | None, generator: np.random.Generator) -> np.ndarray:
    if wanted is None or wanted >= count:
        return np.arange(count)
    return np.sort(generator.choice(count, wanted, replace=False))


def _batches(lengths: np.ndarray, batch_size: int, steps: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """So many batches, over as many epochs as they take."""
    done = 0
    while done < steps:
        for batch in shuffled_batches(lengths, batch_size, generator):
            if done == steps:
                return
            yield batch
            done += 1


def _optimizer(student: Student, objective: CrossDistillation, recipe: Recipe) -> torch.optim.AdamW:
    parameters = [*student.named_parameters(), *objective.projection.named_parameters()]
    # The head is written at the end, from the projection and the task layer.
    parameters = [(name, value) for name, value in parameters if not name.startswith("head.")]
    groups = [
        {"params": [value for _, value in parameters if value.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [value for _, value in parameters if value.ndim < 2], "weight_decay": 0.0},
    ]
    if recipe.teacher_learning_rate > 0:
        task_layer = list(objective.task_layer.parameters())
        groups.append({"params": task_layer, "weight_decay": 0.0, "lr": recipe.teacher_learning_rate})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    rising = max(1.0, WARMUP * steps)
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1.0, steps - rising)))
