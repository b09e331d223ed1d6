"""What a worker writes of a trial, without Ray."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from typing import Any

import pytest
import toy_pipeline
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from runners.rungs import RungResult
from search import worker as worker_module
from search.states import ERROR, FAILED_AFTER, ORPHANED, RECORD, RUNGS, STOPPED, TRACEBACK
from search.storage import default_url
from search.worker import TrialWorker, WorkerSettings
from space.errors import OutputError


@pytest.fixture
def make_worker(make_engine: Callable[..., Any]) -> Callable[..., tuple[TrialWorker, Callable[[], dict[str, Any]]]]:
    def make(more: dict[str, Any] | None = None) -> tuple[TrialWorker, Callable[[], dict[str, Any]]]:
        engine = make_engine(limits={"deployed_bytes": 20_000_000}, more=more)
        assignment = engine.ledger.next()
        worker = TrialWorker.__new__(TrialWorker)  # Ray's own initialisation is not needed
        settings = WorkerSettings("toy_pipeline", engine.plan, default_url(), 1, ())
        worker.setup({"assignment": assignment}, settings)
        return worker, lambda: engine.study._storage.get_trial(assignment.trial_id).user_attrs

    return make


def raising(error: Exception) -> Callable[..., None]:
    def run_trial(*_: Any) -> None:
        raise error

    return run_trial


def test_errors_are_one_line_with_their_traceback_beside(make_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy_pipeline, "run_trial", raising(RuntimeError("first line\n  second line")))
    worker, attributes = make_worker()
    assert worker.step() == {"outcome": ERROR, "done": True}
    assert attributes()[ERROR] == "RuntimeError: first line second line"
    assert "in run_trial" in attributes()[TRACEBACK]
    assert 0 <= attributes()[FAILED_AFTER] < 60


def test_an_error_that_no_file_can_hold_leaves_the_study_readable(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(toy_pipeline, "run_trial", raising(RuntimeError("cannot read \udcff.csv of 'n\u00e4chste'")))
    worker, attributes = make_worker()
    worker.step()
    assert attributes()[ERROR] == "RuntimeError: cannot read \\udcff.csv of 'n\u00e4chste'"
    assert "cannot read \\udcff.csv" in attributes()[TRACEBACK]
    assert "cannot read \\udcff.csv" in caplog.text


@pytest.mark.parametrize(
    "error", [OutputError("x cannot be written: the disk is full."), OSError(errno.ENOSPC, "full")]
)
def test_what_cannot_be_written_stops_the_search(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(toy_pipeline, "run_trial", raising(error))
    worker, attributes = make_worker()
    assert worker.step()["outcome"] == STOPPED
    assert ERROR not in attributes()


def test_a_trial_that_begins_anew_has_each_rung_once(make_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, attributes = make_worker({"early_stopping": {"rungs": [0.1, 0.3], "reduction_factor": 3}})
    for _ in range(2):
        assert worker.step()["outcome"] == RUNGS
    passed = tuple(RungResult.model_validate(rung) for rung in attributes()[RUNGS])
    assert [rung.rung for rung in passed] == [0, 1]
    rungs = dataclasses.replace(worker._assignment.rungs, passed=passed)
    again = dataclasses.replace(worker._assignment, rungs=rungs)
    begin = toy_pipeline.run_in_rungs

    def without_checkpoint(*given: Any) -> Any:
        return begin(*given[:-1], dataclasses.replace(given[-1], passed=()))

    monkeypatch.setattr(toy_pipeline, "run_in_rungs", without_checkpoint)
    worker.reset_config({"assignment": again})
    for count in (1, 2):
        assert worker.step()["outcome"] == RUNGS
        assert [rung["rung"] for rung in attributes()[RUNGS]] == [0, 1][:count]


def test_a_trial_that_fails_after_a_rung_has_cost_what_led_there(
    make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = toy_pipeline.run_in_rungs

    def until_first(*given: Any) -> Any:
        yield next(begin(*given))
        raise RuntimeError("no luck")

    monkeypatch.setattr(toy_pipeline, "run_in_rungs", until_first)
    worker, attributes = make_worker({"early_stopping": {"rungs": [0.1, 0.3]}})
    assert [worker.step()["outcome"] for _ in range(2)] == [RUNGS, ERROR]
    trained = attributes()[RUNGS][-1]["seconds"]["train"]
    assert trained > 0
    assert 0 <= attributes()[FAILED_AFTER] - trained < 60


def test_a_locked_storage_is_asked_again(make_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "WRITE_PAUSES", (0.0, 0.0))
    worker, attributes = make_worker()
    write = worker._study_storage.write_together
    failures = [StorageInternalError("locked"), StorageInternalError("locked")]

    def locked(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        write(*arguments)

    monkeypatch.setattr(worker._study_storage, "write_together", locked)
    assert worker.step()["outcome"] == RECORD
    assert attributes()[RECORD]["trial"] == 0


def test_a_trial_that_another_driver_took_over_costs_no_worker(
    make_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker, attributes = make_worker()
    worker._study_storage.set_trial_state_values(worker._assignment.trial_id, TrialState.FAIL)
    assert worker.step() == {"outcome": ORPHANED, "done": True}
    assert RECORD not in attributes()
    assert "Trial 0 was taken over by another driver" in caplog.text
