from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from runners.progress import duration
from search.progress import LiveDisplay, Monitor, NoDisplay, PlainDisplay, display_for
from search.states import RECORD
from search.study import load_study


def monitor_of(engine: Any) -> Monitor:
    return Monitor(engine.ledger, list(engine.file.objectives), engine.file.limits, "accuracy", NoDisplay())


def watch(engine: Any, display: Any) -> Monitor:
    file = engine.file
    monitor = Monitor(engine.ledger, list(file.objectives), file.limits, file.metric, display)
    while not engine.ledger.exhausted:
        assignment = engine.ledger.next()
        monitor(None, None)
        engine.work(assignment)
        monitor(assignment.number, engine.ledger.settle(assignment.number))
    return monitor


def test_plain_lines(make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_TOY_FAIL", "1")
    text = io.StringIO()
    console = Console(file=text)
    display = display_for(console)
    assert isinstance(display, PlainDisplay)
    engine = make_engine(trials=4, limits={"deployed_bytes": 20_000_000})
    watch(engine, display)
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert re.match(r"\d\d:\d\d:\d\d trial 0 accuracy 0\.\d{4}, \d\.\d\d ms, [\d,]+ bytes \(1 of 4 trials", lines[0])
    assert "trial 1 failed: the toy was told to fail" in lines[1]
    assert "left" in lines[0]
    assert "left" not in lines[-1]
    assert "4 of 4 trials, 0 running" in lines[-1]
    assert "1 failed" in lines[-1]


def test_figures_are_those_of_the_study_and_survive_a_resume(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(trials=5)
    snapshot = watch(engine, NoDisplay()).snapshot()
    study = load_study("toy")
    assert snapshot.best == study.best().quality
    assert snapshot.hypervolume == pytest.approx(study.hypervolume())
    again = make_engine(trials=9)
    resumed = monitor_of(again)
    assert resumed.snapshot().best == snapshot.best
    assert resumed.snapshot().seconds_left is None


def test_live_display_draws(make_engine: Callable[..., Any]) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    display = display_for(console)
    assert isinstance(display, LiveDisplay)
    display.start("toy")
    watch(make_engine(trials=2), display)
    display.stop()
    drawn = Console(file=io.StringIO(), width=120, record=True)
    drawn.print(display)
    shown = drawn.export_text()
    assert "2 of 2 trials, 0 running, " in shown
    assert "rejected as infeasible, 0 failed, best accuracy 0." in shown


def test_live_display_counts_time_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("search.progress.time.monotonic", lambda: now)
    display = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=120))
    now = 400.0  # the teacher was fine-tuned meanwhile
    display.start("toy")
    now = 405.0
    drawn = Console(file=io.StringIO(), width=120, record=True)
    drawn.print(display)
    display.stop()
    assert "toy: starting workers, 5 s" in drawn.export_text()


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (200, "3 min 20 s"), (1234, "21 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def work_for(engine: Any, assignment: Any, seconds: dict[str, float]) -> None:
    """Run a trial, whose record tells that it took so long."""
    engine.work(assignment)
    storage = engine.study._storage
    record = storage.get_trial(assignment.trial_id).user_attrs[RECORD]
    storage.set_trial_user_attr(assignment.trial_id, RECORD, {**record, "seconds": seconds})


def test_the_start_of_the_workers_is_no_part_of_the_pace(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("search.progress.time.monotonic", lambda: now)
    engine = make_engine(trials=3)
    monitor = monitor_of(engine)
    for ended in (160.0, 170.0):  # a minute, most of which the workers took to start; then 10 seconds
        assignment = engine.ledger.next()
        work_for(engine, assignment, {"train": 8.0, "measure": 2.0})
        now = ended
        monitor(assignment.number, engine.ledger.settle(assignment.number))
        left = engine.ledger.budget - engine.ledger.counts.trained
        assert monitor.snapshot().seconds_left == pytest.approx(10.0 * left)


def test_trials_that_fail_first_count_in_the_pace(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("search.progress.time.monotonic", lambda: now)
    engine = make_engine(trials=5)
    monitor = monitor_of(engine)
    for number in range(3):
        assignment = engine.ledger.next()
        if number == 2:  # the others never tell anything
            work_for(engine, assignment, {"train": 95.0})
        now += 100.0
        monitor(assignment.number, engine.ledger.settle(assignment.number))
        left = engine.ledger.budget - engine.ledger.counts.trained
        assert monitor.snapshot().seconds_left == pytest.approx(100.0 * left)


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ({"training_hours": 0.01}, (36 - 16) / 0.8),  # 8 of 10 seconds are training
        ({"hours": 0.01}, 36 - 20),
        ({"hours": 1, "training_hours": 1}, 980),  # 98 trials
    ],
)
def test_limits_of_time_end_a_search_before_its_trials(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, limit: dict[str, float], left: float
) -> None:
    now = 100.0
    monkeypatch.setattr("search.progress.time.monotonic", lambda: now)
    engine = make_engine(trials=100, limits={"deployed_bytes": 20_000_000}, more=limit)
    engine.ledger.time._started = now
    monitor = monitor_of(engine)
    for ended in (110.0, 120.0):
        assignment = engine.ledger.next()
        work_for(engine, assignment, {"train": 8.0, "measure": 2.0})
        now = ended
        monitor(assignment.number, engine.ledger.settle(assignment.number))
    assert monitor.snapshot().seconds_left == pytest.approx(left)
