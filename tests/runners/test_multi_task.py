"""Several tasks in one student: single texts, pairs and a regression, from teachers to one file."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from objectives.latency import load_profile
from objectives.limits import Limits
from objectives.quality import score
from runners import arm_quality
from runners.batches import collate
from runners.distill import Course, Distillation
from runners.distill.courses import CoursePool
from runners.evaluate import open_session
from runners.grammar import sentiment
from runners.latency import DeviceSpec
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import Bundle, load_bundle
from runners.record import TrialRecord
from runners.requantize import requantize
from runners.teacher import load_teacher
from runners.teacher.origin import Origin, mean_statistics, sum_of_equals
from runners.trial import Prepared, prepare, run_trial
from space import Recipe, StudentConfig, TaskShape, deployed_bytes
from space.errors import InputError
from space.families import build_student
from space.joint import JointSpace, SpaceSpec

CPU = torch.device("cpu")
NAMES = ["mood", "same", "gap"]


@pytest.fixture(scope="module")
def plan(model: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("several")
    train, validation = sentiment(240, 60, seed=0)
    for split, rows in (("train", train), ("validation", validation)):
        lines = [
            {"a": text, "b": rows[row - 1][0], "label": label, "same": int(label == rows[row - 1][1]), "gap": label / 2}
            for row, (text, label) in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = {"data": {"path": str(folder)}, "max_length": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(folder / "cache"))
        torch.set_num_threads(1)
        yield TrialPlan(
            study="several",
            tasks={
                "mood": {**data, "text": "a", "max_length": 16},
                "same": {**data, "text": ("a", "b"), "label": "same", "labels": ["no", "yes"], "metric": "f1"},
                "gap": {**data, "text": ("a", "b"), "label": "gap", "kind": "regression", "metric": "pearson"},
            },
            teacher={"model": str(model), "learning_rate": 1e-3},
            device={"tokens": "auto", "latency": "estimated"},
            limits=Limits(),
            fidelity=FidelitySpec(epochs=1, batch_size=32),
        )


@pytest.fixture(scope="module")
def prepared(plan: TrialPlan) -> Prepared:
    return prepare(plan)


def draw(**recipe: Any) -> tuple[StudentConfig, Recipe]:
    shape = {"depth": 2, "width": 32, "heads": 2, "ffn_width": 64, "token_keep": [0.75, 1.0]}
    known = {"state_weight": 1.0, "initialization": "layers", "learning_rate": 2e-3, **recipe}
    spec = SpaceSpec(vocabulary_keep=0.9, embedding_width=32, accuracy_level=0, transformer=shape, recipe=known)
    return JointSpace(spec).draw(np.random.default_rng(0))


@pytest.fixture(scope="module")
def made(plan: TrialPlan, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialRecord, Bundle]:
    folder = tmp_path_factory.mktemp("bundle") / "several"
    record = run_trial(plan, prepared, 4, *draw(), 3, folder)
    return record, load_bundle(folder)


def test_every_task_is_judged_by_its_own_metric_on_the_file(prepared, made) -> None:
    record, bundle = made
    student, session = bundle.student(), open_session(bundle.folder / "model.onnx")
    assert [value.name for value in session.get_outputs()] == ["logits", "logits.mood", "logits.same", "logits.gap"]
    size = len(bundle.tokens)
    for name, taught in prepared.tasks.items():
        examples = taught.task.validation
        encoded = prepared.encode(name, size, examples)
        assert encoded.lengths.max() <= taught.task.max_length
        feed = collate(encoded, np.arange(len(encoded)), CPU)
        own, everything = session.run([f"logits.{name}", "logits"], {key: value.numpy() for key, value in feed.items()})
        _, columns = prepared.shape.part(name)
        np.testing.assert_array_equal(own, everything[:, columns])
        with torch.no_grad():
            np.testing.assert_allclose(student(**feed)[:, columns], own, atol=1e-3)
        found = record.tasks[name]
        assert found.quality == pytest.approx(score(taught.task.metric, examples.labels, own, name == "gap"), abs=0.02)
        assert found.teacher_quality == taught.teacher.validation_quality
        assert found.retention == pytest.approx(100 * found.quality / found.teacher_quality)
    assert (record.metric, list(record.tasks)) == ("retention", NAMES)
    assert record.quality == pytest.approx(np.mean([task.retention for task in record.tasks.values()]))


def test_no_retention_on_splits_that_the_teachers_were_not_judged_on(plan, prepared, made, tmp_path: Path) -> None:
    record, bundle = made
    tasks = {name: taught.task for name, taught in prepared.tasks.items()}
    again = requantize(bundle.folder, tmp_path / "same", tasks, plan.device, {"embedding_bits": 8}, "none")
    assert again.metrics["source_quality"] == pytest.approx(record.quality)
    assert again.validation_examples == record.validation_examples
    fewer = replace(tasks["gap"], validation=tasks["gap"].validation.take(range(30)))
    with pytest.raises(InputError, match="was judged on other validation splits: how good its teachers are"):
        requantize(bundle.folder, tmp_path / "other", {**tasks, "gap": fewer}, plan.device, {}, "none")


def test_bytes_and_lengths_are_those_of_all_tasks_together(prepared, made) -> None:
    record, bundle = made
    on_disk = sum((bundle.folder / name).stat().st_size for name in ("model.onnx", "vocab.txt"))
    assert record.deployed_bytes == on_disk == deployed_bytes(record.config, prepared.shape, prepared.vocabulary)
    assert (prepared.shape.outputs, prepared.shape.segments, prepared.shape.max_length) == (5, 2, 32)
    size = prepared.vocabulary.size(record.config.vocabulary_keep)
    medians = [np.sort(prepared.encoded_train(name, size).lengths)[120] for name in NAMES]
    assert record.latency.tokens == np.ceil(np.mean(medians))


def test_the_bundle_says_what_it_knows(made) -> None:
    record, bundle = made
    told = json.loads((bundle.folder / "metrics.json").read_text())
    assert told == record.model_dump(mode="json", exclude={"bundle"})
    assert TrialRecord.model_validate({**told, "bundle": record.bundle}) == record
    card = (bundle.folder / "README.md").read_text()
    assert f"| same: f1 | {record.tasks['same'].quality:.4f} |" in card
    assert "`logits.gap` [batch, 1] (one real value, pairs)" in card


def test_a_bundle_predicts_any_of_its_tasks(made) -> None:
    _, bundle = made
    text, other = "the film was great .", "the film was dull ."
    assert bundle.predict([text], task="mood")[0].label in ("0", "1")
    assert bundle.predict([text], [other], task="same")[0].label in ("no", "yes")
    assert bundle.predict([text], [other], task="gap")[0].label is None
    for arguments, message in (
        (([text],), "knows several tasks"),
        (([text], None, "moods"), "knows no task 'moods'"),
        (([text], None, "same"), "Task same of .* judges pairs"),
        (([text], [other], "mood"), "Task mood of .* judges single texts"),
    ):
        with pytest.raises(InputError, match=message):
            bundle.predict(*arguments)


def test_arm_kernels_judge_every_task(prepared, made, monkeypatch) -> None:
    """The emulator itself is tested elsewhere: here this machine's kernels stand in for it."""
    record, bundle = made

    def evaluate(model: Path, batches: Any, profile: Any, installation: Any, per_token: bool) -> list[np.ndarray]:
        session = open_session(model)
        return [session.run(["logits"], dict(batch))[0] for batch in batches]

    monkeypatch.setattr(arm_quality, "evaluate_on_arm", evaluate)
    monkeypatch.setattr(arm_quality, "find_installation", lambda: SimpleNamespace(versions={}))
    tasks = {name: taught.task for name, taught in prepared.tasks.items()}
    found = arm_quality.measure_arm_quality(bundle.folder, tasks, DeviceSpec(check_examples=180), record)
    assert (found.device, found.examples, list(found.tasks)) == (load_profile("cortex-a53").name, 180, NAMES)
    assert found.quality == pytest.approx(record.quality)
    assert found.tasks["same"].quality_here == pytest.approx(record.tasks["same"].quality)


def test_the_same_seed_gives_the_same_bytes(plan, prepared, made, tmp_path) -> None:
    record, bundle = made
    run_trial(plan, prepared, 4, record.config, record.recipe, 3, tmp_path / "again")
    for file in ("model.onnx", "student.safetensors", "config.json"):
        assert (bundle.folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def training(prepared: Prepared, epochs: float = 1.0, **changes: Any) -> Distillation:
    torch.manual_seed(7)
    config, recipe = draw(teacher_learning_rate=1e-4, relation_weight=0.5, initialization="random", **changes)
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    courses = [prepared.course(name, entries, recipe) for name in prepared.tasks]
    student = build_student(config, prepared.shape, entries)
    fidelity = FidelitySpec(epochs=epochs, batch_size=32)
    return Distillation(student, courses, recipe, fidelity, prepared.vocabulary.tokens(entries), 11, CPU)


def test_training_resumes_bit_for_bit(prepared, tmp_path) -> None:
    whole, stopped, resumed = (training(prepared) for _ in range(3))
    log = whole.run()
    stopped.run(2)  # one of the three tasks has not been seen yet, and has no moments in the optimiser
    stopped.save(tmp_path / "half.safetensors")
    resumed.restore(tmp_path / "half.safetensors")
    assert resumed.run() == log
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


def test_tasks_take_their_own_path_to_the_student(prepared) -> None:
    """A batch of one task leaves the projections of the others alone."""
    found = training(prepared)
    number = next(n for n in range(found.steps) if found._pool.batch(n, CPU)[0] == 1)
    found._loss(*found._pool.batch(number, CPU)).backward()
    reached = [objective.projection.weight.grad is not None for objective in found._objectives]
    assert reached == [False, True, False]
    assert [next(words.parameters()).grad is not None for words in found._words] == [False, True, False]


def course_of(prepared: Prepared, name: str, count: int) -> Course:
    whole = prepared.course(name, prepared.vocabulary.size(1.0), draw(state_weight=0.0)[1])
    lessons = whole.sources[0]
    encoded = lessons.encoded
    first = type(encoded)(encoded.ids, encoded.segments, encoded.starts[: count + 1], encoded.pad)
    kept = type(lessons)(first, lessons.logits[:count], lessons.hidden[:count], lessons.labels[:count])
    return Course([kept], [], whole.teacher, whole.regression)


@pytest.mark.parametrize(
    ("exponent", "counts"),
    [(1.0, [24, 8, 1]), (0.5, [17, 10, 6]), (0.0, [11, 11, 11])],  # 240, 80 and 16 texts in 24 + 8 + 1.6 batches
)
def test_batches_are_divided_by_a_power_of_the_sizes(prepared, exponent, counts) -> None:
    sizes = dict(zip(NAMES, (240, 80, 16), strict=True))
    courses = [course_of(prepared, name, count) for name, count in sizes.items()]
    pool = CoursePool(courses, exponent, 10, None, None, seed=0)
    assert pool.batches_per_epoch == 34
    assert sum(pool.counts) == 34
    np.testing.assert_allclose(pool.counts, counts, atol=1)
    seen = [pool.batch(number, CPU) for number in range(2 * 34)]
    for index, count in enumerate(pool.counts):
        assert [course for course, _ in seen].count(index) == 2 * count
    for number in (3, 40):  # what a batch holds follows from its number alone
        course, batch = CoursePool(courses, exponent, 10, None, None, seed=0).batch(number, CPU)
        assert course == seen[number][0]
        assert torch.equal(batch.inputs["input_ids"], seen[number][1].inputs["input_ids"])


def test_students_start_from_the_mean_of_the_teachers(prepared) -> None:
    teachers = [taught.teacher for taught in prepared.tasks.values()]
    mean = Origin.of(teachers).encoder().state_dict()
    own = [load_teacher(teacher).encoder.state_dict() for teacher in teachers]
    name = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(mean[name], torch.stack([state[name] for state in own]).mean(0))
    assert not torch.equal(own[0][name], own[1][name])
    statistics = [taught.statistics() for taught in prepared.tasks.values()]
    pooled, single = mean_statistics(statistics), mean_statistics(statistics[:1])
    assert torch.equal(single.state_covariance, statistics[0].state_covariance)
    second = sum(s.state_covariance + torch.einsum("li,lj->lij", s.state_mean, s.state_mean) for s in statistics) / 3
    expected = second - torch.einsum("li,lj->lij", pooled.state_mean, pooled.state_mean)
    torch.testing.assert_close(pooled.state_covariance, expected, atol=1e-4, rtol=1e-3)


def test_the_mean_of_many_teachers_takes_the_memory_of_two(prepared, monkeypatch) -> None:
    teachers = [taught.teacher for taught in prepared.tasks.values()]
    states = [load_teacher(teacher).encoder.state_dict() for teacher in teachers]
    held: list[weakref.ref[Any]] = []
    alive = []

    def load(outputs):
        gc.collect()
        alive.append(sum(teacher() is not None for teacher in held))
        found = load_teacher(outputs)
        held.append(weakref.ref(found.encoder))
        return found

    monkeypatch.setattr("runners.teacher.origin.load_teacher", load)
    origin = Origin.of(teachers)
    for name, value in origin.encoder().state_dict().items():
        assert torch.equal(value, torch.stack([state[name] for state in states]).double().mean(0).to(value.dtype))
    assert alive == [0, 1, 1]
    words = [teacher.word_embeddings for teacher in teachers]
    np.testing.assert_array_equal(origin.word_embeddings, np.mean(words, axis=0), strict=True)


def test_every_task_has_the_same_say_in_the_vocabulary() -> None:
    small, large = np.array([1.0, 3.0, 0.0]), np.array([100.0, 100.0, 200.0])
    np.testing.assert_allclose(sum_of_equals([small, large]), [50.5 + 50.5, 151.5 + 50.5, 101])
    np.testing.assert_array_equal(sum_of_equals([small]), small)


def test_a_teacher_that_learnt_nothing_is_refused(plan, monkeypatch) -> None:
    monkeypatch.setattr("runners.task.Task.quality", lambda *given: 0.0)
    with pytest.raises(InputError, match=r"teacher of task mood has accuracy 0\.000"):
        prepare(plan)


def test_the_shape_of_one_task_is_its_own_and_says_nothing_of_several() -> None:
    one = TaskShape(outputs=2, segments=1, max_length=16)
    assert TaskShape.joint({ONLY: one}) is one
    assert one.part(ONLY) == (one, slice(0, 2))
    assert "tasks" not in one.model_dump()
    several = TaskShape.joint({"a": one, "b": TaskShape(outputs=1, segments=2, max_length=32)})
    assert several.part("b")[1] == slice(2, 3)
    assert TaskShape.model_validate_json(several.model_dump_json()) == several
    with pytest.raises(KeyError):
        several.part("c")
