"""Configurations that come up again, bundles that are not kept, workers that die."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.assignment import NothingToDo
from search.export import export_bundle
from search.study import load_study
from space import InputError

EngineMaker = Callable[..., Any]
ROOMY = {"deployed_bytes": 20_000_000}


def same_again(engine: Any) -> None:
    """The next proposal is that of trial 0."""
    params = engine.study.get_trials()[0].params
    engine.study.enqueue_trial(params)
    engine.ledger.counts.add("waiting")


def test_a_known_configuration_is_answered_from_the_record(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=3, limits=ROOMY)
    engine.run(1)
    same_again(engine)
    engine.run()
    study, trials = load_study("toy"), engine.study.get_trials()
    assert [trial.state for trial in study.trials()] == ["finished", "answered", "finished", "finished"]
    assert trials[1].user_attrs["answered_by"] == 0
    assert (trials[1].values, trials[1].constraints) == (trials[0].values, trials[0].constraints)
    assert [record.trial for record in study.records()] == [0, 2, 3]
    assert engine.ledger.counts.trained == 3
    assert vars(make_engine(trials=3, limits=ROOMY).ledger.counts) == vars(engine.ledger.counts)


def test_nor_is_it_trained_beside_itself(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=4, limits=ROOMY)
    first = engine.ledger.next()
    same_again(engine)
    second = engine.ledger.next()
    assert (second.config, second.recipe) != (first.config, first.recipe)
    twin = engine.study.get_trials()[1]
    assert (twin.state.name, twin.user_attrs["answered_by"], twin.values) == ("FAIL", 0, None)
    assert (engine.ledger.counts.running, engine.ledger.counts.answered) == (2, 1)


def test_repeats_have_seeds_of_their_own(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=4, limits=ROOMY, more={"repeats": 2})
    first = engine.ledger.next()
    same_again(engine)
    second = engine.ledger.next()
    assert (second.config, second.recipe) == (first.config, first.recipe)
    assert second.seed != first.seed


def test_a_space_that_is_used_up_ends_the_search(make_engine: EngineMaker, caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(trials=5, limits=ROOMY)
    engine.ledger.most_answered = 3
    engine.run(1)
    for _ in range(3):
        same_again(engine)
    with caplog.at_level(logging.WARNING), pytest.raises(NothingToDo):
        engine.ledger.next()
    assert engine.ledger.exhausted
    assert "its space seems to be used up" in caplog.text


def test_in_a_space_that_is_used_up_what_lost_its_worker_is_run_again(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=5, limits=ROOMY)
    engine.ledger.most_answered = 3
    lost = engine.ledger.next()
    for _ in range(3):
        same_again(engine)
    with pytest.raises(NothingToDo):
        engine.ledger.next()
    assert engine.ledger.settle(lost.number, "the worker process died", again=True) == "orphaned"
    again = engine.ledger.next()
    assert (again.config, again.recipe) == (lost.config, lost.recipe)


def test_bundles_of_the_front_alone_are_kept(make_engine: EngineMaker, tmp_path: Path) -> None:
    more = {"keep_bundles": "front", "sampler": "random"}
    engine = make_engine(trials=12, limits=ROOMY, more=more)
    engine.run(6)
    engine = make_engine(trials=12, limits=ROOMY, more=more)  # a resume knows the front
    engine.run()
    study = load_study("toy")
    front = {record.trial for record in study.pareto()}
    beaten = next(record for record in study.records() if record.trial not in front)
    assert {int(folder.name) for folder in engine.ledger.bundles.iterdir()} == front
    with pytest.raises(InputError, match="was removed when other trials beat it"):
        export_bundle(beaten, tmp_path / "out", study.file.search.keep_bundles)
    assert export_bundle(study.best(), tmp_path / "out", "front").is_dir()


def test_a_trial_whose_worker_died_is_repeated_once(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=2, limits=ROOMY)
    first = engine.ledger.next()
    assert engine.ledger.settle(first.number, "the worker process died", again=True) == "orphaned"
    second = engine.ledger.next()
    assert (second.config, second.recipe, second.seed) == (first.config, first.recipe, first.seed)
    again = make_engine(trials=2, limits=ROOMY)  # a kill of the driver in between is no fault of the trial
    assert again.ledger.recover() == 1
    third = again.ledger.next()
    assert again.ledger.settle(third.number, "the worker process died", again=True) == "failed"
    assert load_study("toy").trial(third.number).error == "the worker process died"
    again.run()
    counts = again.ledger.counts
    assert (counts.failed, counts.finished, counts.orphaned, counts.running, counts.waiting) == (1, 1, 2, 0, 0)
