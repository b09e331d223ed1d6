"""The meta-teacher and the weights of its answers (Meta-KD), by hand where a hand can."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from objectives.limits import Limits
from runners.differentiable.search import derive_cells
from runners.differentiable.spec import DifferentiableSpec
from runners.plan import FidelitySpec, TrialPlan
from runners.prepared import Prepared
from runners.sensitivity import measure_sensitivities
from runners.task import Task, TaskSpec, load_task
from runners.teacher import TeacherSpec, prepare_teacher
from runners.teacher.meta import CORRUPTION_WEIGHT, MetaObjective
from runners.teacher.prepare import teacher_key
from runners.teacher.prototypes import domain_expertise, prepare_prototypes, prototype_weights, with_mean_one
from runners.trial import prepare, run_trial
from space import Recipe
from space.errors import InputError
from space.families import parse_config

LAYER = {"ffn_width": 32, "token_keep": 1.0, "attention_bits": 4, "ffn_bits": 4}
SHARED = {
    "vocabulary_keep": 0.9,
    "embedding_width": 16,
    "embedding_bits": 8,
    "block_size": 16,
    "accuracy_level": 0,
    "width": 32,
}
CONFIG = parse_config(
    {
        **SHARED,
        "family": "transformer",
        "heads": 2,
        "activation": "gelu",
        "layers": [LAYER],
    }
)
EDGE = {"input": "cell-1", "operation": "conv3"}
CONV = {
    **SHARED,
    "family": "conv",
    "conv_bits": 8,
    "depth": 1,
    "pooling": "attentive",
}
RECIPE = {
    "learning_rate": 1e-3,
    "label_weight": 0.5,
    "logit_weight": 1.0,
    "hidden_weight": 1.0,
    "temperature": 2.0,
    "teacher_learning_rate": 0.0,
    "state_weight": 1.0,
    "relation_weight": 0.5,
    "initialization": "random",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


def _spec(**changes: Any) -> TaskSpec:
    data = {"grammar": "sentiment", "train": 120, "validation": 40}
    return TaskSpec(**{"data": data, "domain": "domain", "max_length": 32, **changes})


def _teacher(model: Path, kind: str = "meta", **changes: Any) -> TeacherSpec:
    return TeacherSpec(model=str(model), kind=kind, learning_rate=1e-3, **changes)


def test_prototype_weights_by_hand() -> None:
    embeddings = np.array([[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
    # Centroids (1, 1) of domain 0 and (0, 3) of domain 1: with two domains each is all that the other is compared with.
    diagonal = 1 / math.sqrt(2)
    expected = [(diagonal + 0) / 2, (3 / math.sqrt(10) + 2 / math.sqrt(5)) / 2, (1 + diagonal) / 2]
    np.testing.assert_allclose(prototype_weights(embeddings, np.array([0, 0, 1])), expected, rtol=1e-12)
    # Of three domains, the others count by the mean of their centroids, however many texts they have.
    more = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0], [4.0, 0.0]])
    found = prototype_weights(more, np.array([0, 1, 1, 2]))
    assert found[0] == pytest.approx((1 + math.cos(math.atan2(2, 4))) / 2)


def test_domain_expertise_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.5], [0.9, 0.1], [0.9, 0.1]]))
    found = domain_expertise(np.array([0.0, 0.5, 0.5]), logits, np.array([0, 0, 1]))
    expected = [1 / (math.exp(0.25) + 1), 1.5 / (math.exp(0.01) + 1), 1.5 / (math.exp(0.81) + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weights_of_losses_have_mean_one_over_what_is_learned_from() -> None:
    assert with_mean_one(np.full(4, 0.3)).tolist() == [1.0] * 4
    assert with_mean_one(np.array([-1.0, 1.0, 3.0, 0.0])).tolist() == [0.0, 1.0, 3.0, 0.0]
    assert with_mean_one(np.array([9.0, 1.0, 3.0]), np.array([1, 2])).tolist() == [4.5, 0.5, 1.5]
    assert with_mean_one(np.array([-1.0, -2.0])).tolist() == [1.0, 1.0]


def _objective(weights: list[float]) -> MetaObjective:
    torch.manual_seed(0)
    return MetaObjective(np.array(weights, np.float32), np.array([0, 1, 2, 0, 1]), 4).eval()


def test_the_loss_of_a_meta_teacher_by_hand() -> None:
    weights = [0.2, 0.4, 0.6, 0.2, 0.6]  # mean 0.4
    objective, rows = _objective(weights), np.array([4, 0, 2])
    logits, pooled, labels = torch.randn(3, 2), torch.randn(3, 4), torch.tensor([0, 1, 1])
    torch.manual_seed(5)
    found = objective(rows, logits, pooled, labels).item()
    torch.manual_seed(5)
    shuffled = [[1, 0, 2][place] for place in torch.randperm(3).tolist()]
    said = objective.head(torch.tanh(objective.dense(pooled + objective.embedding(torch.tensor([1, 0, 2])))))
    expected = 0.0
    for place, weight in enumerate((1.5, 0.5, 1.5)):
        label = -functional.log_softmax(logits, -1)[place, labels[place]].item()
        domain = -functional.log_softmax(said, -1)[place, shuffled[place]].item()
        expected += weight * (label + CORRUPTION_WEIGHT * domain) / 3
    assert found == pytest.approx(expected, rel=1e-5)


def test_corruption_takes_the_domain_out_of_states() -> None:
    """States that tell their domain, which the loss may change: in the end a linear reader cannot tell it."""
    generator = np.random.default_rng(0)
    domains = generator.integers(0, 3, 240)
    start = torch.eye(3)[torch.from_numpy(domains)] * 2 + 0.1 * torch.randn(240, 3)
    torch.manual_seed(0)
    objective = MetaObjective(np.ones(240, np.float32), domains, 3)
    change = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam([*objective.parameters(), *change.parameters()], lr=0.03)
    labels, logits = torch.zeros(240, dtype=torch.int64), torch.zeros(240, 2)
    reader = objective.dense.weight, objective.head.weight
    for _ in range(150):
        loss = objective(np.arange(240), logits, change(start), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    said = objective.eval().head(torch.tanh(objective.dense(change(start) + objective.embedding(objective.domains))))
    told = functional.softmax(said, -1)
    assert float((told - told.mean(0)).detach().abs().max()) < 0.15
    assert all(value.isfinite().all() for value in reader)


def test_a_meta_teacher_is_cached_apart_and_says_other_things(model: Path) -> None:
    task = load_task(_spec())
    specs = [_teacher(model, "finetuned"), _teacher(model)]
    usual, meta = (prepare_teacher(spec, task) for spec in specs)
    assert usual.key != meta.key
    assert not np.allclose(usual.train_logits, meta.train_logits)
    np.testing.assert_array_equal(prepare_teacher(specs[1], task).train_logits, meta.train_logits)
    again = TeacherSpec(**{**specs[0].model_dump(), "kind": "finetuned"})
    assert teacher_key(again, task, 32, model) == usual.key
    other = load_task(_spec(domain="label"))  # the same texts in other domains
    assert teacher_key(specs[1], other, 32, model) != meta.key
    # Students of one domain have the same teacher, judged on their domain.
    target = load_task(_spec(target="film"))
    for_film = prepare_teacher(specs[1], target)
    assert for_film.key == meta.key
    assert for_film.validation_logits.shape == (len(target.validation), 2)
    right = (for_film.validation_logits.argmax(1) == target.validation.labels).mean()
    assert for_film.validation_quality == pytest.approx(right)


def test_prototypes_are_kept_and_need_two_domains(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task(_spec())
    found = prepare_prototypes(str(model), task, 32)
    assert found.shape == (120,)
    assert np.ptp(found) > 0
    assert np.abs(found).max() <= 1
    monkeypatch.setattr("runners.teacher.prototypes._weights", None)
    np.testing.assert_array_equal(prepare_prototypes(str(model), task, 32), found)
    with pytest.raises(InputError, match="one domain only, 'film': Meta-KD compares a domain with others"):
        prepare_prototypes(str(model), load_task(_spec(where={"domain": "film"})), 32)


def _plan(model: Path, task: TaskSpec, kind: str) -> TrialPlan:
    return TrialPlan(
        study="meta",
        task=task,
        teacher=_teacher(model, kind),
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(epochs=2, batch_size=16),
    )


@pytest.mark.parametrize("changes", [{"target": "film"}, {"unseen": "travel"}])
def test_a_student_of_a_meta_teacher(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = _plan(model, _spec(**changes), "meta")
    prepared = prepare(plan)
    (taught,) = prepared.tasks.values()
    task: Task = taught.task
    entries = prepared.vocabulary.size(0.9)
    recipe = Recipe(**RECIPE, example_weighting="domain_expertise")
    lessons = prepared.course("task", entries, recipe).sources[0]
    learned = np.arange(len(task.train)) if task.learned is None else task.learned
    assert lessons.weights is not None
    assert lessons.weights[learned].mean() == pytest.approx(1, abs=1e-5)
    assert np.ptp(lessons.weights[learned]) > 0
    assert (lessons.chosen is None) == (task.learned is None)
    weighed, alike = (
        run_trial(plan, prepared, 0, CONFIG, one, 0, tmp_path / name)
        for name, one in (("weighed", recipe), ("alike", Recipe(**RECIPE)))
    )
    assert weighed.losses != alike.losses
    assert weighed.metrics["examples_seen"] == 2 * len(learned)
    assert weighed.validation_examples == {"task": len(task.validation)}
    # The same student in a study whose own teacher is fine-tuned: taught by the meta-teacher, with that study's words.
    usual = prepare(_plan(model, plan.task, "finetuned"))
    assert usual.taught_by("study") is usual.taught_by("finetuned") is usual
    teaching = usual.taught_by("meta")
    assert teaching.tasks["task"].teacher.key == taught.teacher.key
    assert teaching.vocabulary is usual.vocabulary
    assert teaching.taught_by("study") is teaching
    assert usual.taught_by("study") is usual
    (source,) = teaching.course("task", entries, recipe).sources
    np.testing.assert_array_equal(source.logits, lessons.logits)
    card = (tmp_path / "weighed" / "README.md").read_text()
    assert ("for domain film" if task.target else "domain travel, which is left out of training") in card


def test_guided_bits_and_cells_learn_from_the_recipes_teacher(model: Path) -> None:
    """As trials of that recipe do: a loss is that of a study whose only teacher is of that kind."""
    plan = _plan(model, _spec(), "finetuned")
    usual = prepare(plan)
    meta, own = Recipe(**RECIPE, teacher_kind="meta"), Recipe(**RECIPE)
    variants = {"embedding_bits": {bits: CONFIG.model_copy(update={"embedding_bits": bits}) for bits in (2, 8)}}
    cells = parse_config({**CONV, "nodes": [{"left": EDGE, "right": EDGE}] * 3})
    search = DifferentiableSpec(epochs=0.5)

    def losses(prepared: Prepared, recipe: Recipe) -> list[float]:
        bits = measure_sensitivities(plan, prepared, CONFIG, recipe, variants, 0.5, 32, 0)
        derived = derive_cells(plan, prepared, cells, recipe, ["conv3"], [1], search, lambda config: {}, 0)
        return [bits.loss, derived.loss]

    found, expected, other = losses(usual, meta), losses(usual.taught_by("meta"), own), losses(usual, own)
    assert found == expected
    assert all(mine != theirs for mine, theirs in zip(found, other, strict=True))
