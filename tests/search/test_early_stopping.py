"""Trials that stop at rungs, and go on from them, in the ledger."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_pipeline
from optuna.trial import TrialState

from search.cli.studies_command import study_row
from search.exchange import export_study, import_study
from search.searcher import StudySearcher
from search.states import PAUSED, RUNGS, STOPPED
from search.storage import default_url
from search.study import load_study
from space.errors import OutputError

EngineMaker = Callable[..., Any]
ROOMY = {"deployed_bytes": 20_000_000}
EARLY = {"sampler": "random", "early_stopping": {"rungs": [0.1, 0.3], "reduction_factor": 3}}


def test_stopped_trials_are_pruned_with_their_rungs(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=18, limits=ROOMY, more=EARLY)
    engine.run()
    counts = engine.ledger.counts
    assert counts.running == 0
    assert counts.started == 18
    waiting = counts.paused
    engine.ledger.close()
    assert (counts.paused, counts.stopped, counts.finished) == (0, waiting, 18 - waiting)
    assert 2 <= counts.finished <= 9
    study = load_study("toy")
    assert {trial.state for trial in study.trials()} == {"finished", "stopped"}
    states = [trial.state.name for trial in engine.study.get_trials()]
    assert states.count("PRUNED") == waiting
    for trial in study.trials("stopped"):
        assert trial.record is None
        assert trial.rungs[-1]["quality"] > 0
        assert trial.rungs[-1]["share"] in (0.1, 0.3)
    # Each finished one has passed both rungs, in the order of training, whatever stops lay between.
    assert all([rung["rung"] for rung in trial.rungs] == [0, 1] for trial in study.trials("finished"))
    assert not list(engine.ledger.folders.all_checkpoints.iterdir())
    assert len(list(engine.ledger.bundles.iterdir())) == counts.finished
    assert study_row(study)["trained"] == 18  # of the 18 that `shoebox studies` names as the budget
    assert vars(make_engine(trials=18, limits=ROOMY, more=EARLY).ledger.counts) == vars(counts)
    # Longer: the rungs of earlier trials still count.
    longer = make_engine(trials=24, limits=ROOMY, more=EARLY)
    longer.run()
    longer.ledger.close()
    assert longer.ledger.counts.trained == 24


def test_trials_that_wait_at_rungs_are_not_read_for_every_proposal(make_engine: EngineMaker) -> None:
    def make() -> Any:
        return make_engine(trials=60, limits=ROOMY, more={**EARLY, "sampler": "known-cost"})

    engine = make()
    engine.run(24)
    for _ in range(2):
        waiting = engine.ledger.counts.paused
        assert waiting > 4
        engine.ledger.next()
        engine.study.get_trials()
        read = engine.study._storage._studies[engine.study._study_id].unfinished_trial_ids
        assert len(read) <= 2  # the one that was handed out, and maybe one that was promoted
        engine = make()  # a resume finds them, too
        engine.ledger.recover()


def test_a_promoted_trial_goes_on_from_its_checkpoint_after_a_kill(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Any:
        return make_engine(trials=9, limits=ROOMY, more=EARLY)

    engine = make()
    while not engine.ledger._ladder.waiting:
        engine.work(engine.ledger.next())
    (number, rung), *_ = engine.ledger._ladder.waiting.items()
    # The driver is killed; another one finds the trial where it was.
    again = make()
    assert again.ledger.recover() == 0 or engine.ledger.counts.running
    assert again.ledger._ladder.waiting[number] == rung
    assert load_study("toy").trial(number).state == "paused"
    assert again.ledger.folders.checkpoints(number).is_dir()
    for other in range(100, 103):  # so many worse ones that it is among the best
        again.ledger._ladder._halving.enter(other, rung, [-1.0, 1e9])
        again.ledger._ladder._halving.enter(other + 10, rung, [-1.0, 1e9])
    again.ledger._ladder._halving.enter(number, rung, [2.0, 0.0])
    promoted = again.ledger.next()
    assert promoted.number == number
    assert [passed.rung for passed in promoted.rungs.passed] == list(range(rung + 1))
    assert [Path(passed.checkpoint).is_file() for passed in promoted.rungs.passed] == [False] * rung + [True]
    assert promoted.rungs.passed[-1].checkpoint.startswith(str(again.ledger.folders.checkpoints(number)))

    # Killed in the middle of going on: it is repeated from the same checkpoint under another number.
    third = make()
    assert third.ledger.recover() == 1
    assert third.ledger.folders.checkpoints(number).is_dir()
    repeated = third.ledger.study.get_trials()[-1]
    assert repeated.user_attrs["retry_of"] == number
    assert repeated.user_attrs[RUNGS] == [rung.model_dump(mode="json") for rung in promoted.rungs.passed]
    promote = third.ledger._ladder.promoted

    def after_the_queue(last: bool) -> int | None:
        assert third.ledger.counts.waiting == 0  # else another one moves up in its place
        return promote(last)

    monkeypatch.setattr(third.ledger._ladder, "promoted", after_the_queue)
    third.run()
    third.ledger.close()
    counts = third.ledger.counts
    assert (counts.trained, counts.running, counts.waiting, counts.paused) == (9, 0, 0, 0)
    assert not list(third.ledger.folders.all_checkpoints.iterdir())


KNOWN = {"sampler": "known-cost", "early_stopping": {"rungs": [0.1, 0.3]}}


def test_the_sampler_says_what_goes_on_and_a_resume_changes_nothing(make_engine: EngineMaker) -> None:
    def make(trials: int) -> Any:
        return make_engine(trials=trials, limits=ROOMY, more=KNOWN)

    engine = make(24)
    while engine.ledger.counts.started < 12:  # too few to model: all of them stop
        engine.work(engine.ledger.next())
    assert engine.ledger.counts.paused == 12
    engine.run()
    uninterrupted = [(trial.params, trial.values) for trial in engine.study.get_trials()]
    counts = engine.ledger.counts
    assert (counts.started, counts.running) == (24, 0)
    assert 1 <= counts.finished <= 8  # one in three
    assert not engine.ledger.has_work
    engine.ledger.close()
    # What ended at a rung takes nobody's place when the search goes on.
    longer = make(48)
    longer.run()
    assert longer.ledger.counts.started == 48
    assert longer.ledger.counts.finished > counts.finished

    optuna.delete_study(study_name="toy", storage=engine.study._storage)
    shutil.rmtree(engine.ledger.bundles.parent)
    other = make(24)
    for turn in range(200):
        if not other.ledger.has_work:
            break
        if turn % 3 == 2:
            other = make(24)
        other.work(other.ledger.next())
        for trial in other.study.get_trials(states=(TrialState.RUNNING,)):
            other.ledger.settle(trial.number)
    assert [(trial.params, trial.values) for trial in other.study.get_trials()] == uninterrupted


def test_a_search_that_fails_costs_no_other_trial_its_place(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=9, limits=ROOMY, more=EARLY)
    searcher = StudySearcher(engine.ledger, default_url(), workers=2)
    full, healthy = (searcher.suggest(row)["assignment"] for row in ("first", "second"))
    storage = engine.study._storage
    storage.set_trial_user_attr(full.trial_id, STOPPED, "the disk is full")
    searcher.on_trial_complete("first")
    assert isinstance(searcher.failure, OutputError)
    given = (healthy.number, healthy.config, healthy.recipe, healthy.seed, healthy.bundle, healthy.rungs)
    rung = next(toy_pipeline.run_in_rungs(engine.plan, engine.prepared, *given))
    storage.set_trial_user_attr(healthy.trial_id, RUNGS, [rung.model_dump(mode="json")])
    assert not searcher.goes_on("second")
    searcher.on_trial_complete("second")
    assert engine.ledger.recover() == 2
    assert [trial.state for trial in load_study("toy").trials()] == ["orphaned", "orphaned", "waiting", "waiting"]
    repeated = engine.study.get_trials()[-1]
    assert [rung["rung"] for rung in repeated.user_attrs[RUNGS]] == [0]


def test_a_trial_that_is_answered_leaves_no_checkpoint(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=9, limits=ROOMY, more=EARLY)
    first = engine.ledger.next()
    given = (first.number, first.config, first.recipe, first.seed, first.bundle, first.rungs)
    rung = next(toy_pipeline.run_in_rungs(engine.plan, engine.prepared, *given))
    engine.study._storage.set_trial_user_attr(first.trial_id, RUNGS, [rung.model_dump(mode="json")])
    assert Path(rung.checkpoint).is_file()
    engine.study.enqueue_trial(engine.study.get_trials()[0].params)  # comes before the first one's repeat
    engine.ledger.counts.add("waiting")
    engine.ledger.settle(first.number, "the worker process died", again=True)
    twin = engine.ledger.next()
    assert (twin.config, twin.recipe, twin.rungs.passed) == (first.config, first.recipe, ())
    engine.ledger.next()
    assert [trial.state for trial in load_study("toy").trials()] == ["orphaned", "running", "answered", "running"]
    assert not Path(rung.checkpoint).exists()


def test_ranks_decide_if_the_study_says_so(make_engine: EngineMaker) -> None:
    by_rank = {**KNOWN, "early_stopping": {"rungs": [0.1, 0.3], "promote_by": "rank"}}
    engine = make_engine(trials=6, limits=ROOMY, more=by_rank)
    assert engine.ledger._ladder._halving._worth is None
    engine.work(engine.ledger.next())
    assert engine.ledger.counts.paused == 0  # the first one goes on at once


@pytest.mark.parametrize("sampler", ["known-cost", "random"])
def test_others_go_on_in_place_of_those_that_fail(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    def make() -> Any:
        return make_engine(trials=12, limits=ROOMY, more={**KNOWN, "sampler": sampler})

    engine = make()
    while not engine.ledger.exhausted:
        assignment = engine.ledger.next()
        monkeypatch.setenv("SHOEBOX_TOY_FAIL", str(assignment.number) if engine.ledger.counts.failed < 6 else "")
        engine.work(assignment)
        engine.ledger.settle(assignment.number)
        if engine.ledger.counts.failed == 3:  # a resume knows as much
            engine = make()
    counts = engine.ledger.counts
    assert (counts.started, counts.failed) == (12, 6)
    assert counts.finished >= 1
    assert counts.finished + counts.paused == 6


def test_few_trials_or_one_alone_are_trained_to_their_end(make_engine: EngineMaker) -> None:
    for trials in (1, 4):
        engine = make_engine(trials=trials, limits=ROOMY, more=KNOWN)
        engine.run()
        assert engine.ledger.counts.finished == 1
        optuna.delete_study(study_name="toy", storage=engine.study._storage)
        shutil.rmtree(engine.ledger.bundles.parent)


def test_a_trial_at_a_rung_that_the_study_has_no_more_goes_on(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=1, limits=ROOMY, more={**KNOWN, "early_stopping": {"rungs": [0.1, 0.3, 0.9]}})
    engine.ledger._ladder._halving._worth = lambda waiting: dict.fromkeys(waiting, 2.0)
    assignment = engine.ledger.next()
    passed = []
    for found in toy_pipeline.run_in_rungs(
        engine.plan,
        engine.prepared,
        assignment.number,
        assignment.config,
        assignment.recipe,
        assignment.seed,
        assignment.bundle,
        assignment.rungs,
    ):
        passed.append(found.model_dump(mode="json"))
        engine.study._storage.set_trial_user_attr(assignment.trial_id, RUNGS, passed)
        if len(passed) == 3:
            break
    engine.study._storage.set_trial_user_attr(assignment.trial_id, PAUSED, 2)
    again = make_engine(trials=1, limits=ROOMY, more=KNOWN)
    promoted = again.ledger.next()
    assert (promoted.number, promoted.rungs.ahead(100)) == (assignment.number, [])
    again.work(promoted)
    assert again.ledger.settle(promoted.number) == "finished"


def test_of_a_trial_the_last_checkpoint_alone_is_kept(make_engine: EngineMaker) -> None:
    """The one that a repeat has taken over goes as well, once it has one of its own."""
    engine = make_engine(trials=9, limits=ROOMY, more=EARLY)
    first = engine.ledger.next()
    parts = toy_pipeline.run_in_rungs(
        engine.plan,
        engine.prepared,
        first.number,
        first.config,
        first.recipe,
        first.seed,
        first.bundle,
        first.rungs,
    )
    passed = [next(parts).model_dump(mode="json")]
    engine.study._storage.set_trial_user_attr(first.trial_id, RUNGS, passed)
    folders = engine.ledger.folders
    assert engine.ledger.goes_on(first.number)
    again = make_engine(trials=9, limits=ROOMY, more=EARLY)
    assert again.ledger.recover() == 1
    repeated = again.ledger.next()
    assert [rung.checkpoint for rung in repeated.rungs.passed] == [passed[0]["checkpoint"]]
    assert Path(passed[0]["checkpoint"]).is_file()
    again.work(repeated)
    assert [path.name for path in folders.all_checkpoints.rglob("*.txt")] == ["rung1.txt"]


def _half_searched(make_engine: EngineMaker) -> Any:
    """A search that was left with several paused trials."""
    engine = make_engine(trials=18, limits=ROOMY, more=EARLY)
    while len(engine.ledger._ladder.waiting) < 6:
        engine.work(engine.ledger.next())
    return engine


def test_paused_trials_without_their_checkpoints_start_anew(make_engine: EngineMaker) -> None:
    engine = _half_searched(make_engine)
    waiting = set(engine.ledger._ladder.waiting)
    shutil.rmtree(engine.ledger.folders.all_checkpoints)
    again = make_engine(trials=18, limits=ROOMY, more=EARLY)
    again.ledger.recover()
    again.run()
    again.ledger.close()
    counts = again.ledger.counts
    assert (counts.trained, counts.failed, counts.running, counts.paused, counts.waiting) == (18, 0, 0, 0, 0)
    promoted = [trial for trial in load_study("toy").trials("finished") if trial.number in waiting]
    assert promoted
    assert all([rung["rung"] for rung in trial.rungs] == [0, 1] for trial in promoted)


@pytest.mark.parametrize("change", ["moved", "linked"])
def test_checkpoints_are_found_in_a_home_of_another_name(
    make_engine: EngineMaker, home: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    engine = _half_searched(make_engine)
    waiting = set(engine.ledger._ladder.waiting)
    storage = engine.study._storage
    other = home.with_name("other")
    if change == "moved":
        storage.remove_session()
        home.rename(other)
    else:
        other.symlink_to(home)
    monkeypatch.setenv("SHOEBOX_HOME", str(other))
    again = make_engine(trials=18, limits=ROOMY, more=EARLY)
    again.ledger.recover()
    folders = again.ledger.folders
    assert {int(folder.name) for folder in folders.all_checkpoints.iterdir()} == waiting
    number = next(iter(waiting))
    (rungs,) = (
        again.ledger._ladder.rungs(trial.user_attrs, folders.checkpoints(number))
        for trial in again.study.get_trials()
        if trial.number == number
    )
    assert Path(rungs.passed[-1].checkpoint).parent.samefile(folders.checkpoints(number))
    again.run()
    again.ledger.close()
    assert not list(folders.all_checkpoints.iterdir())


def test_a_promoted_trial_of_an_imported_study_starts_anew(
    make_engine: EngineMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _half_searched(make_engine)
    export_study("toy", tmp_path / "toy.zip")
    shutil.rmtree(engine.ledger.folders.all_checkpoints)
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "elsewhere"))
    import_study(tmp_path / "toy.zip")
    there = make_engine(trials=18, limits=ROOMY, more=EARLY)
    there.ledger.recover()
    there.run()
    there.ledger.close()
    counts = there.ledger.counts
    assert (counts.trained, counts.failed, counts.orphaned) == (18, 0, 0)
    assert {trial.state for trial in load_study("toy").trials()} == {"finished", "stopped"}


def test_a_rung_whose_quality_is_no_number_leads_nowhere(
    make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOEBOX_TOY_NAN", "0")
    engine = make_engine(trials=3, limits=ROOMY, more=EARLY)
    engine.run()
    engine.ledger.close()
    assert load_study("toy").trial(0).state == "stopped"
