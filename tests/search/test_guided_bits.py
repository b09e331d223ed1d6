"""Bits that follow the sensitivity of a student's parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import small_study
import torch

from runners.sensitivity import rounded_one_by_one
from runners.trial import cost_predictor, prepare
from search import query
from search.guided_bits import PROPOSER
from search.knapsack import Option, best_choices
from search.premises import Premises
from search.propose import GUIDED_BITS, PROPOSAL, enqueue_proposals
from search.query.table import Row, TrialTable
from search.states import PROPOSED, RECORD, state_of
from search.study_file import load_study_file
from space import InputError, JointSpace, TaskShape, deployed_bytes
from space.families import build_student, parse_config

SPACE: dict[str, Any] = {
    "vocabulary_keep": {"low": 0.3, "high": 1.0},
    "embedding_width": [16, 32],
    "transformer": {"depth": [1, 2], "width": [16, 32], "heads": 2, "ffn_width": [32, 64], "token_keep": 1.0},
    "recipe": {"initialization": "teacher", "learning_rate": 2e-3},
}


def test_choices_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        parts = [
            [Option(int(generator.integers(-20, 20)), float(generator.integers(0, 8))) for _ in range(count)]
            for count in generator.integers(1, 4, 5)
        ]
        found = best_choices(parts)
        every = [(sum(one.size for one in chosen), sum(one.loss for one in chosen)) for chosen in product(*parts)]
        for choice in found:
            own = [options[place] for options, place in zip(parts, choice.options, strict=True)]
            assert (sum(one.size for one in own), sum(one.loss for one in own)) == (choice.size, choice.loss)
        for budget in range(-100, 101, 7):
            within = [loss for size, loss in every if size <= budget]
            ours = [choice.loss for choice in found if choice.size <= budget]
            assert ours[-1:] == ([min(within)] if within else [])


def test_a_part_with_outliers_is_the_most_sensitive() -> None:
    torch.manual_seed(0)
    config = parse_config({**small_study.CONFIG, "layers": small_study.CONFIG["layers"] * 2})
    student = build_student(config, TaskShape(outputs=2, segments=1, max_length=16), 60).eval()
    student.set_rounding(False)
    with torch.no_grad():
        student.head.weight.mul_(20)
        for layer in student.layers:
            layer.down.weight.mul_(3)  # beside the residual stream
        student.layers[1].down.weight[:, 0] = 12.0  # one entry of a block fixes the scale of all others
    ids = torch.randint(5, 60, (16, 12))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        answers = student(ids, mask)

    def loss() -> float:
        with torch.no_grad():
            return float((student(ids, mask) - answers).square().mean())

    parts = {f"layer{i}": [layer.up, layer.down] for i, layer in enumerate(student.layers)}
    parts["embedding"] = [student.word, student.projection]
    plain, found = rounded_one_by_one(student, parts, {name: [2, 4, 8] for name in parts}, loss, "auto")
    assert plain == 0 == loss()  # the student is left as it was
    assert found["layer1"][4] > 3 * found["layer0"][4] > 0
    for row in found.values():
        assert row[2] >= row[4] >= row[8] >= 0
        assert row[2] > row[8]


def test_guided_students_are_queued_once_keep_the_limits_and_differ_in_bits_alone(tmp_path: Path, model: Path) -> None:
    propose = {"guided_bits": {"budgets": 4, "epochs": 1, "texts": 64}}
    limits = {"deployed_bytes": 18_000}
    file = load_study_file(
        str(small_study.write(tmp_path, model, space=SPACE, limits=limits, search={"propose": propose}))
    )
    plan, space = file.plan(), JointSpace(file.space)
    prepared = prepare(plan)
    premises = Premises(file.limits, 3, plan, prepared, space, cost_predictor(plan, prepared))
    given = (file.search.propose, premises)
    study = optuna.create_study(directions=["maximize", "minimize"])
    count = enqueue_proposals(study, *given)
    assert 2 <= count <= 4
    assert enqueue_proposals(study, *given) == 0
    again = optuna.create_study(directions=["maximize", "minimize"])
    enqueue_proposals(again, *given)
    queued = [[trial.system_attrs["fixed_params"] for trial in one.get_trials()] for one in (study, again)]
    assert queued[0] == queued[1]
    assert [trial.user_attrs[PROPOSAL] for trial in study.get_trials()] == list(range(count))
    assert {trial.user_attrs[PROPOSED] for trial in study.get_trials()} == {PROPOSER}
    report = study.user_attrs[GUIDED_BITS]
    for params, chosen in zip(queued[0], report["chosen"], strict=True):
        config, recipe = space.from_params(params)
        assert space.to_params(config, recipe) == params
        size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
        assert size == chosen["deployed_bytes"] <= chosen["budget"] <= 18_000
        assert {name for name in params if params[name] != report["base"][name]} <= set(report["increase"])
    losses = [chosen["loss"] for chosen in report["chosen"]]
    assert losses == sorted(losses, reverse=True)  # more bytes, less loss
    # Of a study with finished trials, the best one is the base.
    generator = np.random.default_rng(0)
    drawn = [space.draw(generator) for _ in range(2)]
    later = optuna.create_study(directions=["maximize", "minimize"])
    for quality, (config, recipe) in zip((0.9, 0.6), drawn, strict=True):
        later.enqueue_trial(space.to_params(config, recipe))
        trial = later.ask()
        space.suggest(trial)
        trial.set_user_attr(RECORD, {"quality": quality})
        later.tell(trial, [quality, 1.0])
    roomy = file.limits.model_copy(update={"deployed_bytes": 2_000_000})
    enqueue_proposals(later, given[0], replace(premises, limits=roomy))
    assert later.user_attrs[GUIDED_BITS]["base_trial"] == 0
    assert later.user_attrs[GUIDED_BITS]["base"] == space.to_params(*drawn[0])


@pytest.mark.parametrize(
    ("space", "guided", "message"),
    [
        (
            {**SPACE, "embedding_bits": 4, "transformer": {"attention_bits": 4, "ffn_bits": 8}},
            3,
            "guided_bits needs bits to choose",
        ),
        (SPACE, {"budgets": 0}, "budgets should be at least 1, found 0"),
        (SPACE, {"budget": 2}, "budget is not a key of section 'search.propose.guided_bits'. Did you mean 'budgets'"),
    ],
)
def test_sections_that_do_not_fit_are_refused(tmp_path: Path, model: Path, space, guided, message) -> None:
    path = small_study.write(tmp_path, model, space=space, search={"propose": {"guided_bits": guided}})
    with pytest.raises(InputError, match=message):
        load_study_file(str(path))


def test_bits_of_any_family_can_be_guided(tmp_path: Path, model: Path) -> None:
    space = {"families": ["birnn"], "birnn": {"hidden_width": 16, "width": 16}, "embedding_width": 16}
    path = small_study.write(
        tmp_path, model, space={**space, "recipe": {"initialization": "teacher"}}, limits={"deployed_bytes": 60_000},
        search={"propose": {"guided_bits": 1}},
    )  # fmt: skip
    file = load_study_file(str(path))
    plan = file.plan()
    prepared = prepare(plan)
    study = optuna.create_study(directions=["maximize", "minimize"])
    premises = Premises(file.limits, 0, plan, prepared, JointSpace(file.space), lambda config: {})
    assert enqueue_proposals(study, file.search.propose, premises)
    increase = study.user_attrs[GUIDED_BITS]["increase"]
    assert {"embedding_bits", "birnn.projection_bits", "birnn_layer0.input_bits", "birnn_layer0.recurrent_bits"} == set(
        increase
    )
    assert max(row["2"] for row in increase.values()) > 0


def test_trials_can_be_asked_for_by_who_proposed_them(make_engine) -> None:
    engine = make_engine()
    space, generator = JointSpace(engine.file.space), np.random.default_rng(2)
    drawn = [space.draw(generator) for _ in range(20)]
    shape, vocabulary = engine.prepared.shape, engine.prepared.vocabulary
    smallest = min(drawn, key=lambda one: deployed_bytes(one[0], shape, vocabulary))
    engine.study.enqueue_trial(space.to_params(*smallest), user_attrs={PROPOSED: PROPOSER})
    engine.run(3)
    finished = [trial.number for trial in engine.study.get_trials() if state_of(trial) == "finished"]
    for who, numbers in ((PROPOSER, [0]), ("sampler", finished[1:])):
        found = query.select("toy", where=f"proposed == '{who}'")
        assert [trial.number for trial in found] == numbers
        # Timed on another device, trials have contents of their own.
        rows = [Row(row.study, row.number, dict(row.content)) for row in found.table.rows]
        assert [trial.record for trial in replace(found, table=TrialTable(rows))] == found.records
