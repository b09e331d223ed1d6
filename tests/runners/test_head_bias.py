"""The bias of the head that is fitted after training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from objectives.limits import Limits
from runners.bundle import CHECKPOINT
from runners.evaluate import run_student
from runners.head_bias import balance_bias, balanced_bias
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import load_bundle
from runners.record import TrialRecord
from runners.rungs import Rungs
from runners.task import Examples, TaskSpec, load_task
from runners.trial import Prepared, prepare, run_in_rungs, run_trial
from space import JointSpace, Recipe, SpaceSpec, StudentConfig, TaskShape
from space.families import Student


def answers(means: list[float], counts: list[int], spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, 2] whose differences lie around one mean for each class, and the labels."""
    generator = np.random.default_rng(0)
    margins = np.concatenate([generator.normal(m, spread, n) for m, n in zip(means, counts, strict=True)])
    labels = np.repeat(np.arange(2), counts)
    return np.stack([-margins / 2, margins / 2], axis=1).astype(np.float32), labels


def test_answers_are_parted_halfway_between_the_classes() -> None:
    # Of two normal distributions of one spread, the best boundary for classes that count alike lies halfway.
    logits, labels = answers([-0.5, 1.5], [2000, 4000])
    bias = balanced_bias(logits, labels)
    assert bias == pytest.approx([0.25, -0.25], abs=0.02)
    assert (logits + bias).argmax(1)[labels == 0].mean() < logits.argmax(1)[labels == 0].mean() - 0.1


def test_how_frequent_a_class_is_makes_no_difference() -> None:
    even = balanced_bias(*answers([-0.5, 1.5], [3000, 3000]))
    uneven = balanced_bias(*answers([-0.5, 1.5], [500, 5500]))
    assert uneven == pytest.approx(even, abs=0.05)


def test_answers_in_other_units_have_their_bias_in_those_units() -> None:
    logits, labels = answers([-0.5, 1.5], [500, 900])
    assert balanced_bias(10 * logits, labels) == pytest.approx(10 * balanced_bias(logits, labels), rel=1e-3)


def test_classes_wholly_apart_missing_or_unlike_their_answers_have_finite_biases() -> None:
    logits, labels = answers([-5, 9], [20, 30], spread=0.01)
    assert balanced_bias(logits, labels) == pytest.approx([1, -1], abs=0.2)
    assert np.abs(balanced_bias(logits, np.zeros(50, int))).max() < 100
    assert balanced_bias(-logits, labels) == pytest.approx([0, 0])  # the answers say the opposite of the labels
    assert balanced_bias(np.zeros((50, 2), np.float32), labels) == pytest.approx([0, 0])
    three = np.eye(3, dtype=np.float32)[np.arange(60) % 3] + np.float32([0.9, 0, 0])
    assert (three + balanced_bias(three, np.arange(60) % 3)).argmax(1).tolist() == [row % 3 for row in range(60)]


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_class_without_a_text_keeps_its_bias(absent: int) -> None:
    logits, labels = answers([-0.5, 1.5], [200, 400])
    present = [place for place in range(3) if place != absent]
    three = np.insert(logits, absent, -2, axis=1)
    bias = balanced_bias(three, np.array(present)[labels])
    assert bias[absent] == 0
    assert bias[present] == pytest.approx(balanced_bias(logits, labels))


@pytest.fixture(scope="module")
def reviews(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrialPlan, Prepared]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        plan = TrialPlan(
            study="small",
            task={"data": {"grammar": "sentiment", "train": 200, "validation": 40}, "max_length": 32},
            teacher={"model": str(model), "learning_rate": 1e-3},
            device={"tokens": 8, "latency": "estimated"},
            limits=Limits(),
            fidelity=FidelitySpec(epochs=4, batch_size=16),
        )
        yield plan, prepare(plan)


def drawn(**recipe: Any) -> tuple[StudentConfig, Recipe]:
    transformer = {"depth": 1, "width": 32, "heads": 2, "ffn_width": 32}
    recipe = {"clipping": "searched", "learning_rate": 4e-3, "label_weight": 1.0, **recipe}
    space = JointSpace(SpaceSpec(vocabulary_keep=0.5, embedding_width=32, transformer=transformer, recipe=recipe))
    return space.draw(np.random.default_rng(0))


@pytest.mark.parametrize("quantization", ["aware", "post_training"])
def test_only_the_bias_of_a_trial_differs(
    reviews: tuple[TrialPlan, Prepared], tmp_path: Path, quantization: str
) -> None:
    plan, prepared = reviews
    for bias in ("trained", "balanced"):
        run_trial(plan, prepared, 0, *drawn(quantization=quantization, head_bias=bias), 7, tmp_path / bias)
    before, after = (load_file(tmp_path / bias / CHECKPOINT) for bias in ("trained", "balanced"))
    assert [name for name in before if not before[name].equal(after[name])] == ["head.bias"]
    student = load_bundle(tmp_path / "trained").student()
    train = prepared.tasks[ONLY].task.train
    logits = run_student(student, prepared.encode(ONLY, prepared.vocabulary.size(0.5), train))
    expected = before["head.bias"].numpy() + balanced_bias(logits, train.labels)
    np.testing.assert_allclose(after["head.bias"].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("quantization", ["aware", "post_training"])
def test_every_quality_of_a_trial_is_that_of_a_balanced_student(
    reviews: tuple[TrialPlan, Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    def to_the_first(student: Student, *_: object) -> None:
        with torch.no_grad():
            student.head.bias[0] += 1000

    for module in ("trial", "head_bias"):
        monkeypatch.setattr(f"runners.{module}.balance_bias", to_the_first)
    plan, prepared = reviews
    for bias in ("trained", "balanced"):
        config, recipe = drawn(quantization=quantization, head_bias=bias)
        rungs = Rungs((0.5,), 1000, tmp_path / f"rungs of {bias}")
        *_, rung, record = run_in_rungs(plan, prepared, 0, config, recipe, 7, tmp_path / bias, rungs)
        assert isinstance(record, TrialRecord)
    found = [rung.quality, record.quality]
    if quantization == "post_training":
        found.append(record.metrics["quality_before_quantization"])
        assert record.metrics["quantization_loss"] == 0
    assert found == [(prepared.tasks[ONLY].task.validation.labels == 0).mean()] * len(found)
    # Nothing of it reaches the training.
    one, other = (load_file(tmp_path / f"rungs of {bias}" / "rung0.safetensors") for bias in ("trained", "balanced"))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_student_for_one_domain_is_balanced_on_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"grammar": "sentiment", "train": 60, "validation": 40}
    task = load_task(TaskSpec(data=data, domain="domain", target="film"))
    assert 0 < len(task.learned_train) < len(task.train)
    seen = []

    def answer(student: Student, examples: Examples) -> np.ndarray:
        seen.extend(examples.texts)
        return np.zeros((len(examples), 2), np.float32)

    monkeypatch.setattr("runners.head_bias.run_student", answer)
    prepared = SimpleNamespace(
        tasks={ONLY: SimpleNamespace(task=task)},
        shape=TaskShape(outputs=2, segments=1, max_length=32),
        encode=lambda name, entries, examples: examples,
    )
    balance_bias(SimpleNamespace(head=torch.nn.Linear(3, 2)), prepared, 0)
    assert seen == task.learned_train.texts
