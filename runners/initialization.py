"""Students that start from what the teacher knows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runners.teacher.statistics import Inside, LayerStatistics, bert_layers
from space.errors import InputError
from space.families import Student
from space.families.base import ProjectedLayer
from space.vocabulary import Vocabulary

# Deviation of embeddings that start from the teacher. The step of AdamW does not grow with a weight, so that larger
# entries keep more of what the teacher knows: on SST-2 the divergence from the teacher after one epoch falls from 0.259
# at 0.02 (that of random embeddings) to 0.246 at 0.2; on little text 0.2 learns new meanings too slowly.
TEACHER_DEVIATION = 0.1
_TOKENS = 8192  # sampled to fit the projection of the embeddings


class Tables(Protocol):
    """What a start needs of a teacher, beside its layers; see `runners.teacher.origin.Origin`."""

    @property
    def model(self) -> str: ...
    @property
    def word_embeddings(self) -> npt.NDArray[np.float32]: ...
    @property
    def position_embeddings(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def vocabulary_count(self) -> npt.NDArray[Any]: ...
    @property
    def median_length(self) -> float: ...


def start_from_embeddings(student: Student, teacher: Tables, vocabulary: Vocabulary, keep: float) -> None:
    """Embeddings from the teacher: the principal components of its kept word embeddings (XtremeDistil).

    Positions are projected onto the same components. Directions are kept as they are (no whitening) and scaled
    as a whole to a deviation of `TEACHER_DEVIATION`.

    Args:
        student: to be changed.
        teacher: with its embedding tables.
        vocabulary: of the teacher.
        keep: share of it that the student has.
    """
    width = student.embedding_width
    ids = vocabulary.teacher_ids(vocabulary.size(keep))
    words = torch.from_numpy(np.array(teacher.word_embeddings[ids], np.float32))
    centred = words - words.mean(0)
    _, components = torch.linalg.eigh(centred.T @ centred)  # by rising variance
    basis = components.flip(1)[:, :width]
    projected = centred @ basis
    scale = TEACHER_DEVIATION / projected.std()
    table = torch.zeros(len(words), width)
    table[:, : projected.shape[1]] = projected * scale
    positions = None
    if teacher.position_embeddings is not None:
        rows = torch.from_numpy(np.array(teacher.position_embeddings, np.float32))
        positions = torch.zeros(len(rows), width)
        positions[:, : basis.shape[1]] = (rows - rows.mean(0)) @ basis * scale
    student.load_embeddings(table, positions)


def start_from_layers(
    student: Student,
    teacher: Tables,
    encoder: torch.nn.Module,
    statistics: LayerStatistics,
    vocabulary: Vocabulary,
    keep: float,
) -> None:
    """Layers from the teacher, for a student whose embeddings start from it already.

    The residual stream of all the teacher's layers is rotated into one basis, the principal components of its hidden
    states (as SliceGPT does to cut a model, Ashkboos et al. 2024, arXiv 2401.15024), of which the student keeps as many
    as it is wide. Student layer i of d takes the teacher's layer i L / d of L; of its heads and neurons those that add
    most to the residual stream on the task's text.

    Args:
        student: to be changed.
        teacher: with its embedding tables.
        encoder: of the teacher.
        statistics: of the encoder.
        vocabulary: of the teacher.
        keep: share of it that the student has.

    Raises:
        InputError: the teacher is not laid out like BERT.
    """
    layers = bert_layers(encoder)
    if layers is None or statistics.inside is None:
        raise InputError(
            f"The layers of teacher {teacher.model} are not laid out like BERT's, so that students cannot start from "
            "them.",
            "Leave `layers` out of space.recipe.initialization.",
        )
    basis = _basis(statistics, student.width)
    depth = student.depth
    chosen = [max(round((index + 1) * len(layers) / depth) - 1, 0) for index in range(depth)]
    with torch.no_grad():
        projected = [_project(layers[layer], statistics, statistics.inside, layer, basis) for layer in chosen]
        ids, positions, states = _sample_embeddings(encoder, teacher, vocabulary, keep)
    student.load_layers(projected, ids, positions, (states - statistics.state_mean[0]) @ basis)


def _basis(statistics: LayerStatistics, width: int) -> Tensor:
    """Principal components [teacher width, width] of the hidden states of all layers; zeros beyond the teacher's."""
    _, vectors = torch.linalg.eigh(statistics.state_covariance.double().sum(0))  # by rising variance
    basis = vectors.flip(1)[:, :width].float()
    return torch.nn.functional.pad(basis, (0, width - basis.shape[1]))


def _project(layer: Any, statistics: LayerStatistics, inside: Inside, index: int, basis: Tensor) -> ProjectedLayer:
    own, output = layer.attention.self, layer.attention.output.dense
    mean, middle_mean = statistics.state_mean[index], inside.middle_mean[index]
    heads = inside.head_power[index].argsort(descending=True)
    neurons = inside.neuron_power[index].argsort(descending=True)
    count, size = len(heads), own.attention_head_size

    def split(linear: torch.nn.Linear) -> tuple[Tensor, Tensor]:
        weight = linear.weight.view(count, size, -1)[heads]
        return weight @ basis, (weight @ mean) + linear.bias.view(count, size)[heads]

    query, query_bias = split(own.query)
    key, key_bias = split(own.key)
    value, _ = split(own.value)
    up = layer.intermediate.dense
    return ProjectedLayer(
        query=query,
        key=key,
        value=value,
        query_bias=query_bias,
        key_bias=key_bias,
        out=(basis.T @ output.weight).view(-1, count, size)[:, heads],
        middle_gain=_gain(inside.middle_covariance[index], basis),
        up=up.weight[neurons] @ basis,
        up_bias=up.weight[neurons] @ middle_mean + up.bias[neurons],
        down=basis.T @ layer.output.dense.weight[:, neurons],
        neuron_mean=inside.neuron_mean[index][neurons],
        gain=_gain(statistics.state_covariance[index + 1], basis),
    )


def _gain(covariance: Tensor, basis: Tensor) -> float:
    """Root mean square of centred states in the student's width."""
    return float(((basis.T @ covariance) * basis.T).sum() / basis.shape[1]) ** 0.5


def _sample_embeddings(
    encoder: Any, teacher: Tables, vocabulary: Vocabulary, keep: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens as often as the task has them, at places as in its texts, and what the teacher's embeddings make of them.

    Returns:
        The student's ids [n], positions [n], and states [n, teacher width].
    """
    generator = np.random.default_rng(0)
    kept = vocabulary.teacher_ids(vocabulary.size(keep))
    share = teacher.vocabulary_count[kept].astype(np.float64) + 1e-6
    ids = torch.from_numpy(generator.choice(len(kept), _TOKENS, p=share / share.sum()))
    positions = torch.from_numpy(generator.integers(int(teacher.median_length), size=_TOKENS))
    states = encoder.embeddings(input_ids=torch.from_numpy(kept)[ids][:, None], position_ids=positions[:, None])
    return ids, positions, states[:, 0].float()
