"""Cross-distillation from a teacher's cached answers (EI-BERT, arXiv 2507.04636)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.byte_rows import ByteRows
from space.config import Recipe

NO_LABEL = -100  # in place of a class where a text has no label; a regression has NaN


class TaskLayer(Protocol):
    """What the losses need of a teacher (`runners.teacher.TeacherOutputs`)."""

    @property
    def width(self) -> int: ...
    @property
    def head_weight(self) -> npt.NDArray[np.float32]: ...
    @property
    def head_bias(self) -> npt.NDArray[np.float32]: ...
    @property
    def train_hidden(self) -> npt.NDArray[np.float16] | ByteRows: ...
    @property
    def train_logits(self) -> npt.NDArray[Any]: ...


class CrossDistillation(nn.Module):
    """The teacher's task layer behind a learned projection of the student, and the losses on its answers.

    Args:
        student_width: width of the student's pooled state h_S.
        teacher: brings W_T, b_T and the scale of its hidden states.
        recipe: weights and temperature.
        regression: squared errors in place of cross-entropy and KL divergence.
    """

    def __init__(self, student_width: int, teacher: TaskLayer, recipe: Recipe, regression: bool) -> None:
        super().__init__()
        self.recipe, self.regression = recipe, regression
        self.projection = nn.Linear(student_width, teacher.width)
        self.task_layer = nn.Linear(teacher.width, len(teacher.head_bias))
        sample = np.asarray(teacher.train_hidden[:4096], np.float32)
        # The paper leaves the scale of c open: errors are measured in standard deviations of h_T, and regression
        # targets in standard deviations of the teacher's outputs, so that weights mean the same on every task.
        self.hidden_variance = max(float(sample.var(0).mean()), 1e-12)
        self.target_variance = max(float(np.asarray(teacher.train_logits).var()), 1e-12) if regression else 1.0
        with torch.no_grad():
            self.task_layer.weight.copy_(torch.from_numpy(np.array(teacher.head_weight)))
            self.task_layer.bias.copy_(torch.from_numpy(np.array(teacher.head_bias)))

    def forward(
        self, pooled: Tensor, hidden: Tensor, logits: Tensor, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """L_S, plus L_T where the teacher's learning rate is not 0; both are means over the batch.

        A text without a label counts, with 0 for its loss on the label.

        Args:
            pooled: the student's h_S [batch, student width].
            hidden: the teacher's h_T [batch, teacher width]; with a gradient where its encoder learns.
            logits: the teacher's cached logits [batch, outputs].
            labels: int64 [batch], `NO_LABEL` for none, or float [batch] for a regression, NaN for none.
            weights: float [batch], how much the teacher's answers count for the student, with mean 1 over the training;
                by default all alike. They leave out the loss on labels and what the teacher learns.
        """
        projected = self.projection(pooled)
        mutual = self.recipe.teacher_learning_rate > 0
        weight, bias = self.task_layer.weight.detach(), self.task_layer.bias.detach()
        student = functional.linear(projected, weight, bias)
        taught = functional.linear(hidden.detach(), weight, bias) if mutual else logits
        loss = self._answers(student, taught, labels, weights) + self._states(projected, hidden.detach(), weights)
        if mutual:
            loss = loss + self._answers(self.task_layer(hidden), student.detach(), labels)
            if hidden.requires_grad:
                loss = loss + self._states(hidden, projected.detach())
        return loss

    def _states(self, learner: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
        """`c MSE(learner, other)`."""
        return self.recipe.hidden_weight * squared_error(learner, other, weights) / self.hidden_variance

    def _answers(self, learner: Tensor, other: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """`a CE(learner, labels) + b tau^2 KL(other || learner)`, or their squared errors."""
        recipe = self.recipe
        if self.regression:
            # Where there is no label, the answer itself stands in for it, with an error and a gradient of 0.
            to_label = functional.mse_loss(learner[:, 0], torch.where(labels.isnan(), learner[:, 0], labels))
            to_other = squared_error(learner, other, weights)
            return (recipe.label_weight * to_label + recipe.logit_weight * to_other) / self.target_variance
        tau = recipe.temperature
        logs = functional.log_softmax(learner / tau, -1), functional.log_softmax(other / tau, -1)
        if weights is None:
            divergence = functional.kl_div(*logs, reduction="batchmean", log_target=True)
        else:
            each = functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)
            divergence = (weights * each).mean()
        to_label = functional.cross_entropy(learner, labels, ignore_index=NO_LABEL, reduction="sum") / len(labels)
        return recipe.label_weight * to_label + recipe.logit_weight * tau**2 * divergence

    @torch.no_grad()
    def fold_into(self, head: nn.Linear, first: int = 0) -> None:
        """Write `W_T P` and its bias into the student's head, so that the file needs one small product.

        Args:
            head: of the student.
            first: where this task's logits begin among those of the head.
        """
        rows = slice(first, first + len(self.task_layer.bias))
        head.weight[rows] = self.task_layer.weight @ self.projection.weight
        head.bias[rows] = self.task_layer.weight @ self.projection.bias + self.task_layer.bias


def squared_error(learner: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of rows [n, d], each counting by its weight [n] where weights are given."""
    if weights is None:
        return functional.mse_loss(learner, other)
    return (weights * functional.mse_loss(learner, other, reduction="none").mean(-1)).mean()


def without_labels(count: int, regression: bool) -> npt.NDArray[Any]:
    """Labels of so many texts that have none."""
    return np.full(count, np.nan, np.float32) if regression else np.full(count, NO_LABEL, np.int64)
