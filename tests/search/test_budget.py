"""Time that a search may take, and has taken."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError

from search.budget import SEARCHED, Time
from search.searcher import StudySearcher
from search.states import ERROR, FAILED_AFTER
from search.storage import default_url
from search.study import load_study

EngineMaker = Callable[..., Any]
Shoebox = Callable[..., subprocess.CompletedProcess[str]]
ROOMY = {"deployed_bytes": 20_000_000}
EARLY = {"sampler": "random", "early_stopping": {"rungs": [0.1, 0.3], "reduction_factor": 3}}


def test_training_hours_end_a_search(make_engine: EngineMaker) -> None:
    # A whole toy training counts as an hour, one that stops at its first rung as 6 minutes.
    engine = make_engine(trials=50, limits=ROOMY, more={**EARLY, "training_hours": 3.05})
    engine.run()
    engine.ledger.close()
    spent = engine.ledger.time.training_seconds / 3600
    assert 3.05 <= spent <= 4.1
    counts = engine.ledger.counts
    assert counts.trained < 50
    again = make_engine(trials=50, limits=ROOMY, more={**EARLY, "training_hours": 3.05}).ledger
    assert again.exhausted
    assert again.time.training_seconds == pytest.approx(3600 * spent)
    assert not make_engine(trials=50, limits=ROOMY, more={**EARLY, "training_hours": 9}).ledger.exhausted


def test_hours_count_over_resumes(make_engine: EngineMaker) -> None:
    engine = make_engine(trials=50, limits=ROOMY, more={"hours": 1})
    engine.run(1)
    engine.ledger.time._before = 3599.999
    engine.run(2)
    assert engine.ledger.exhausted
    assert engine.ledger.counts.trained < 4
    engine.ledger.close()
    assert make_engine(trials=50, limits=ROOMY, more={"hours": 1}).ledger.exhausted
    assert not make_engine(trials=50, limits=ROOMY, more={"hours": 2}).ledger.exhausted


def test_a_search_that_is_killed_forgets_little_of_its_time(make_engine: EngineMaker) -> None:
    engine = make_engine()
    spent = Time(engine.study)  # whatever is limited today: a resume may ask for hours in total
    spent.keep(every=60)
    first = engine.study.user_attrs[SEARCHED]
    spent._started -= 30
    spent.keep(every=60)
    assert engine.study.user_attrs[SEARCHED] == first
    spent._kept -= 60
    spent.keep(every=60)
    assert 30 <= engine.study.user_attrs[SEARCHED] < 60
    assert Time(engine.study, hours=0.001).over


def test_a_storage_that_takes_no_time_ends_no_search(make_engine: EngineMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any) -> None:
        raise StorageInternalError("locked")

    engine = make_engine(limits=ROOMY)
    monkeypatch.setattr(engine.study, "set_user_attr", locked)
    searcher = StudySearcher(engine.ledger, default_url(), workers=1)
    assert searcher.suggest("first")["assignment"].number == 0
    assert searcher.failure is None


def fail(engine: Any, **beside: float) -> None:
    """A worker fails; its driver is killed before it tells."""
    assignment = engine.ledger.next()
    for key, value in {**beside, ERROR: "no luck"}.items():
        engine.study._storage.set_trial_user_attr(assignment.trial_id, key, value)


def set_times(**columns: str) -> None:
    """Set times of all trials in the storage."""
    with closing(sqlite3.connect(default_url().removeprefix("sqlite:///"))) as connection:
        for name, moment in columns.items():
            connection.execute(f"UPDATE trials SET {name} = ?", [moment])
        connection.commit()


def test_what_failed_has_cost_what_its_worker_says(make_engine: EngineMaker) -> None:
    engine = make_engine(limits=ROOMY)
    fail(engine, **{FAILED_AFTER: 600.0})
    set_times(datetime_start="2026-01-01 00:00:00.000000")  # told months later
    again = make_engine(limits=ROOMY)
    again.ledger.recover()
    assert again.ledger.time.training_seconds == 600
    assert make_engine(limits=ROOMY).ledger.time.training_seconds == 600


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place whose clocks are set back in autumn."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_clocks_that_are_set_back_give_no_time_back(make_engine: EngineMaker) -> None:
    engine = make_engine(limits=ROOMY)
    fail(engine)
    engine.ledger.settle(0)
    set_times(datetime_start="2026-10-25 00:50:00.000000", datetime_complete="2026-10-25 01:10:00.000000")  # in UTC
    assert make_engine(limits=ROOMY).ledger.time.training_seconds == 0


@pytest.mark.usefixtures("toy")
def test_a_search_says_which_limit_of_time_ended_it(shoebox: Shoebox, toy_file: Path) -> None:
    done = shoebox("search", str(toy_file), "--trials", "5000", "--hours", "0.0005")
    said = re.findall(r"The search ends after (\d+) of 5000 trials: search\.hours 0\.0005 is spent\.", done.stderr)
    assert said == [str(len(load_study("toy").trials("finished")))]
    again = shoebox("search", str(toy_file), "--resume")
    assert f"The search ends after {said[0]} of 5000 trials" in again.stderr
