"""What is written of a trial without Optuna's objects is what Optuna would write, also by several at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from helpers.postgresql_server import PostgresServer
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import update
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from search import postgresql as postgresql_module
from search.direct_storage import DirectStorage
from search.postgresql import with_driver
from search.storage import open_storage
from search.tables import TRIALS

BOTH = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def direct(url: str) -> RDBStorage:
    """Ours, without connections that it keeps."""
    storage = open_storage(url, keep_connections=False)
    assert isinstance(storage, DirectStorage)
    return storage


def optunas_own(url: str) -> RDBStorage:
    address = with_driver(make_url(url)).render_as_string(hide_password=False)
    return RDBStorage(address, engine_kwargs={"poolclass": NullPool})


@pytest.fixture
def far_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def write_all(storage: RDBStorage, name: str) -> int:
    """Trials of every kind; the id of their study."""
    study = storage.create_new_study(BOTH, name)
    finished, failed, _, waiting = (storage.create_new_trial(study) for _ in range(4))
    storage.set_trial_user_attr(finished, "record", {"quality": 0.5})
    storage.set_trial_user_attr(finished, "record", {"quality": math.inf})  # the last one counts
    storage.set_trial_system_attr(finished, "constraints", [0.1])
    assert storage.set_trial_state_values(finished, TrialState.COMPLETE, [math.inf, -math.inf])
    assert storage.set_trial_state_values(failed, TrialState.FAIL)
    assert storage.set_trial_state_values(waiting, TrialState.WAITING)
    claimed = storage.create_new_trial(study, optuna.create_trial(state=TrialState.WAITING))
    assert storage.set_trial_state_values(claimed, TrialState.RUNNING)
    assert not storage.set_trial_state_values(claimed, TrialState.RUNNING)
    storage.set_trial_user_attr(claimed, "again", None)
    return study


def shown(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.number, trial.state, trial.values, trial.user_attrs, trial.system_attrs


def test_what_is_written_is_what_optuna_writes(storage_url: str, far_west: None) -> None:
    ours, own = direct(storage_url), optunas_own(storage_url)
    written, wanted = (own.get_all_trials(write_all(storage, f"{place}")) for place, storage in enumerate((ours, own)))
    assert list(map(shown, written)) == list(map(shown, wanted))
    for one, other in zip(written, wanted, strict=True):
        for moment, expected in (
            (one.datetime_start, other.datetime_start),
            (one.datetime_complete, other.datetime_complete),
        ):
            assert (moment is None) == (expected is None)
            assert moment is None or abs(datetime.now() - moment) < timedelta(minutes=5)
    made = ours._create_new_trial(1)
    assert shown(made) == shown(own.get_trial(made._trial_id))
    assert made.datetime_start == own.get_trial(made._trial_id).datetime_start


def test_what_has_finished_or_is_not_there_is_refused(storage_url: str) -> None:
    storage = direct(storage_url)
    study = storage.create_new_study(BOTH)
    trial = storage.create_new_trial(study)
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0, 2.0])
    for number, error in ((trial, UpdateFinishedTrialError), (trial + 100, KeyError)):
        with pytest.raises(error):
            storage.set_trial_user_attr(number, "late", 1)
        with pytest.raises(error):
            storage.set_trial_system_attr(number, "late", 1)
        with pytest.raises(error):
            storage.set_trial_state_values(number, TrialState.COMPLETE, [3.0, 4.0])
    with pytest.raises(KeyError):
        storage.create_new_trial(study + 100)
    assert [(t.values, t.user_attrs, t.system_attrs) for t in storage.get_all_trials(study)] == [([1.0, 2.0], {}, {})]


def test_trials_that_are_made_at_a_time_have_numbers_of_their_own(storage_url: str) -> None:
    study = direct(storage_url).create_new_study(BOTH)
    storages = [direct(storage_url), optunas_own(storage_url), direct(storage_url), direct(storage_url)]
    with ThreadPoolExecutor(len(storages)) as threads:
        made = list(threads.map(lambda number: storages[number % len(storages)].create_new_trial(study), range(40)))
    assert len(set(made)) == 40
    assert sorted(trial.number for trial in storages[0].get_all_trials(study)) == list(range(40))


def test_of_many_who_claim_or_end_a_trial_one_does(storage_url: str) -> None:
    storages = [direct(storage_url) for _ in range(4)]
    study = storages[0].create_new_study(BOTH)
    waiting = optuna.create_trial(state=TrialState.WAITING)
    trials = [storages[0].create_new_trial(study, waiting) for _ in range(10)]

    def claim(storage: RDBStorage) -> int:
        return sum(storage.set_trial_state_values(trial, TrialState.RUNNING) for trial in trials)

    def end(storage: RDBStorage) -> int:
        ended = 0
        for trial in trials:
            with suppress(UpdateFinishedTrialError):
                ended += storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0, 2.0])
        return ended

    with ThreadPoolExecutor(len(storages)) as threads:
        assert sum(threads.map(claim, storages)) == len(trials)
        assert sum(threads.map(end, storages)) == len(trials)


@pytest.mark.parametrize("trusted", [0.0, 60.0])
def test_a_trial_is_made_once_though_the_server_restarts_before(
    postgresql: Any, trusted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_module, "TRUSTED_SECONDS", trusted)
    storage = open_storage(postgresql.new_url())
    study = storage.create_new_study(BOTH)
    storage.create_new_trial(study)
    postgresql.stop()
    postgresql.start()
    storage.create_new_trial(study)
    assert [trial.number for trial in storage.get_all_trials(study)] == [0, 1]


def test_nothing_is_written_of_a_trial_that_another_process_is_about_to_end(
    postgresql: PostgresServer,
) -> None:
    url = postgresql.new_url()
    ending, writing = direct(url), direct(url)
    trial = writing.create_new_trial(writing.create_new_study(BOTH, "one"))
    with ThreadPoolExecutor() as pool:
        with ending.engine.begin() as connection:
            connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial).values(state=TrialState.FAIL))
            written = pool.submit(writing.set_trial_user_attr, trial, "record", {"quality": 0.5})
            with pytest.raises(TimeoutError):
                written.result(timeout=1)  # it waits until the other one is done
        with pytest.raises(UpdateFinishedTrialError):
            written.result(timeout=30)
    assert writing.get_trial(trial).user_attrs == {}
