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
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
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


def frozen(number: int, state: TrialState, **more: Any) -> FrozenTrial:
    began, ended = datetime(2026, 3, 8, 1, 59, 59, 123456), datetime(2026, 11, 1, 1, 30, 0, 5)
    given: dict[str, Any] = {"values": None, "params": {}, "distributions": {}, "user_attrs": {}, "system_attrs": {}}
    given |= {"intermediate_values": {}, "value": None, "trial_id": number, "datetime_complete": None}
    given["datetime_start"] = None if state == TrialState.WAITING else began + timedelta(minutes=number)
    if state.is_finished():
        given["datetime_complete"] = ended + timedelta(minutes=number)
    return FrozenTrial(number=number, state=state, **given | more)


def every_kind() -> list[FrozenTrial]:
    distributions = {
        "rate": FloatDistribution(1e-4, 1e-2, log=True),
        "share": FloatDistribution(0.1, 0.7, step=0.2),
        "depth": IntDistribution(1, 9, step=2),
        "kind": CategoricalDistribution(["a", None, 2, 0.5, True]),
    }
    params = {"kind": True, "rate": 1e-4, "depth": 3, "share": 0.1 + 2 * 0.2}  # in another order
    attributes = {"record": {"of": [1, None, "\u00e4\udcff", math.nan, -math.inf, 1e-05, 10**20]}, "ä": None}
    steps = {3: math.inf, 1: -math.inf, 2: math.nan, 10: 0.1, -(2**31): 0.1 + 0.2}
    described: dict[str, Any] = {"params": params, "distributions": distributions}
    rest = {name: distribution for name, distribution in distributions.items() if name != "kind"}
    return [
        frozen(0, TrialState.COMPLETE, values=[0.1 + 0.2, math.inf], user_attrs=attributes, **described),
        frozen(1, TrialState.COMPLETE, values=[-math.inf, 1e-310], intermediate_values=steps),
        frozen(2, TrialState.WAITING, system_attrs={"fixed_params": params, "constraints": [0.5]}),
        frozen(3, TrialState.RUNNING, user_attrs=attributes, intermediate_values=steps, **described),
        frozen(4, TrialState.PRUNED, system_attrs={"constraints:ms": -1.0}, intermediate_values=steps),
        frozen(5, TrialState.FAIL, user_attrs={"error": "no"}),
        frozen(6, TrialState.FAIL, datetime_start=None, user_attrs={"orphaned": True}),  # taken back from the queue
        frozen(7, TrialState.RUNNING, params={n: params[n] for n in rest}, distributions=rest),
    ]


def whole(trial: FrozenTrial) -> tuple[Any, ...]:
    """All that there is of a trial but its id; as text, in which NaN is equal to NaN, and True is not 1."""
    moments = trial.datetime_start, trial.datetime_complete
    return tuple(map(repr, (*shown(trial), trial.params, trial.distributions, trial.intermediate_values, moments)))


@pytest.mark.parametrize("together", [1, 3, 500])
def test_trials_that_are_added_together_are_those_that_optuna_adds(
    storage_url: str, together: int, far_west: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.direct_storage.TOGETHER", together)
    ours, own = direct(storage_url), optunas_own(storage_url)
    assert isinstance(ours, DirectStorage)
    ours.create_new_trial(ours.create_new_study(BOTH))  # ids are no numbers
    added, wanted = (storage.create_new_study(BOTH) for storage in (ours, own))
    for trial in every_kind():
        own.create_new_trial(wanted, trial)
    ours.add_trials(added, every_kind())
    for reader in (own, ours):
        found, expected = ([whole(trial) for trial in reader.get_all_trials(study)] for study in (added, wanted))
        assert found == expected
    assert [trial.number for trial in own.get_all_trials(added)] == list(range(8))
    ids = [trial._trial_id for trial in own.get_all_trials(added)]
    assert ids == sorted(ids)
    assert ours.create_new_trial(added) > ids[-1]
    with pytest.raises(KeyError):
        ours.add_trials(added + 100, every_kind())


@pytest.mark.parametrize(
    "other", [IntDistribution(1, 9), FloatDistribution(1e-4, 1e-2), CategoricalDistribution([0.001])]
)
def test_trials_whose_parameters_have_other_distributions_are_not_added(storage_url: str, other: Any) -> None:
    storage = direct(storage_url)
    assert isinstance(storage, DirectStorage)
    study = storage.create_new_study(BOTH)
    wrong = frozen(8, TrialState.RUNNING, params={"rate": other.to_external_repr(0)}, distributions={"rate": other})
    with pytest.raises(ValueError, match="to the same parameter name"):
        storage.add_trials(study, [*every_kind(), wrong])
    assert storage.get_all_trials(study) == []


@pytest.mark.parametrize("before", [True, False])
def test_trials_are_added_once_though_the_connection_breaks(
    storage_url: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before or after the server has done what it was asked for."""
    monkeypatch.setattr("search.direct_storage.TOGETHER", 3)
    storage = direct(storage_url)
    assert isinstance(storage, DirectStorage)
    study, adding, left = storage.create_new_study(BOTH), storage._add_next, [1, 1, 1, 0, 1, 0]

    def breaking(*given: Any) -> int:
        breaks = left and left.pop()
        if breaks and before:
            raise StorageInternalError
        there = adding(*given)
        if breaks:
            raise StorageInternalError
        return there

    monkeypatch.setattr(storage, "_add_next", breaking)
    storage.add_trials(study, every_kind())
    assert [trial.number for trial in storage.get_all_trials(study)] == list(range(8))
    left[:] = [1] * 9
    with pytest.raises(StorageInternalError):
        storage.add_trials(storage.create_new_study(BOTH), every_kind())


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
