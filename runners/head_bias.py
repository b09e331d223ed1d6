"""A bias of the head that is fitted after the training of a student."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from runners.evaluate import run_student
from runners.prepared import Prepared
from space.families import Student

_TEXTS = 5000  # at most: a bias has few numbers
_PENALTY = 1e-4  # keeps them finite where the answers part the classes wholly


def balanced_bias(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What to add to the logits so that they tell the classes apart best, if each were as frequent as any other.

    Bias-corrected temperature scaling (Alexandari et al. 2020, arXiv 1901.06852), fitted to labels in which each class
    counts alike, as in the balanced losses of Menon et al. 2021 (arXiv 2007.07314). The temperature is fitted beside
    the bias and then left out, since it changes no decision: the bias is that at a temperature of 1, with mean 0.

    Args:
        logits: float [n, classes].
        labels: int [n]; a class without a text keeps a bias of 0, which is the mean of the others.
    """
    present, places = np.unique(labels, return_inverse=True)
    bias = np.zeros(logits.shape[1])
    bias[present] = _fitted_bias(logits[:, present], places)
    return bias


def _fitted_bias(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The same where each class has a text."""
    count, classes = logits.shape
    spread = max(float(logits.std()), 1e-6)
    inputs = logits.astype(np.float64) / spread
    weights = (1 / (classes * np.bincount(labels)))[labels]
    rows = np.arange(count)

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        answers = log_softmax(parameters[0] * inputs + parameters[1:], axis=1)
        error = np.exp(answers)
        error[rows, labels] -= 1
        error *= weights[:, None]
        slope = np.concatenate([[(error * inputs).sum()], error.sum(0)]) + _PENALTY * parameters
        return float(_PENALTY / 2 * parameters @ parameters - weights @ answers[rows, labels]), slope

    found = minimize(loss, np.concatenate([[1.0], np.zeros(classes)]), jac=True, method="L-BFGS-B").x
    # Answers that say nothing of the labels have no scale to undo.
    bias = found[1:] / found[0] * spread if found[0] > 0.1 else np.zeros(classes)
    return bias - bias.mean()


def balance_bias(student: Student, prepared: Prepared, entries: int) -> None:
    """Add `balanced_bias` of the texts that students learn from to a trained student's head, for each task that
    classifies texts.

    Args:
        student: as it will be exported; changed in place.
        entries: size of its vocabulary.
    """
    for name, taught in prepared.tasks.items():
        if taught.task.regression or taught.task.per_token:
            continue
        sample = taught.task.learned_train.evenly(_TEXTS)
        _, columns = prepared.shape.part(name)
        logits = run_student(student, prepared.encode(name, entries, sample))[:, columns]
        bias = balanced_bias(logits, sample.labels.astype(np.int64))
        with torch.no_grad():
            student.head.bias[columns] += torch.from_numpy(bias).float()


def with_balanced_bias(student: Student, prepared: Prepared, entries: int) -> Student:
    """A copy of a student with `balance_bias`, to be judged: the student itself may be trained on."""
    found = copy.deepcopy(student)
    balance_bias(found, prepared, entries)
    return found
