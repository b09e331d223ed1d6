"""Whole trials on a small teacher: real training, real files, real latency."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.limits import Limits
from objectives.quality import score
from runners import bundle as bundle_module
from runners.batches import collate
from runners.distill.loop import Distillation
from runners.evaluate import open_session, run_model
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import load_bundle
from runners.record import costs
from runners.teacher import Teacher, load_teacher
from runners.trial import (
    InfeasibleTrial,
    Prepared,
    cost_predictor,
    measure_latency,
    prepare,
    run_trial,
)
from runners.wordpiece import encode_texts, wordpiece
from space import InputError, JointSpace, SpaceSpec, deployed_bytes
from space.families import build_student

SPACE = SpaceSpec(
    vocabulary_keep=[0.5, 1.0],
    embedding_width=[32],
    accuracy_level=0,
    transformer={"depth": [1, 2], "width": [32, 64], "heads": 2, "ffn_width": [32, 64]},
    recipe={"learning_rate": 2e-3},
)


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single sentences, pairs and a regression as CSV files."""
    from runners.grammar import sentiment

    folder = tmp_path_factory.mktemp("data")
    train, validation = sentiment(600, 80, seed=0)
    for split, rows in (("train", train), ("validation", validation)):
        lines = [json.dumps({"a": text, "b": rows[i - 1][0], "label": label}) for i, (text, label) in enumerate(rows)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def make_plan(model: Path, files: Path, cache: Path, **changes: Any) -> TrialPlan:
    os.environ["SHOEBOX_CACHE"] = str(cache)
    task = {"data": {"path": str(files)}, "text": "a", "max_length": 32, **changes.pop("task", {})}
    return TrialPlan(
        study="small",
        task=task,
        teacher={"model": str(model), "learning_rate": 1e-3},
        device={"tokens": 8, "latency": "estimated"},
        limits=changes.pop("limits", Limits()),
        fidelity=FidelitySpec(epochs=1, batch_size=32),
        **changes,
    )


@pytest.fixture(scope="module", params=["sentences", "pairs", "regression"])
def prepared_plan(request, model: Path, files: Path, tmp_path_factory) -> tuple[TrialPlan, Prepared]:
    task = {
        "sentences": {},
        "pairs": {"text": ("a", "b")},
        "regression": {"text": ("a", "b"), "kind": "regression", "metric": "spearman"},
    }[request.param]
    before = os.environ.get("SHOEBOX_CACHE")
    plan = make_plan(model, files, tmp_path_factory.mktemp("cache"), task=task)
    yield plan, prepare(plan)
    if before is None:
        os.environ.pop("SHOEBOX_CACHE", None)
    else:
        os.environ["SHOEBOX_CACHE"] = before


def draw(seed: int):
    return JointSpace(SPACE).draw(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(8))
def test_trained_file_answers_like_the_torch_student_on_the_whole_validation_set(prepared_plan, tmp_path, seed):
    plan, prepared = prepared_plan
    config, recipe = draw(seed)
    record = run_trial(plan, prepared, seed, config, recipe, seed, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    task = prepared.tasks[ONLY].task
    examples = task.validation
    tokenizer = wordpiece(bundle.tokens, bundle.config.normalization, prepared.shape.max_length)
    encoded = encode_texts(tokenizer, examples.texts, examples.pairs)
    logits = run_model(open_session(tmp_path / "bundle" / "model.onnx"), encoded)
    with torch.no_grad():
        feed = collate(encoded, np.arange(len(encoded)), torch.device("cpu"))
        expected = bundle.student()(**feed).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert record.quality == score(task.metric, examples.labels, logits, task.regression)
    on_disk = sum((tmp_path / "bundle" / name).stat().st_size for name in ("model.onnx", "vocab.txt"))
    assert record.deployed_bytes == on_disk == deployed_bytes(config, prepared.shape, prepared.vocabulary)


def test_record_and_bundle_say_the_same(prepared_plan, tmp_path):
    plan, prepared = prepared_plan
    config, recipe = draw(1)
    record = run_trial(plan, prepared, 3, config, recipe, 0, tmp_path / "bundle")
    told = json.loads((tmp_path / "bundle" / "metrics.json").read_text())
    assert told == record.model_dump(mode="json", exclude={"bundle"})
    assert record.latency.backend == "estimated"
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"{record.quality:.4f}" in card
    assert "estimated, uncalibrated" in card
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.config.student == config
    pairs = ["the film was dull ."] if prepared.shape.segments == 2 else None
    prediction = loaded.predict(["the film was great ."], pairs)[0]
    task = prepared.tasks[ONLY].task
    if task.regression:
        assert prediction.label is None
    else:
        assert prediction.label in task.label_names
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert loaded.predict([], None if pairs is None else []) == []


@pytest.fixture
def sentences(model: Path, files: Path, tmp_path: Path, monkeypatch) -> tuple[TrialPlan, Prepared]:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    plan = make_plan(model, files, tmp_path / "cache")
    return plan, prepare(plan)


def test_same_seed_gives_the_same_bytes(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(2)
    for name in ("one", "two"):
        run_trial(plan, prepared, 0, config, recipe, 7, tmp_path / name)
    for file in ("model.onnx", "vocab.txt", "student.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    run_trial(plan, prepared, 0, config, recipe, 8, tmp_path / "three")
    assert (tmp_path / "one" / "model.onnx").read_bytes() != (tmp_path / "three" / "model.onnx").read_bytes()


def test_training_learns_the_labels(sentences, tmp_path):
    plan, prepared = sentences
    plain = {"depth": 1, "width": 64, "heads": 2, "token_keep": 1.0, "attention_bits": 8, "ffn_bits": 8}
    losses = {"label_weight": 1.0, "logit_weight": 0.0, "hidden_weight": 0.0, "learning_rate": 3e-3}
    spec = SpaceSpec(vocabulary_keep=1.0, embedding_bits=8, transformer=plain, recipe=losses)
    config, recipe = JointSpace(spec).draw(np.random.default_rng(0))
    plan = plan.model_copy(update={"fidelity": FidelitySpec(epochs=30, batch_size=16)})
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert record.metrics["final_loss"] < 0.3  # 0.69 is chance


def test_whole_knowledge_of_the_teacher_trains_a_student(prepared_plan, tmp_path):
    """States and relations of words, layers from the teacher, and tokens pruned, on texts and on pairs."""
    plan, prepared = prepared_plan
    known = {"state_weight": 1.0, "relation_weight": 0.5, "initialization": "layers", "learning_rate": 2e-3}
    shape = {"depth": 2, "width": 32, "heads": 2, "ffn_width": 64, "token_keep": 0.5}
    config, recipe = JointSpace(SpaceSpec(transformer=shape, recipe=known)).draw(np.random.default_rng(0))
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert record.recipe.initialization == "layers"
    assert record.seconds["teacher"] > 0
    assert np.isfinite(record.metrics["final_loss"])


def test_recurrent_student_trains_in_stages(prepared_plan, tmp_path):
    """It has no layers to take from the teacher, and so takes the embeddings; the file answers what torch answers."""
    plan, prepared = prepared_plan
    known = {"state_weight": 1.0, "initialization": "layers", "schedule": "stagewise", "learning_rate": 2e-3}
    shape = {"cell": "gru", "width": 32, "hidden_width": 32, "projection_bits": 4, "input_bits": 4, "recurrent_bits": 4}
    spec = SpaceSpec(families=["birnn"], accuracy_level=0, birnn=shape, recipe=known)
    config, recipe = JointSpace(spec).draw(np.random.default_rng(0))
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert record.recipe.schedule == "stagewise"
    assert record.latency.uncosted_calls == 0
    assert np.isfinite(record.metrics["final_loss"])
    bundle = load_bundle(tmp_path / "bundle")
    encoded = prepared.encode(
        ONLY, prepared.vocabulary.size(config.vocabulary_keep), prepared.tasks[ONLY].task.validation
    )
    with torch.no_grad():
        expected = bundle.student()(**collate(encoded, np.arange(len(encoded)), torch.device("cpu"))).numpy()
    np.testing.assert_allclose(
        run_model(open_session(tmp_path / "bundle" / "model.onnx"), encoded), expected, atol=1e-3
    )


@pytest.mark.parametrize("rate", [0.0, 1e-3])
def test_teachers_encoder_learns_only_with_a_rate_and_goes_on_where_it_stopped(prepared_plan, tmp_path, rate):
    _, prepared = prepared_plan
    mutual = {"teacher_update": "encoder", "teacher_learning_rate": rate, "state_weight": 0.0}
    config, recipe = JointSpace(SpaceSpec(transformer={"width": 32, "heads": 2}, recipe=mutual)).draw(
        np.random.default_rng(0)
    )
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    teacher = prepared.tasks[ONLY].teacher

    def training() -> tuple[Distillation, Teacher]:
        torch.manual_seed(0)
        encoder = load_teacher(teacher)
        course = replace(prepared.course(ONLY, entries, recipe), encoder=encoder)
        student = build_student(config, prepared.shape, entries)
        tokens, fidelity = prepared.vocabulary.tokens(entries), FidelitySpec(epochs=1, batch_size=16)
        return Distillation(student, [course], recipe, fidelity, tokens, 0, torch.device("cpu")), encoder

    (whole, moved), (stopped, _), (resumed, again) = training(), training(), training()
    before = {name: value.clone() for name, value in moved.encoder.state_dict().items()}
    whole.run()
    stopped.run(2)
    stopped.save(tmp_path / "half.safetensors")
    resumed.restore(tmp_path / "half.safetensors")
    resumed.run()
    after = moved.encoder.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before) == (rate > 0)
    assert all(torch.equal(value, again.encoder.state_dict()[name]) for name, value in after.items())
    same = zip(whole.student.parameters(), resumed.student.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


def test_latency_limit_is_checked_before_training(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(3)
    milliseconds = measure_latency(plan, prepared, config)[0].milliseconds
    strict = plan.model_copy(update={"limits": Limits(latency_ms=milliseconds / 2)})
    with pytest.raises(InfeasibleTrial) as caught:
        run_trial(strict, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert caught.value.constraints["latency_ms"] == pytest.approx(1.0)
    assert not (tmp_path / "bundle").exists()


def test_the_tasks_own_text_says_how_long_inputs_are(sentences):
    _, prepared = sentences
    size = prepared.vocabulary.size(1.0)
    lengths = np.sort(prepared.encoded_train(ONLY, size).lengths)
    assert prepared.text_lengths(size) == (lengths[len(lengths) // 2], lengths[-(len(lengths) // 20)])


def test_two_lengths_are_timed_and_the_longer_one_can_be_limited(sentences, tmp_path):
    plan, prepared = sentences
    plan = plan.model_copy(update={"device": plan.device.model_copy(update={"tokens": "auto"})})
    config, recipe = draw(3)
    median, long = prepared.text_lengths(prepared.vocabulary.size(config.vocabulary_keep))
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    assert (record.latency.tokens, record.long_latency.tokens) == (median, long)
    assert record.costs() == {
        "deployed_bytes": record.deployed_bytes,
        "latency_ms": record.latency.milliseconds,
        "long_latency_ms": record.long_latency.milliseconds,
    }
    assert record.latency.milliseconds < record.long_latency.milliseconds
    between = (record.latency.milliseconds + record.long_latency.milliseconds) / 2
    strict = plan.model_copy(update={"limits": Limits(latency_ms=between, long_latency_ms=between)})
    with pytest.raises(InfeasibleTrial) as caught:
        run_trial(strict, prepared, 1, config, recipe, 0, tmp_path / "other")
    assert [name for name, value in caught.value.constraints.items() if value > 0] == ["long_latency_ms"]


@pytest.mark.parametrize("tokens", [8, "auto"])
def test_predicted_costs_are_those_that_an_estimate_measures(sentences, tokens):
    plan, prepared = sentences
    plan = plan.model_copy(update={"device": plan.device.model_copy(update={"tokens": tokens})})
    predict = cost_predictor(plan, prepared)
    for seed in range(4):
        config, _ = draw(seed)
        readings = measure_latency(plan, prepared, config)
        measured = costs(0, readings)
        del measured["deployed_bytes"]
        assert predict(config) == pytest.approx(measured, rel=1e-6 if tokens == 8 else 0.1)


def test_nothing_is_predicted_for_a_device_without_records(sentences):
    plan, prepared = sentences
    native = plan.model_copy(update={"device": plan.device.model_copy(update={"latency": "native"})})
    assert cost_predictor(native, prepared)(draw(0)[0]) == {}


def test_full_disk_leaves_nothing_behind(sentences, tmp_path, monkeypatch):
    plan, prepared = sentences
    config, recipe = draw(4)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "save_tensors", full)
    with pytest.raises(InputError, match="bundle cannot be written: the disk is full"):
        run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "out" / "bundle")
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_folder_is_refused(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(4)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="exists already"):
        run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")


def test_damaged_bundles_are_refused(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(5)
    good = tmp_path / "bundle"
    run_trial(plan, prepared, 0, config, recipe, 0, good)
    with pytest.raises(InputError, match="There is no bundle folder"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is no bundle: config.json, model.onnx, vocab.txt missing"):
        load_bundle(tmp_path)
    cut = shutil.copytree(good, tmp_path / "cut")
    (cut / "model.onnx").write_bytes((cut / "model.onnx").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model.onnx cannot be opened"):
        load_bundle(cut)
    changed = shutil.copytree(good, tmp_path / "changed")
    (changed / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is damaged"):
        load_bundle(changed)
    fewer = shutil.copytree(good, tmp_path / "fewer")
    words = (fewer / "vocab.txt").read_bytes()
    (fewer / "vocab.txt").write_bytes(words[: words.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(InputError, match=r"vocab.txt has [\d,]+ entries, but model.onnx is made for [\d,]+"):
        load_bundle(fewer)
    for first in (b"", b"[BLANK]"):
        (fewer / "vocab.txt").write_bytes(first + words[words.index(b"\n") :])
        with pytest.raises(InputError, match=r"vocab.txt is damaged: it should begin with \[PAD\], "):
            load_bundle(fewer)
    loaded = load_bundle(good)
    with pytest.raises(InputError, match="judges single texts"):
        loaded.predict(["a"], ["b"])


def test_vocabulary_comes_from_the_teachers_attention(sentences):
    _, prepared = sentences
    size = prepared.vocabulary.size(0.5)
    kept = set(prepared.vocabulary.tokens(size)[5:])
    teacher = prepared.tasks[ONLY].teacher
    score_of = dict(zip(teacher.vocabulary, teacher.vocabulary_attention, strict=True))
    least = min(score_of[token] for token in kept if len(token.removeprefix("##")) > 1)
    pruned = [token for token in teacher.vocabulary[5:] if token not in kept]
    assert max(score_of[token] for token in pruned) <= least


def test_a_plan_and_what_it_prepared_survive_json(sentences):
    plan, prepared = sentences
    assert TrialPlan.model_validate_json(plan.model_dump_json()) == plan
    assert dataclasses.is_dataclass(prepared)
