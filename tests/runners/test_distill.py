"""The losses against values computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from runners.distill import CrossDistillation
from runners.distill.losses import NO_LABEL
from space import Recipe

WIDTH, TEACHER_WIDTH, OUTPUTS, BATCH = 3, 4, 2, 5


def recipe(**changes) -> Recipe:
    fields = {
        "learning_rate": 1e-3,
        "label_weight": 0.0,
        "logit_weight": 0.0,
        "hidden_weight": 0.0,
        "temperature": 1.0,
        "teacher_learning_rate": 0.0,
        "initialization": "random",
    }
    return Recipe(**{**fields, **changes})


@pytest.fixture
def teacher():
    generator = np.random.default_rng(0)
    return SimpleNamespace(
        width=TEACHER_WIDTH,
        train_hidden=generator.normal(size=(50, TEACHER_WIDTH)).astype(np.float16),
        train_logits=generator.normal(size=(50, OUTPUTS)).astype(np.float32),
        head_weight=generator.normal(size=(OUTPUTS, TEACHER_WIDTH)).astype(np.float32),
        head_bias=generator.normal(size=OUTPUTS).astype(np.float32),
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(BATCH, WIDTH, generator=generator),
        torch.randn(BATCH, TEACHER_WIDTH, generator=generator),
        torch.randn(BATCH, OUTPUTS, generator=generator),
        torch.tensor([0, 1, 1, 0, 1]),
    )


def logits_by_hand(objective: CrossDistillation, pooled: torch.Tensor) -> np.ndarray:
    projected = pooled.numpy() @ objective.projection.weight.detach().numpy().T
    projected = projected + objective.projection.bias.detach().numpy()
    return projected @ objective.task_layer.weight.detach().numpy().T + objective.task_layer.bias.detach().numpy()


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def test_label_loss_is_cross_entropy(teacher, batch):
    objective = CrossDistillation(WIDTH, teacher, recipe(label_weight=0.7), regression=False)
    expected = -log_softmax(logits_by_hand(objective, batch[0]))[np.arange(BATCH), batch[3].numpy()].mean()
    assert objective(*batch).item() == pytest.approx(0.7 * expected, rel=1e-5)


def test_logit_loss_is_tau_squared_times_the_divergence_from_the_teacher(teacher, batch):
    objective = CrossDistillation(WIDTH, teacher, recipe(logit_weight=1.5, temperature=3.0), regression=False)
    student = log_softmax(logits_by_hand(objective, batch[0]) / 3)
    other = log_softmax(batch[2].numpy() / 3)
    expected = 1.5 * 9 * (np.exp(other) * (other - student)).sum(-1).mean()
    assert objective(*batch).item() == pytest.approx(expected, rel=1e-5)


def test_hidden_loss_is_measured_in_deviations_of_the_teacher(teacher, batch):
    objective = CrossDistillation(WIDTH, teacher, recipe(hidden_weight=2.0), regression=False)
    with torch.no_grad():
        error = ((objective.projection(batch[0]) - batch[1]) ** 2).mean().item()
    variance = teacher.train_hidden.astype(np.float32).var(0).mean()
    assert objective(*batch).item() == pytest.approx(2 * error / variance, rel=1e-4)


def test_regression_uses_squared_errors(teacher, batch):
    teacher.head_weight, teacher.head_bias = teacher.head_weight[:1], teacher.head_bias[:1]
    teacher.train_logits = teacher.train_logits[:, :1]
    objective = CrossDistillation(WIDTH, teacher, recipe(label_weight=1.0, logit_weight=0.5), regression=True)
    labels = batch[3].float()
    answers = logits_by_hand(objective, batch[0])[:, 0]
    expected = ((answers - labels.numpy()) ** 2).mean() + 0.5 * ((answers - batch[2][:, 0].numpy()) ** 2).mean()
    found = objective(batch[0], batch[1], batch[2][:, :1], labels).item()
    assert found == pytest.approx(expected / teacher.train_logits.var(), rel=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1e-4])
def test_gradients_reach_the_task_layer_only_under_the_mutual_loss(teacher, batch, rate):
    weights = {"label_weight": 1.0, "logit_weight": 1.0, "hidden_weight": 1.0, "teacher_learning_rate": rate}
    objective = CrossDistillation(WIDTH, teacher, recipe(**weights), regression=False)
    objective(*batch).backward()
    assert objective.projection.weight.grad.abs().sum() > 0
    assert (objective.task_layer.weight.grad is not None) == (rate > 0)


def test_mutual_loss_adds_the_teachers_own(teacher, batch):
    weights = {"label_weight": 0.5, "logit_weight": 1.0, "temperature": 2.0, "teacher_learning_rate": 1e-4}
    objective = CrossDistillation(WIDTH, teacher, recipe(**weights), regression=False)
    student = logits_by_hand(objective, batch[0])
    taught = batch[1].numpy() @ teacher.head_weight.T + teacher.head_bias
    rows, labels = np.arange(BATCH), batch[3].numpy()

    def loss(learner: np.ndarray, other: np.ndarray) -> float:
        cross_entropy = -log_softmax(learner)[rows, labels].mean()
        soft_learner, soft_other = log_softmax(learner / 2), log_softmax(other / 2)
        return 0.5 * cross_entropy + 4 * (np.exp(soft_other) * (soft_other - soft_learner)).sum(-1).mean()

    assert objective(*batch).item() == pytest.approx(loss(student, taught) + loss(taught, student), rel=1e-5)


def test_a_learning_encoder_follows_the_students_states_too(teacher, batch):
    """L_T = c MSE(P h_S, h_T) once its state has a gradient; neither side's loss moves the other."""
    weights = {"hidden_weight": 2.0, "teacher_learning_rate": 1e-4, "teacher_update": "encoder"}
    objective = CrossDistillation(WIDTH, teacher, recipe(**weights), regression=False)
    once = objective(*batch)
    hidden = batch[1].clone().requires_grad_()
    twice = objective(batch[0], hidden, *batch[2:])
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-5)
    twice.backward()
    with torch.no_grad():
        error = objective.projection(batch[0]) - batch[1]
    expected = -2.0 * 2 * error / error.numel() / objective.hidden_variance
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(objective.projection.bias.grad, -expected.sum(0), rtol=1e-4, atol=1e-6)


def test_folded_head_answers_like_projection_and_task_layer(teacher, batch):
    objective = CrossDistillation(WIDTH, teacher, recipe(label_weight=1.0), regression=False)
    head = torch.nn.Linear(WIDTH, OUTPUTS)
    objective.fold_into(head)
    with torch.no_grad():
        found = head(batch[0]).numpy()
    np.testing.assert_allclose(found, logits_by_hand(objective, batch[0]), atol=1e-5)


def test_a_text_without_a_label_has_no_loss_on_it(teacher, batch):
    pooled, hidden, logits, labels = batch
    unknown = labels.clone()
    unknown[2:] = NO_LABEL
    objective = CrossDistillation(WIDTH, teacher, recipe(label_weight=0.7), regression=False)
    expected = -log_softmax(logits_by_hand(objective, pooled))[[0, 1], labels[:2].numpy()].sum() / BATCH
    assert objective(pooled, hidden, logits, unknown).item() == pytest.approx(0.7 * expected, rel=1e-5)


def test_a_missing_label_of_a_regression_has_no_gradient(teacher, batch):
    teacher.head_weight, teacher.head_bias = teacher.head_weight[:1], teacher.head_bias[:1]
    teacher.train_logits = teacher.train_logits[:, :1]
    objective = CrossDistillation(WIDTH, teacher, recipe(label_weight=1.0), regression=True)
    labels = torch.tensor([1.0, float("nan"), float("nan"), float("nan"), float("nan")])
    pooled = batch[0].requires_grad_()
    objective(pooled, batch[1], batch[2][:, :1], labels).backward()
    assert torch.isfinite(objective.projection.weight.grad).all()
    assert pooled.grad[0].abs().sum() > 0
    assert (pooled.grad[1:] == 0).all()


@pytest.mark.parametrize("rate", [0.0, 1e-4])
def test_weights_count_for_the_teachers_answers_alone(teacher, batch, rate):
    """A batch of one text twice over, once weighed, is the sum of its parts; equal weights change nothing."""
    parts = ({"hidden_weight": 2.0}, {"logit_weight": 1.5, "temperature": 2.0}, {"label_weight": 0.7})
    weights = torch.tensor([0.0, 0.5, 1.5, 2.0, 1.0])
    for part in parts:
        objective = CrossDistillation(WIDTH, teacher, recipe(**part), regression=False)
        rows = [objective(*(value[row : row + 1] for value in batch)) for row in range(BATCH)]
        counts = torch.ones(BATCH) if "label_weight" in part else weights
        expected = float((counts * torch.stack(rows)).mean().detach())
        assert objective(*batch, weights).item() == pytest.approx(expected, rel=1e-5)
    whole = {name: value for part in parts for name, value in part.items()}
    objective = CrossDistillation(WIDTH, teacher, recipe(**whole, teacher_learning_rate=rate), regression=False)
    assert objective(*batch, torch.ones(BATCH)).item() == pytest.approx(objective(*batch).item(), rel=1e-6)
    learned = objective(*batch, weights).item() - objective(*batch).item()
    assert learned != pytest.approx(0, abs=1e-4)
