"""Cells that are tried before the sampler proposes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
import small_study

from runners.trial import cost_predictor, prepare
from search.ledger import Ledger, Proposal
from search.premises import Premises
from search.propose import PROPOSAL, enqueue_cells
from search.resuming import check_unchanged
from search.states import PROPOSED
from search.study import STUDY_FILE
from search.study_file import load_study_file
from space import InputError, JointSpace, deployed_bytes

CONV = {"depth": [0, 1, 2], "width": [16, 32], "conv_bits": 4, "pooling": "mean"}
SPACE: dict[str, Any] = {
    "families": ["conv"],
    "vocabulary_keep": {"low": 0.3, "high": 1.0},
    "embedding_width": [16, 32],
    "conv": CONV,
    "recipe": {"initialization": "teacher"},
}
PROPOSE = {"differentiable": {"cells": 2, "epochs": 0.5, "batch_size": 8}, "random_cells": 2, "no_cell": True}


def write(folder: Path, model: Path, **sections: Any) -> Path:
    found = {"space": SPACE, "search": {"propose": PROPOSE, "trials": 6}, **sections}
    return small_study.write(folder, model, limits={"deployed_bytes": 40_000}, **found)


def test_derived_random_and_no_cells_enter_the_study_once(tmp_path: Path, model: Path, caplog) -> None:
    file = load_study_file(str(write(tmp_path, model)))
    plan, space = file.plan(), JointSpace(file.space)
    prepared = prepare(plan)
    premises = Premises(file.limits, 3, plan, prepared, space, cost_predictor(plan, prepared))
    given = (file.search.propose, premises)
    study = optuna.create_study(directions=["maximize", "minimize"])
    with caplog.at_level(logging.INFO):
        assert enqueue_cells(study, *given) == 5
        assert enqueue_cells(study, *given) == 0
    assert "Entropy of operations" in caplog.text
    report = study.user_attrs[PROPOSED]
    assert len(report["entropies"]) >= 1
    assert report["steps"] == 4
    # Killed after the second was queued: the rest is queued by the next search, and is what it was.
    killed = optuna.create_study(directions=["maximize", "minimize"])
    for trial in study.get_trials()[:2]:
        killed.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    assert enqueue_cells(killed, *given) == 3
    queued = [[t.system_attrs["fixed_params"] for t in one.get_trials()] for one in (study, killed)]
    assert queued[0] == queued[1]

    def propose(trial: optuna.Trial) -> Proposal:
        config, recipe = space.suggest(trial)
        return Proposal(config, recipe, deployed_bytes(config, prepared.shape, prepared.vocabulary))

    ledger = Ledger(study, propose, file.limits, ["quality", "latency_ms"], 0, budget=6, bundles=tmp_path / "trials")
    assert ledger.counts.waiting == 5
    handed = [ledger.next() for _ in range(6)]
    proposers = [study.trials[one.number].user_attrs.get(PROPOSED) for one in handed]
    assert proposers == ["differentiable"] * 2 + ["random cells"] * 2 + ["no cell", None]
    assert [study.trials[one.number].user_attrs.get(PROPOSAL) for one in handed[:5]] == list(range(5))
    configs = [one.config for one in handed[:5]]
    sizes = [deployed_bytes(config, prepared.shape, prepared.vocabulary) for config in configs]
    assert max(sizes) <= 40_000
    assert configs[4].depth == 0
    assert sizes[4] <= sizes[0]
    assert configs[0] != configs[1]
    for config in configs[:4]:  # built alike but for their cells
        assert config.model_copy(update={"nodes": (), "depth": 0}) == configs[0].model_copy(
            update={"nodes": (), "depth": 0}
        )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"space": {**SPACE, "families": ["transformer"]}}, "add conv to space.families"),
        ({"space": {**SPACE, "conv": {**CONV, "depth": [1, 2]}}}, "no_cell needs 0 among space.conv.depth"),
        ({"space": {**SPACE, "conv": {**CONV, "depth": 0}}}, "needs a depth above 0"),
        (
            {"space": {**SPACE, "recipe": {"initialization": "layers"}}},
            "initialization cannot be layers: students of conv",
        ),
        ({"search": {"propose": {"differentiable": {"epoch": 3}}}}, "epoch"),
    ],
)
def test_sections_that_do_not_fit_are_refused(tmp_path: Path, model: Path, sections, message) -> None:
    with pytest.raises(InputError, match=message):
        load_study_file(str(write(tmp_path, model, **sections)))


def test_a_limit_that_no_draw_keeps_is_named(tmp_path: Path, model: Path) -> None:
    file = load_study_file(str(write(tmp_path, model)))
    plan, space = file.plan(), JointSpace(file.space)
    prepared = prepare(plan)
    tight = file.limits.model_copy(update={"deployed_bytes": 3_000})
    study = optuna.create_study(directions=["maximize", "minimize"])
    premises = Premises(tight, 0, plan, prepared, space, lambda config: {})
    with pytest.raises(InputError, match="none of 300 draws keeps the limits with 2 cells"):
        enqueue_cells(study, file.search.propose, premises)
    assert not study.get_trials()


def test_a_search_that_was_made_may_have_had_other_settings(tmp_path: Path, model: Path) -> None:
    file = load_study_file(str(write(tmp_path, model)))
    study = optuna.create_study()
    before = file.model_dump(mode="json")
    before["search"]["propose"]["differentiable"]["warm_up"] = 0.0  # a default of before
    study.set_user_attr(STUDY_FILE, before)
    with pytest.raises(InputError, match=r"search\.propose\.differentiable\.warm_up changed since"):
        check_unchanged(study, file)
    study.set_user_attr(PROPOSED, {})
    check_unchanged(study, file)
