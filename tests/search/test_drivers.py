"""Several processes that search one study at a time, on a real PostgreSQL server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.postgresql_server import PostgresServer
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from search import drivers as drivers_module
from search.assignment import NothingToDo
from search.direct_storage import DirectStorage
from search.drivers import Drivers
from search.postgresql import ServerLock
from search.run import unshared
from search.samplers import RETRY_OF
from search.states import DRIVER
from search.storage import find_study, open_storage
from search.study import load_study, study_folder
from search.study_file import load_study_file
from space.errors import InputError

ROOMY = {"deployed_bytes": 20_000_000}
Engines = Callable[..., Any]


@pytest.fixture
def url(postgresql: PostgresServer) -> str:
    return postgresql.new_url()


@pytest.fixture
def join(url: str, make_engine: Engines) -> Iterator[Engines]:
    """Engines of drivers of their own, in this process."""
    joined = []

    def engine(**settings: Any) -> Any:
        joined.append(Drivers("toy", url, study_folder("toy")))
        return make_engine(url=url, drivers=joined[-1], **settings)

    yield engine
    for drivers in joined:
        drivers.leave()


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage is looked at as often as possible."""
    monkeypatch.setattr("search.shared_ledger.LOOK_SECONDS", 0.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, watchful: None) -> None:
    """Signs of life come often, too. On a busy machine a driver that lives may miss some, and be taken for dead."""
    monkeypatch.setattr("search.drivers.BEAT_SECONDS", 0.1)


def settle_all(engine: Any) -> int:
    """Work as `StudySearcher` does, until the study is over for all its drivers; how many trials this one had."""
    count, until = 0, time.monotonic() + 60
    while time.monotonic() < until:
        engine.ledger.look()
        if engine.ledger.exhausted:
            return count
        try:
            assignment = engine.ledger.next()
        except NothingToDo:
            time.sleep(0.02)
            continue
        engine.work(assignment)
        engine.ledger.settle(assignment.number)
        count += 1
    raise AssertionError("the study did not end")


def states() -> Counter[str]:
    return Counter(trial.state for trial in load_study("toy").trials())


@pytest.fixture(autouse=True)
def storage_of_commands(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_STORAGE", url)


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("limits", [ROOMY, {"deployed_bytes": 600_000}])
def test_drivers_that_race_keep_the_budget(join: Engines, limits: dict[str, int]) -> None:
    engines = [join(trials=30, limits=limits) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(settle_all, engines))
    assert sum(counts) == 30
    assert min(counts) > 0
    found = load_study("toy")
    assert set(states()) <= {"finished", "infeasible", "answered", "orphaned"}
    assert len(found.trials("finished")) == 30
    trials = optuna.load_study(study_name="toy", storage=open_storage(os.environ["SHOEBOX_STORAGE"])).get_trials()
    assert {trial.user_attrs[DRIVER] for trial in trials if DRIVER in trial.user_attrs} == {
        engine.ledger.driver for engine in engines
    }
    # Nothing was trained by two of them.
    trained = [trial.record for trial in found.trials("finished")]
    assert len({(str(record.config), str(record.recipe)) for record in trained}) == 30


@pytest.mark.usefixtures("hasty")
def test_what_others_finished_is_told_once(join: Engines) -> None:
    one, other = join(trials=4, limits=ROOMY), join(trials=4, limits=ROOMY)
    one.run(2)
    assert other.ledger.look() == [(0, "finished"), (1, "finished")]
    assert other.ledger.look() == []
    other.run(1)
    mine = one.ledger.next()  # a look at the storage, too
    assert one.ledger.look() == [(2, "finished")]
    one.work(mine)
    one.ledger.settle(mine.number)
    other.ledger.look()
    assert one.ledger.counts == other.ledger.counts
    for engine in (one, other):
        engine.ledger.drivers.leave()
    assert [key for key in one.study.user_attrs if key.startswith("driver")] == ["driver:joined"]
    assert not any((study_folder("toy") / "drivers").iterdir())


def fall_silent(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another host, whose processes nobody here knows."""
    monkeypatch.setattr("search.drivers.this_machine", lambda: "another one")
    engine.ledger.drivers._ended.set()


@pytest.mark.usefixtures("hasty")
def test_trials_of_one_that_falls_silent_are_taken_over(join: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, other = join(trials=5, limits=ROOMY), join(trials=5, limits=ROOMY)
    left = silent.ledger.next()
    mine = other.ledger.next()
    half_written = mine.bundle.with_name(f".{mine.bundle.name}.part")
    half_written.mkdir(parents=True)
    fall_silent(silent, monkeypatch)
    until = time.monotonic() + 60
    while load_study("toy").trial(left.number).state == "running" and time.monotonic() < until:
        other.ledger.look()
    assert half_written.exists()
    other.work(mine)
    other.ledger.settle(mine.number)
    assert settle_all(other) == 4
    assert states() == {"finished": 5, "orphaned": 1}
    assert load_study("toy").trial(left.number).state == "orphaned"
    assert other.ledger.drivers.others() == (set(), set())
    # It was asleep: what it does with the trial now changes nothing.
    assert silent.ledger.settle(left.number) == "orphaned"
    assert settle_all(silent) == 0
    assert states() == {"finished": 5, "orphaned": 1}


@pytest.mark.usefixtures("watchful")
def test_one_that_was_taken_for_dead_is_seen_before_it_hands_out(join: Engines) -> None:
    asleep, other = join(trials=4, limits=ROOMY), join(trials=4, limits=ROOMY)
    with other.ledger.turn():
        other.ledger.drivers.bury({asleep.ledger.driver})
    mine = asleep.ledger.next()  # awake, before it has given a sign of life
    for _ in range(2):
        other.ledger.look()
    asleep.work(mine)
    assert asleep.ledger.settle(mine.number) == "finished"
    assert settle_all(other) == 3
    assert states() == {"finished": 4}


@pytest.mark.usefixtures("hasty")
def test_trials_of_one_that_lives_are_left_to_it(join: Engines) -> None:
    one = join(trials=5, limits=ROOMY)
    mine = one.ledger.next()
    other = join(trials=5, limits=ROOMY)
    assert other.ledger.recover() == 0
    until = time.monotonic() + 2 * drivers_module.MISSED_BEATS * drivers_module.BEAT_SECONDS + 0.5
    while time.monotonic() < until:  # a look between two counts must not hide a sign of life from them
        other.ledger.drivers.read()
        assert other.ledger.drivers.others() == ({one.ledger.driver}, set())
    other.ledger.look()
    other.run(4)
    one.work(mine)
    assert one.ledger.settle(mine.number) == "finished"
    assert states() == {"finished": 5}


@pytest.mark.usefixtures("hasty")
def test_one_that_was_not_looking_while_another_came_and_went(join: Engines) -> None:
    one = join(trials=4, limits=ROOMY)
    one.run(1)
    one.ledger.drivers._ended.set()  # it sleeps
    other = join(trials=4, limits=ROOMY)
    other.run(2)
    other.ledger.drivers.leave()
    assert settle_all(one) == 1
    assert states() == {"finished": 4}


@pytest.mark.usefixtures("hasty")
def test_one_that_leaves_its_trials_behind(join: Engines) -> None:
    one, other = join(trials=3, limits=ROOMY), join(trials=3, limits=ROOMY)
    left = one.ledger.next()
    one.ledger.drivers.leave()  # its recovery failed
    assert settle_all(other) == 3
    assert load_study("toy").trial(left.number).state == "orphaned"


@pytest.mark.usefixtures("hasty")
def test_one_that_cannot_share_stops_when_it_is_taken_over(join: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    front = {"keep_bundles": "front"}
    asleep = join(trials=3, limits=ROOMY, more=front)
    asleep.ledger.next()
    fall_silent(asleep, monkeypatch)
    monkeypatch.setattr("search.drivers.this_machine", lambda: "this one")
    other = join(trials=3, limits=ROOMY, more=front)
    assert other.ledger.recover() == 1
    with pytest.raises(InputError, match="Another process has taken study 'toy' over"):
        asleep.ledger.next()
    other.run()
    assert states() == {"finished": 3, "orphaned": 1}


def test_a_trial_that_was_being_asked_for_has_no_driver(join: Engines) -> None:
    one = join(trials=3, limits=ROOMY)
    one.study.ask()  # and killed here
    other = join(trials=3, limits=ROOMY)
    assert other.ledger.recover() == 1
    other.run()
    assert states() == {"finished": 3, "orphaned": 1}


def test_what_drivers_share_neither_files_nor_a_clock_for(toy_file: Path) -> None:
    assert unshared(load_study_file(toy_file)) is None
    assert unshared(load_study_file(toy_file, {"latency": "native", "workers": 1})) == "device.latency: native"


@pytest.mark.usefixtures("hasty")
def test_what_cannot_be_shared(join: Engines, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = join(trials=3, limits=ROOMY)
    second = Drivers("toy", url, study_folder("toy"))
    with pytest.raises(InputError, match=f"searched by process {os.getpid()} of .* because of search.early_stopping"):
        second.join(one.study, None, "search.early_stopping")
    elsewhere = Drivers("toy", url, tmp_path / "another home" / "toy")
    with pytest.raises(InputError, match=r"start it with .* at a URL, or give all hosts"):
        elsewhere.join(one.study, None, None)
    assert not second.others()[0]
    elsewhere.join(one.study, "s3://bucket/toy", None)
    assert elsewhere.others() == ({one.ledger.driver}, set())
    elsewhere.leave()
    # One that is dead keeps nobody away.
    fall_silent(one, monkeypatch)
    second.join(one.study, None, "search.early_stopping")
    assert second.others() == (set(), set())
    third = Drivers("toy", url, study_folder("toy"))
    with pytest.raises(InputError, match="was started as a study that cannot be shared"):
        third.join(one.study, None, None)
    second.leave()


def test_a_lock_of_the_server(url: str, postgresql: PostgresServer) -> None:
    one, other, third = ServerLock(url, 7), ServerLock(url, 7), ServerLock(url, 8)
    one.acquire()
    assert not other.try_acquire()
    assert third.try_acquire()
    one.release()
    assert other.try_acquire()
    other.close()  # as if its process had died
    one.acquire()  # the server takes a moment to notice
    postgresql.stop()
    postgresql.start()
    one.release()
    one.acquire()
    assert not other.try_acquire()
    for lock in (one, other, third):
        lock.close()


def test_a_lock_that_was_waited_for_in_vain_can_be_taken_later(url: str) -> None:
    one, other = ServerLock(url, 7), ServerLock(url, 7)
    one.acquire()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            other.acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not other.try_acquire()
    one.release()
    assert other.try_acquire()
    for lock in (one, other):
        lock.close()


def start(command: list[str], seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SHOEBOX_TOY_SECONDS": str(seconds)},
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def handed_out() -> list[tuple[str, TrialState]]:
    """Who handed out each trial, and how it stands."""
    study = find_study(open_storage(os.environ["SHOEBOX_STORAGE"], keep_connections=False), "toy")
    trials = [] if study is None else study.get_trials()
    return [(trial.user_attrs[DRIVER], trial.state) for trial in trials if DRIVER in trial.user_attrs]


def test_two_searches_share_a_study_and_one_is_killed(shoebox_command: list[str], toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 20000000"))
    search = [*shoebox_command, "search", str(toy_file), "--trials", "20", "--workers", "1"]
    first = start(search, seconds=60)  # killed before that, however slowly the second one starts
    try:
        wait_for(lambda: bool(handed_out()))
        slow = handed_out()[0][0]
        second = start([*search, "--resume"], seconds=0.1)
        try:
            wait_for(lambda: {driver for driver, _ in handed_out()} > {slow})
            assert (slow, TrialState.RUNNING) in handed_out()
            os.kill(first.pid, signal.SIGKILL)
            first.wait(30)
            _, errors = second.communicate(timeout=180)
        finally:
            second.kill()
    finally:
        first.kill()
    assert second.returncode == 0, errors
    assert f"Study 'toy' is shared with process {first.pid} of " in errors
    assert states() == {"finished": 20, "orphaned": 1}
    assert "(20 of 20 trials, 0 running" in errors


@pytest.mark.parametrize("queued", [False, True])
def test_nothing_is_left_running_where_the_answer_of_the_server_is_lost(
    queued: bool, join: Engines, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server makes a trial, or takes one from the queue; the connection breaks before it says so, and the call is
    made again."""
    first = join(trials=6, sampler="random", limits=ROOMY)
    first.run(2)
    if queued:
        first.study.enqueue_trial(first.proposals()[0] | {"depth": 1})
    engine = join(trials=6, sampler="random", limits=ROOMY)  # which knows of what is queued
    asking, transaction, lost = engine.study.ask, DirectStorage._transaction, []

    def ask() -> Any:
        monkeypatch.setattr(DirectStorage, "_transaction", losing)
        return asking()

    @contextmanager
    def losing(storage: DirectStorage) -> Iterator[Any]:
        monkeypatch.setattr(DirectStorage, "_transaction", transaction)
        with transaction(storage) as connection:
            yield connection
        if not lost:
            lost.append(True)
            cause = OperationalError("COMMIT", {}, Exception("cut off"), connection_invalidated=True)
            raise StorageInternalError("the server closed the connection") from cause

    monkeypatch.setattr(engine.study, "ask", ask)
    settle_all(engine)
    assert lost
    trials = engine.study.get_trials(deepcopy=False)
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    assert states() == {"finished": 6, "orphaned": 1}
    assert any(trial.params.get("depth") == 1 and RETRY_OF in trial.user_attrs for trial in trials) == queued


def test_a_trial_that_no_driver_has_is_run_by_those_that_live(join: Engines, hasty: None) -> None:
    """Its driver died while it asked for it, or went on to another one since the connection broke."""
    engines = [join(trials=4, limits=ROOMY), join(trials=4, limits=ROOMY)]
    engines[0].run(1)
    storage = engines[0].study._storage
    storage.create_new_trial(engines[0].study._study_id)
    assert settle_all(engines[1]) == 3
    assert states() == {"finished": 4, "orphaned": 1}


def test_a_driver_that_keeps_bundles_elsewhere_is_kept_out_while_others_live(
    join: Engines, hasty: None, url: str
) -> None:
    first, other = join(trials=4), Drivers("toy", url, study_folder("toy"))
    with other.turn(), pytest.raises(InputError, match="is being searched by process") as caught:
        other.join(first.study, f"file://{study_folder('toy')}", None, moved=True)
    assert "without --bundles" in str(caught.value.hint)
    other.leave()
