"""Whole trials with students of every family: texts, words, and a training that was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_tagging import tags_of

from runners.distill.loop import Distillation
from runners.grammar import sentiment
from runners.plan import ONLY, FidelitySpec, TrialPlan
from runners.predict import load_bundle
from runners.requantize import bit_fields, requantize
from runners.trial import cost_predictor, measure_latency, prepare, run_trial
from space import JointSpace, SpaceSpec, deployed_bytes
from space.families import FAMILIES, build_student

DIMENSIONS = {  # of small students
    "transformer": {"depth": 2, "width": 32, "heads": 2, "ffn_width": 64, "token_keep": 1.0},
    "birnn": {"hidden_width": 16, "width": 32},
    "conv": {"depth": 2, "width": 32, "operation": ["conv3", "max_pool3", "dilated_conv5"]},
}
RECIPE = {
    "learning_rate": 4e-3, "initialization": "teacher", "state_weight": 1.0, "teacher_learning_rate": 0.0,
    "hidden_weight": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1)


def plan_of(folder: Path, model: Path, kind: str) -> TrialPlan:
    """The grammar's texts with their labels, or with tags of their words."""
    for split, rows in zip(("train", "validation"), sentiment(400, 60, seed=0), strict=True):
        words = [text.split() for text, _ in rows]
        columns = {"tokens": words, "tags": [*map(tags_of, words)]}
        if kind == "classification":
            columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    metric = {"classification": "accuracy", "token-classification": "entity_f1"}[kind]
    return TrialPlan(
        study="small",
        task={"data": {"path": str(folder)}, "kind": kind, "metric": metric, "max_length": 24},
        teacher={"model": str(model), "learning_rate": 3e-3, "epochs": 2},
        device={"tokens": 8, "latency": "estimated"},
        limits={},
        fidelity=FidelitySpec(epochs=3 if kind == "token-classification" else 0.5, batch_size=16),
    )


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_learns_and_its_file_is_as_predicted(
    tmp_path: Path, model: Path, monkeypatch, family: str, kind: str
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    plan = plan_of(tmp_path, model, kind)
    prepared = prepare(plan)
    spec = SpaceSpec.model_validate(
        {
            "families": [family], "vocabulary_keep": 0.8, "embedding_width": 32, "recipe": RECIPE,
            family: DIMENSIONS.get(family, {}),
        }
    )  # fmt: skip
    config, recipe = JointSpace(spec).draw(np.random.default_rng(0))
    record = run_trial(plan, prepared, 0, config, recipe, 0, tmp_path / "bundle")
    if kind == "token-classification":  # the small teacher learns tags, but not what is said of films
        assert record.quality > 0.8
    assert record.deployed_bytes == deployed_bytes(config, prepared.shape, prepared.vocabulary)
    assert record.latency == measure_latency(plan, prepared, config)[0]
    assert cost_predictor(plan, prepared)(config) == pytest.approx(
        {"latency_ms": record.latency.milliseconds}, rel=0.01
    )  # in the file the operators may come in another order
    reloaded = load_bundle(tmp_path / "bundle").student()
    assert [type(one) for one in reloaded.modules()] == [
        type(one) for one in build_student(config, prepared.shape, prepared.vocabulary.size(0.8)).modules()
    ]
    if kind == "token-classification":
        return
    fine, tasks = dict.fromkeys(bit_fields(config), 8), {ONLY: prepared.tasks[ONLY].task}
    again = requantize(tmp_path / "bundle", tmp_path / "again", tasks, plan.device, fine, "auto")
    assert bit_fields(again.config) == set(fine)
    assert again.deployed_bytes == deployed_bytes(again.config, prepared.shape, prepared.vocabulary)
    assert (again.deployed_bytes > record.deployed_bytes) == (again.config != config)

    def training() -> Distillation:
        torch.manual_seed(0)
        size = prepared.vocabulary.size(0.8)
        student = build_student(config, prepared.shape, size)
        courses = [prepared.course(ONLY, size, recipe)]
        spec = FidelitySpec(epochs=0.4, batch_size=16)
        return Distillation(student, courses, recipe, spec, prepared.vocabulary.tokens(size), 5, torch.device("cpu"))

    whole, stopped, resumed = training(), training(), training()
    log = whole.run()
    stopped.run(4)
    stopped.save(tmp_path / "half.safetensors")
    torch.manual_seed(99)
    resumed.restore(tmp_path / "half.safetensors")
    assert resumed.run() == log
    one, other = whole.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
