"""Students that start from a teacher, and what is kept of its states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runners.batches import collate, encode
from runners.distill.fit import Regression
from runners.distill.words import opens_word
from runners.initialization import start_from_embeddings, start_from_layers
from runners.task import Task, TaskSpec, load_task
from runners.teacher import TeacherOutputs, TeacherSpec, load_teacher, prepare_teacher
from runners.teacher import words as words_module
from runners.teacher.model import load_tokenizer
from runners.teacher.origin import Origin
from runners.teacher.statistics import LayerStatistics, prepare_statistics
from runners.teacher.words import prepare_words, word_basis
from space.families import build_student
from space.families.transformer.config import Layer, TransformerConfig
from space.shape import TaskShape
from space.vocabulary import Vocabulary

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def task() -> Task:
    data = {"grammar": "sentiment", "train": 300, "validation": 60, "seed": 0}
    return load_task(TaskSpec(data=data, max_length=32))


@pytest.fixture(scope="module")
def teacher(cache, model: Path, task: Task) -> TeacherOutputs:
    return prepare_teacher(TeacherSpec(model=str(model), learning_rate=1e-3), task)


@pytest.fixture(scope="module")
def statistics(teacher: TeacherOutputs, task: Task) -> LayerStatistics:
    return prepare_statistics(teacher, task, 32)


def teacher_states(
    teacher: TeacherOutputs, task: Task, model: Path
) -> tuple[torch.Tensor, list[np.ndarray], list[str]]:
    """Mask, states of every layer, and vocabulary, for the train split in one batch."""
    tokenizer, pieces = load_tokenizer(model, "tiny")
    encoded = encode(tokenizer, task.train, 32)
    batch = collate(encoded, np.arange(len(encoded)), CPU)
    with torch.no_grad():
        found = load_teacher(teacher).encode(batch, hidden_states=True).hidden_states
    return batch, [states.numpy() for states in found], pieces.vocabulary


def test_statistics_are_those_of_the_states(teacher, statistics, task, model) -> None:
    batch, states, _ = teacher_states(teacher, task, model)
    real = batch["attention_mask"].numpy().astype(bool)
    assert statistics.depth == 2
    for layer, hidden in enumerate(states):
        np.testing.assert_allclose(statistics.state_mean[layer], hidden[real].mean(0), atol=0.02)
        covariance = np.cov(hidden[real].T, bias=True)
        np.testing.assert_allclose(statistics.state_covariance[layer], covariance, atol=0.05 * covariance.max())
    assert statistics.inside is not None
    assert statistics.inside.head_power.shape == (2, 4)
    assert (statistics.inside.head_power > 0).all()
    assert statistics.inside.neuron_power.shape == statistics.inside.neuron_mean.shape == (2, 64)


def test_statistics_and_words_are_read_back_from_the_cache(teacher, statistics, task, monkeypatch) -> None:
    basis = word_basis(statistics)
    made = prepare_words(teacher.folder, task.train, teacher, basis, 32)

    def never(*arguments: object) -> None:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(words_module, "load_teacher", never)
    monkeypatch.setattr("runners.teacher.statistics.load_teacher", never)
    again = prepare_words(teacher.folder, task.train, teacher, basis, 32)
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.values, made.values)
    torch.manual_seed(7)
    found = prepare_statistics(teacher, task, 32)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.rand(1) == drawn  # the seed of a trial is untouched, whether or not the cache was filled
    assert torch.equal(found.state_covariance, statistics.state_covariance)
    assert found.inside is not None


def test_kept_states_of_words_are_the_teachers(teacher, statistics, task, model) -> None:
    """All components are kept of a small teacher, so that its states come back but for rounding and clipping."""
    basis = word_basis(statistics)
    words = prepare_words(teacher.folder, task.train, teacher, basis, 32)
    batch, states, tokens = teacher_states(teacher, task, model)
    opens = opens_word(tokens)
    assert words.layers == (1, 2)
    assert len(words) == 300
    for text in (0, 7, 299):
        ids = batch["input_ids"][text].numpy()
        here = words.values[words.starts[text] : words.starts[text + 1]].astype(np.float32) * words.scale
        assert len(here) == words.first[text] == opens[ids].sum()
        for place, layer in enumerate(words.layers):
            restored = here[:, place] @ basis.components[place].numpy().T + basis.mean[place].numpy()
            expected = states[layer][text][opens[ids]]  # each word is one piece here
            assert np.square(restored - expected).mean() < 0.02 * np.square(expected).mean()


@pytest.mark.parametrize(
    ("width", "heads", "depth", "ffn"), [(32, 4, 2, 64), (48, 8, 2, 64), (32, 2, 1, 32), (16, 4, 3, 80)]
)
def test_a_student_of_the_teachers_size_starts_with_its_states(
    teacher, statistics, task, model, width: int, heads: int, depth: int, ffn: int
) -> None:
    vocabulary = Vocabulary(teacher.vocabulary, teacher.vocabulary_attention, teacher.vocabulary_count)
    layer = Layer(ffn_width=ffn, token_keep=1.0, attention_bits=8, ffn_bits=8)
    config = TransformerConfig(
        vocabulary_keep=1.0,
        embedding_width=32,
        embedding_bits=8,
        block_size=16,
        accuracy_level=4,
        width=width,
        heads=heads,
        activation="gelu",
        layers=(layer,) * depth,
    )
    batch, states, _ = teacher_states(teacher, task, model)
    real = batch["attention_mask"].bool()
    target = torch.from_numpy(states[-1])[real].double()
    target = target - target.mean(0)
    fits = []
    for layers in (False, True):
        torch.manual_seed(0)
        student = build_student(config, TaskShape(outputs=2, segments=1, max_length=32), vocabulary.size(1.0))
        start_from_embeddings(student, Origin.of([teacher]), vocabulary, 1.0)
        if layers:
            origin = Origin.of([teacher])
            start_from_layers(student, origin, origin.encoder(), statistics, vocabulary, 1.0)
        with torch.no_grad():
            found = student.encode_layers(**batch)[1][-1].hidden[real].double()
        found = found - found.mean(0)
        # The share of the teacher's variance that a linear map of the student's states explains.
        fitted = torch.linalg.lstsq(found, target, driver="gelsd").solution  # columns may depend on each other
        fits.append(1 - float((found @ fitted - target).square().sum() / target.square().sum()))
    assert fits[1] > fits[0] + 0.02
    if (width, heads, depth, ffn) == (32, 4, 2, 64):
        assert fits[1] > 0.9


@pytest.mark.parametrize("features", [torch.ones(1, 4), torch.full((3, 4), 0.3), torch.zeros(2, 4)])
def test_projections_of_texts_that_do_not_vary_are_their_mean(features: torch.Tensor) -> None:
    targets = torch.arange(float(len(features))).unsqueeze(1).repeat(1, 2)
    fit = Regression()
    fit.add(features, targets)
    linear = torch.nn.Linear(4, 2)
    fit.write_to(linear)
    torch.testing.assert_close(linear(features), targets.mean(0).expand(len(features), 2))
