"""Trials whose students are rounded after training, clipped, or have shared layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from objectives.limits import Limits
from runners.bundle import CHECKPOINT, MODEL
from runners.evaluate import open_session, run_model, run_student
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import load_bundle
from runners.requantize import requantize
from runners.trial import Prepared, prepare, run_trial
from runners.wordpiece import encode_texts
from space import InputError, JointSpace, Recipe, SpaceSpec, StudentConfig, deployed_bytes


@pytest.fixture(scope="module")
def sentences(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TrialPlan, Prepared]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOEBOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        plan = TrialPlan(
            study="small",
            task={"data": {"grammar": "sentiment", "train": 400, "validation": 80}, "max_length": 32},
            teacher={"model": str(model), "learning_rate": 1e-3},
            device={"tokens": 8, "latency": "estimated"},
            limits=Limits(),
            fidelity=FidelitySpec(epochs=1, batch_size=32),
        )
        yield plan, prepare(plan)


def draw(seed: int) -> tuple[StudentConfig, Recipe]:
    transformer = {"depth": [1, 2], "width": [32, 64], "heads": 2, "ffn_width": [32, 64]}
    spec = SpaceSpec(vocabulary_keep=[0.5, 1.0], embedding_width=[32], accuracy_level=0, transformer=transformer)
    return JointSpace(spec).draw(np.random.default_rng(seed))


@pytest.mark.parametrize("clipping", ["none", "searched"])
def test_students_can_be_rounded_after_training_and_again(sentences, tmp_path, clipping):
    plan, prepared = sentences
    config, recipe = draw(2)
    recipe = recipe.model_copy(update={"quantization": "post_training", "clipping": clipping})
    record = run_trial(plan, prepared, 0, config, recipe, 7, tmp_path / "bundle")
    loss = record.metrics["quality_before_quantization"] - record.quality
    assert record.metrics["quantization_loss"] == pytest.approx(loss)
    bits = {"embedding_bits": 8, "attention_bits": 8, "ffn_bits": 8}
    task = prepared.tasks[ONLY].task
    tasks = {ONLY: task}
    again = requantize(tmp_path / "bundle", tmp_path / "again", tasks, plan.device, bits, clipping)
    assert again.deployed_bytes == deployed_bytes(again.config, prepared.shape, prepared.vocabulary)
    assert again.metrics["source_quality"] == record.quality
    assert "rounded to other bits" in (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "rounded to other bits" not in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    # The same weights in full precision; 8 bits lose next to nothing of them.
    assert again.metrics["quality_before_quantization"] == record.metrics["quality_before_quantization"]
    bundle = load_bundle(tmp_path / "again")
    inputs = encode_texts(prepared.tokenizer(ONLY, len(bundle.tokens)), task.validation.texts, None)
    student = bundle.student()
    answers = run_student(student, inputs)
    np.testing.assert_allclose(run_model(open_session(tmp_path / "again" / MODEL), inputs), answers, atol=1e-3)
    student.set_rounding(False)
    np.testing.assert_allclose(run_student(student, inputs), answers, atol=0.05)
    # With other bits for the embeddings alone, the scales of all other weights stay.
    partly = tmp_path / "partly"
    requantize(tmp_path / "bundle", partly, tasks, plan.device, {"embedding_bits": 8}, clipping)
    before, after = (load_file(folder / CHECKPOINT) for folder in (tmp_path / "bundle", partly))
    kept = {name for name in before if not name.startswith(("word.", "projection."))}
    assert [name for name in sorted(kept) if not torch.equal(before[name], after[name])] == []
    (partly / CHECKPOINT).unlink()
    with pytest.raises(InputError, match="could not be read: it is missing"):
        load_bundle(partly).student()
    with pytest.raises(InputError, match="exists already"):
        requantize(tmp_path / "bundle", partly, tasks, plan.device, bits, clipping)
    other = {ONLY: dataclasses.replace(task, segments=2)}
    with pytest.raises(InputError, match="was not made for these tasks"):
        requantize(tmp_path / "bundle", tmp_path / "other", other, plan.device, bits, clipping)


def test_a_student_judged_on_another_split_has_the_figures_of_that_split(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(2)
    record = run_trial(plan, prepared, 0, config, recipe, 7, tmp_path / "bundle")
    task = prepared.tasks[ONLY].task
    part = dataclasses.replace(task, validation=task.validation.take(range(20)))
    bits = {"embedding_bits": 8}
    again = requantize(tmp_path / "bundle", tmp_path / "part", {ONLY: part}, plan.device, bits, "none")
    bundle = load_bundle(tmp_path / "bundle")
    inputs = encode_texts(prepared.tokenizer(ONLY, len(bundle.tokens)), part.validation.texts, None)
    logits = run_model(open_session(tmp_path / "bundle" / MODEL), inputs)
    assert again.metrics["source_quality"] == task.quality(part.validation, logits)
    assert again.validation_examples == {ONLY: 20}
    assert not {"teacher_quality", "retention"} & again.metrics.keys()
    card = (tmp_path / "part" / "README.md").read_text()
    assert "(validation split, 20 texts)" in card
    assert "the teacher's |" not in card
    # Rounded once more on the same split, it has no more to tell of its teacher; as many other texts tell as little.
    once_more = requantize(
        tmp_path / "part", tmp_path / "more", {ONLY: part}, plan.device, {"embedding_bits": 4}, "none"
    )
    assert not {"teacher_quality", "retention"} & once_more.metrics.keys()
    every = encode_texts(prepared.tokenizer(ONLY, len(bundle.tokens)), task.validation.texts, None)
    answers = run_model(open_session(tmp_path / "bundle" / MODEL), every).argmax(-1)
    assert record.quality < 0.9
    other = {ONLY: dataclasses.replace(task, validation=dataclasses.replace(task.validation, labels=answers))}
    found = requantize(tmp_path / "bundle", tmp_path / "right", other, plan.device, bits, "none")
    assert "teacher_quality" not in found.metrics
    assert record.metrics.keys() >= {"teacher_quality", "retention"}


def test_clipped_students_and_shared_layers_answer_like_their_files(sentences, tmp_path):
    plan, prepared = sentences
    config, recipe = draw(1)
    config = config.model_copy(update={"layer_repeats": 2, "vocabulary_score": "attention_mean", "embedding_bits": 2})
    for clipping in ("searched", "learned"):
        trained = recipe.model_copy(update={"clipping": clipping})
        record = run_trial(plan, prepared, 0, config, trained, 0, tmp_path / clipping)
        bundle = load_bundle(tmp_path / clipping)
        ranked = prepared.ranked_by("attention_mean")
        assert bundle.tokens == ranked.vocabulary.tokens(len(bundle.tokens))
        inputs = encode_texts(
            ranked.tokenizer(ONLY, len(bundle.tokens)), prepared.tasks[ONLY].task.validation.texts, None
        )
        student = bundle.student()
        found = run_model(open_session(tmp_path / clipping / MODEL), inputs)
        np.testing.assert_allclose(found, run_student(student, inputs), atol=1e-3)
        assert record.deployed_bytes == deployed_bytes(config, prepared.shape, prepared.vocabulary)
        assert student.depth == 2 * len(config.layers)
