from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from search.samplers import RETRY_OF
from search.states import ERROR, FROM, PROPOSED, RECORD
from search.study import load_study
from space import InputError
from space.errors import OutputError

EngineMaker = Callable[..., Any]
ROOMY = {"deployed_bytes": 20_000_000}  # nothing is infeasible, so that every trial is trained


def test_failures_count_and_do_not_end_the_study(make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_TOY_FAIL", "1,2")
    engine = make_engine(trials=6, limits=ROOMY)
    engine.run()
    study = load_study("toy")
    assert [trial.number for trial in study.trials("failed")] == [1, 2]
    assert {trial.error for trial in study.trials("failed")} == {"the toy was told to fail"}
    assert len(study.trials("finished")) == 4


def test_quality_that_is_no_number_is_a_failure(make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_TOY_NAN", "0")
    engine = make_engine(trials=2, limits=ROOMY)
    engine.run()
    study = load_study("toy")
    assert [trial.state for trial in study.trials() if trial.number == 0] == ["failed"]
    assert study.trial(0).error == "not a number: quality"
    assert all(record.quality == record.quality for record in study.pareto())


def test_trial_without_a_result_is_a_failure(make_engine: EngineMaker) -> None:
    engine = make_engine()
    assignment = engine.ledger.next()
    assert engine.ledger.settle(assignment.number, "the worker process died") == "failed"
    assert engine.study.trials[assignment.number].user_attrs[ERROR] == "the worker process died"
    assert engine.ledger.counts.trained == 1


def test_settled_stays_settled(make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.run(1)
    values = engine.study.trials[0].values
    assert engine.ledger.settle(0, "too late") == "finished"
    assert engine.study.trials[0].values == values
    assert engine.ledger.counts.trained == 1


def test_latency_limit_is_measured_by_the_worker(make_engine: EngineMaker) -> None:
    engine = make_engine(limits={"deployed_bytes": 600_000, "latency_ms": 2.0}, trials=8)
    engine.run()
    trials = engine.study.get_trials()
    assert all(set(trial.constraints) == {"deployed_bytes", "latency_ms"} for trial in trials)
    slow = [trial for trial in trials if trial.constraints["latency_ms"] > 0]
    assert slow
    assert all(trial.state.name == "PRUNED" for trial in slow)
    assert all(record.latency.milliseconds <= 2.0 for record in load_study("toy").records())
    assert len(load_study("toy").records()) == 8


def test_gives_up_when_nothing_is_feasible(make_engine: EngineMaker) -> None:
    engine = make_engine(limits={"deployed_bytes": 1000})
    engine.ledger.most_rejections = 7
    with pytest.raises(InputError, match="7 proposals in a row broke the limits of study 'toy'"):
        engine.ledger.next()
    assert engine.ledger.counts.infeasible == 7
    assert engine.ledger.counts.running == 0


def test_rejections_between_trials_that_run_are_not_in_a_row(make_engine: EngineMaker) -> None:
    """Many workers are given trials before the first result arrives."""
    engine = make_engine(sampler="random", trials=12)
    engine.ledger.most_rejections = 5
    for _ in range(12):
        engine.ledger.next()
    assert engine.ledger.counts.running == 12
    assert engine.ledger.counts.infeasible > 5


def test_gives_up_when_workers_find_nothing_feasible(make_engine: EngineMaker) -> None:
    engine = make_engine(limits=ROOMY | {"latency_ms": 1e-6}, trials=20)
    engine.ledger.most_rejections = 4
    with pytest.raises(InputError, match="4 proposals in a row broke the limits of study 'toy'"):
        engine.run()
    assert engine.ledger.counts.infeasible == 4


def test_recovery_settles_results_and_repeats_the_rest(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=5)
    engine.run(1)
    done, lost = engine.ledger.next(), engine.ledger.next()
    engine.work(done)  # written by the worker; the driver was killed before it told
    again = make_engine(trials=5)
    assert again.ledger.recover() == 1
    assert again.ledger.recover() == 0
    study = load_study("toy")
    assert study.trial(done.number).state == "finished"
    assert study.trial(lost.number).state == "orphaned"
    repeat = again.ledger.next()
    assert (repeat.config, repeat.recipe, repeat.seed) == (lost.config, lost.recipe, lost.seed)
    assert repeat.bundle != lost.bundle
    again.work(repeat)
    again.ledger.settle(repeat.number)
    again.run()
    counts = again.ledger.counts
    assert (counts.finished, counts.orphaned, counts.running, counts.waiting) == (5, 1, 0, 0)
    assert vars(make_engine(trials=5).ledger.counts) == vars(counts)


def test_recovery_killed_half_way_repeats_once(make_engine: EngineMaker) -> None:
    engine = make_engine()
    lost = engine.ledger.next()
    engine.ledger.repeat(engine.study.get_trials()[lost.number])  # queued; killed before it was ended
    again = make_engine()
    assert again.ledger.recover() == 1
    assert again.ledger.counts.waiting == 1


def test_a_queued_trial_that_was_killed_while_asked_for_is_repeated_as_queued(make_engine: EngineMaker) -> None:
    engine = make_engine()
    engine.ledger.next()
    other = make_engine(name="other", seed=1)
    chosen = other.ledger.next().number
    params = other.study.get_trials()[chosen].params
    engine.study.enqueue_trial(params, user_attrs={PROPOSED: "somebody", FROM: {"study": "old"}})
    killed = engine.study.ask()  # nothing of the proposal was written
    again = make_engine()
    again.ledger.recover()
    retries = [trial for trial in again.study.get_trials() if trial.user_attrs.get(RETRY_OF) == killed.number]
    assert [(trial.user_attrs[PROPOSED], trial.user_attrs[FROM]) for trial in retries] == [
        ("somebody", {"study": "old"})
    ]
    found = {again.ledger.next().number for _ in range(2)}
    assert retries[0].number in found
    assert again.study.get_trials()[retries[0].number].params == params


def test_a_result_that_comes_while_others_are_recovered_counts(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = {"deployed_bytes": 20_000_000}
    engine = make_engine(limits=roomy)
    lost, late = engine.ledger.next(), engine.ledger.next()
    again = make_engine(limits=roomy)
    repeat = again.ledger.repeat

    def repeat_slowly(trial: Any) -> None:
        if trial.number == lost.number:
            engine.work(late)  # a worker that outlives its driver ends its training now
        repeat(trial)

    monkeypatch.setattr(again.ledger, "repeat", repeat_slowly)
    assert again.ledger.recover() == 1
    assert [trial.state for trial in load_study("toy").trials()] == ["orphaned", "finished", "waiting"]


def test_record_of_a_dead_drivers_worker_cannot_be_entered_twice(make_engine: EngineMaker) -> None:
    engine = make_engine()
    lost = engine.ledger.next()
    again = make_engine()
    again.ledger.recover()
    with pytest.raises(Exception, match="already finished"):
        engine.work(lost)  # a worker that outlived its driver
    assert RECORD not in again.study.get_trials()[lost.number].user_attrs


def test_rejections_are_reported_one_by_one(make_engine: EngineMaker) -> None:
    engine = make_engine(limits={"deployed_bytes": 1000})
    engine.ledger.most_rejections = 4
    seen: list[int] = []
    with pytest.raises(InputError):
        engine.ledger.next(on_rejected=lambda: seen.append(engine.ledger.counts.infeasible))
    assert seen == [1, 2, 3]


def test_a_full_disk_is_no_fault_of_the_trial(make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(trials=2, limits=ROOMY)
    monkeypatch.setenv("SHOEBOX_TOY_FULL", "0")
    with pytest.raises(OutputError, match=r"the disk is full\. What has finished is kept: go on with --resume\."):
        engine.run()
    assert engine.ledger.recover() == 1
    counts = engine.ledger.counts
    assert (counts.failed, counts.running, counts.orphaned, counts.waiting) == (0, 0, 1, 1)
    engine.run()
    assert len(load_study("toy").trials("finished")) == 2


def test_recovery_removes_what_a_killed_search_left(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=3, limits=ROOMY)
    engine.run(1)
    lost = engine.ledger.next()
    lost.bundle.mkdir()  # complete, but the worker was killed before it wrote the record
    (engine.ledger.bundles / ".00002.abcd").mkdir()  # killed while it was written
    (engine.ledger.bundles / "notes").mkdir()  # of the user
    make_engine(trials=3, limits=ROOMY).ledger.recover()
    assert sorted(path.name for path in engine.ledger.bundles.iterdir()) == ["00000", "notes"]
