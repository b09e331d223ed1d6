"""What students start from: the teacher of their task, or the mean of the teachers of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from runners.teacher.prepare import load_teacher
from runners.teacher.statistics import Inside, LayerStatistics
from runners.teacher.store import TeacherOutputs


@dataclass(frozen=True, eq=False)
class Origin:
    """An encoder and its embeddings, for `runners.initialization`.

    Of several teachers it is the mean of their weights. They were fine-tuned from one pretrained encoder for a few
    epochs each; the mean of such models lies in the same valley of the loss (model soups, Wortsman et al. 2022,
    arXiv 2203.05482), and prefers no task. Of one teacher it is that teacher.

    Attributes:
        teachers: one of each task.
        word_embeddings: float32 [vocabulary, embedding width].
        position_embeddings: float32 [positions, embedding width], or None where the encoder has no such table.
        vocabulary_count: float64 [vocabulary], occurrences in the train splits, all with the same total.
        median_length: of the train inputs in word pieces.
    """

    teachers: tuple[TeacherOutputs, ...]
    word_embeddings: npt.NDArray[np.float32]
    position_embeddings: npt.NDArray[np.float32] | None
    vocabulary_count: npt.NDArray[np.float64]
    median_length: float

    @classmethod
    def of(cls, teachers: Sequence[TeacherOutputs]) -> Origin:
        """The mean of these teachers, all fine-tuned from the same encoder."""
        positions = [teacher.position_embeddings for teacher in teachers if teacher.position_embeddings is not None]
        return cls(
            teachers=tuple(teachers),
            word_embeddings=_mean_table([teacher.word_embeddings for teacher in teachers]),
            position_embeddings=_mean_table(positions) if positions else None,
            vocabulary_count=sum_of_equals([teacher.vocabulary_count for teacher in teachers]),
            median_length=float(np.mean([teacher.median_length for teacher in teachers])),
        )

    @property
    def model(self) -> str:
        """The id or path that the study named."""
        return self.teachers[0].model

    def encoder(self) -> nn.Module:
        """The torch encoder, on the CPU in evaluation mode."""
        found = load_teacher(self.teachers[0]).encoder
        total = {name: value.double() for name, value in found.state_dict().items()}
        for teacher in self.teachers[1:]:  # one in memory at a time: there may be fifty
            for name, value in load_teacher(teacher).encoder.state_dict().items():
                total[name] += value
        found.load_state_dict({name: value / len(self.teachers) for name, value in total.items()})
        return found


def sum_of_equals(counts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Sum of arrays of which each counts the same: they are scaled to their mean total first."""
    totals = [float(count.sum()) for count in counts]
    common = sum(totals) / len(totals)
    found = np.zeros(counts[0].shape)
    for count, total in zip(counts, totals, strict=True):
        found += count * (common / total if total else 1.0)
    return found


def mean_statistics(statistics: Sequence[LayerStatistics]) -> LayerStatistics:
    """The statistics of the tokens of several tasks, of which each counts the same; of one, its own.

    They are taken from each task's own teacher on its own text, which needs no further pass of any model.
    """
    state_mean, state_covariance = _pooled([(each.state_mean, each.state_covariance) for each in statistics])
    insides = [each.inside for each in statistics if each.inside is not None]
    if len(insides) < len(statistics):
        return LayerStatistics(state_mean, state_covariance, None)
    middle_mean, middle_covariance = _pooled([(inside.middle_mean, inside.middle_covariance) for inside in insides])
    return LayerStatistics(
        state_mean=state_mean,
        state_covariance=state_covariance,
        inside=Inside(
            middle_mean=middle_mean,
            middle_covariance=middle_covariance,
            head_power=_mean([inside.head_power for inside in insides]),
            neuron_power=_mean([inside.neuron_power for inside in insides]),
            neuron_mean=_mean([inside.neuron_mean for inside in insides]),
        ),
    )


def _pooled(moments: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Means [L, d] and covariances [L, d, d] of a mixture in equal parts."""
    mean = _mean([each for each, _ in moments])
    apart = [each - mean for each, _ in moments]
    spread = _mean([torch.einsum("li,lj->lij", each, each) for each in apart])
    return mean, _mean([covariance for _, covariance in moments]) + spread


def _mean_table(tables: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Of memory-mapped tables, one in memory at a time."""
    total = np.array(tables[0])
    for table in tables[1:]:
        total += table
    return total / np.float32(len(tables))


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).double().mean(0).to(tensors[0].dtype)
