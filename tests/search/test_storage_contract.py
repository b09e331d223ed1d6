"""What every storage has to do, on SQLite and on a real PostgreSQL server."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from search import postgresql as postgresql_module
from search import trial_reader
from search.postgresql import with_driver
from search.samplers import PLACE, RETRY_OF, place
from search.states import BYTES, ORPHANED, PAUSED
from search.storage import create_study, find_study, open_storage, set_constraints, study_names
from search.study import load_study, study_folder
from search.study_storage import Writes, one_proposal, rest
from search.trial_reader import MOST_IDS
from space.errors import InputError

ROOMY = {"deployed_bytes": 20_000_000}


def test_a_study_runs_and_is_read_back(storage_url: str, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(url=storage_url, trials=4)
    engine.run()
    study = load_study("toy", storage_url)
    assert len(study.trials("finished")) == 4
    assert {trial.number for trial in study.trials() if trial.feasible} == {record.trial for record in study.records()}
    assert study.best().quality == max(record.quality for record in study.records())


def test_the_same_seed_proposes_the_same_on_every_storage(storage_url: str, make_engine: Callable[..., Any]) -> None:
    here, there = make_engine(trials=3), make_engine(url=storage_url, trials=3)
    here.run()
    shutil.rmtree(study_folder("toy") / "trials")  # the second study of that name would write there
    there.run()
    assert there.proposals() == here.proposals()


def test_what_ran_is_queued_again(storage_url: str, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(url=storage_url, trials=3, limits=ROOMY)
    engine.run(1)
    lost = engine.ledger.next()
    again = make_engine(url=storage_url, trials=3, limits=ROOMY)
    assert again.ledger.recover() == 1
    again.run()
    trials = again.study.get_trials()
    assert [trial.number for trial in trials if ORPHANED in trial.user_attrs] == [lost.number]
    assert [trial.params for trial in trials if trial.user_attrs.get(RETRY_OF) == lost.number] == [
        trials[lost.number].params
    ]
    assert again.ledger.counts.finished == 3
    assert not any(trial.state == optuna.trial.TrialState.RUNNING for trial in trials)


def test_constraints_by_id_stay_as_first_set(storage_url: str) -> None:
    study = optuna.create_study(storage=open_storage(storage_url))
    trial = study.ask()
    set_constraints(study, trial._trial_id, {"bytes": 0.5, "ms": -1})
    set_constraints(study, trial._trial_id, {"bytes": 0.7})
    assert study.get_trials()[0].constraints == {"bytes": 0.5, "ms": -1}


def passing(url: str) -> RDBStorage:
    """A storage that keeps none of the server's connections, of which there are few."""
    return open_storage(url, keep_connections=False)


def ask_twice(study: optuna.Study) -> None:
    """Suggests by every distribution and sets attributes of both kinds, of two trials."""
    for _ in range(2):
        trial = study.ask()
        trial.suggest_int("depth", 1, 4)
        trial.suggest_float("rate", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("bits", [2, 4, 8])
        trial.set_user_attr("bytes", 12)
        trial.set_user_attr("bytes", 13)  # the last one counts
        set_constraints(study, trial._trial_id, {"ms": 0.5}, known=())


def test_what_is_held_is_written_at_the_end_as_if_one_by_one(storage_url: str) -> None:
    storage = passing(storage_url)
    held, single = (
        optuna.create_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=0))
        for name in ("held", "single")
    )
    ask_twice(single)
    with one_proposal(held):
        ask_twice(held)
        seen = optuna.load_study(study_name="held", storage=passing(storage_url)).get_trials()
        assert [(trial.params, trial.user_attrs) for trial in seen] == [({}, {})] * 2
    there, here = (optuna.load_study(study_name=n, storage=passing(storage_url)) for n in ("held", "single"))
    for one, other in zip(there.get_trials(), here.get_trials(), strict=True):
        assert one.params == other.params
        assert one.distributions == other.distributions
        assert one.user_attrs == other.user_attrs == {"bytes": 13}
        assert one.constraints == other.constraints == {"ms": 0.5}
    held.ask().set_user_attr("after", 1)  # no longer held
    assert there.get_trials()[2].user_attrs == {"after": 1}


def test_after_an_error_nothing_held_is_written(storage_url: str) -> None:
    study = optuna.create_study(storage=open_storage(storage_url))
    trial = study.ask()

    def suggest() -> None:
        with one_proposal(study):
            trial.suggest_int("depth", 1, 4)
            trial.suggest_int("depth", 1, "four")  # type: ignore[arg-type]

    with pytest.raises((TypeError, ValueError)):
        suggest()
    assert study.get_trials()[0].params == {}
    trial.set_user_attr("after", 1)
    assert study.get_trials()[0].user_attrs == {"after": 1}


def test_what_was_written_before_the_connection_broke_is_not_written_twice(storage_url: str) -> None:
    storage = open_storage(storage_url)
    study = optuna.create_study(storage=storage)
    trial = study.ask()._trial_id
    row = {"param_name": "depth", "param_value": 2.0, "distribution_json": distribution_to_json(IntDistribution(1, 4))}
    writes = Writes(params=[row], user={"bytes": 13})
    for _ in range(2):
        storage.write_together(trial, writes)
    assert study.get_trials()[0].params == {"depth": 2}
    study.tell(0, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        storage.write_together(trial, writes)


def shown(trial: FrozenTrial) -> str:
    """All of a trial; as a text, since NaN does not equal itself."""
    content = dict(vars(trial))
    for name in ("_user_attrs", "_system_attrs", "intermediate_values"):  # of these the order says nothing
        content[name] = sorted(content[name].items())
    return repr(content)


def test_trials_are_read_in_two_statements(storage_url: str) -> None:
    """Over a network each one waits."""
    storage = open_storage(storage_url)
    study = optuna.create_study(storage=storage, study_name="one")
    statements: list[str] = []
    engine = storage.engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with engine.connect() as connection:
        assert trial_reader.TrialReader().of_study(connection, study._study_id, (), -1) == []
        assert len(statements) == 1
        for _ in range(3):
            study.ask({"depth": IntDistribution(1, 9)})
        statements.clear()
        assert len(trial_reader.TrialReader().of_study(connection, study._study_id, (), -1)) == 3
    assert len(statements) == 2


def test_a_running_trial_is_built_anew_where_it_has_changed_alone(storage_url: str) -> None:
    study = optuna.create_study(storage=open_storage(storage_url))
    trials = [study.ask({"rate": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(2)]
    for trial in trials:
        trial.set_user_attr(BYTES, 12)
    before, after = (study.get_trials(deepcopy=False) for _ in range(2))
    assert all(one is other for one, other in zip(before, after, strict=True))
    open_storage(storage_url).set_trial_user_attr(trials[0]._trial_id, "paused", 1)
    changed, same = study.get_trials(deepcopy=False)
    assert same is after[1]
    assert (before[0].user_attrs, changed.user_attrs) == ({BYTES: 12}, {BYTES: 12, "paused": 1})


def test_a_trial_that_rests_is_read_once_more_and_then_when_it_was_written(storage_url: str) -> None:
    study = find_study(open_storage(storage_url), optuna.create_study(storage=open_storage(storage_url)).study_name)
    assert study is not None
    trials = [study.ask({"depth": IntDistribution(1, 9)}) for _ in range(4)]
    read: list[set[int]] = []
    backend = study._storage._backend
    reading = backend._get_trials
    backend._get_trials = lambda *given, **named: (
        read.append(named["included_trial_ids"].copy()) or reading(*given, **named)
    )
    ids = [trial._trial_id for trial in trials]
    study.tell(3, 1.0)  # else all would be read for being newer than what has finished
    for trial in trials[:3]:
        trial.set_user_attr(PAUSED, 0)
        rest(study, study.get_trials(deepcopy=False)[trial.number])
    trials[0].set_user_attr("late", 1)  # before it is read again
    assert [trial.user_attrs for trial in study.get_trials()] == [{PAUSED: 0, "late": 1}, {PAUSED: 0}, {PAUSED: 0}, {}]
    study.get_trials()
    assert read[-1] == {ids[0]}  # the one that woke
    trials[1].set_user_attr(PAUSED, None)
    assert [trial.user_attrs.get(PAUSED) for trial in study.get_trials()[:3]] == [0, None, 0]
    assert read[-1] == set(ids[:2])
    study.tell(2, state=optuna.trial.TrialState.PRUNED)
    assert study.get_trials()[2].state == optuna.trial.TrialState.PRUNED
    rest(study, study.get_trials()[0])
    study.get_trials()
    study._storage.set_trial_system_attr(ids[0], "note", 1)
    assert study.get_trials()[0].system_attrs == {"note": 1}


@pytest.mark.parametrize("most", [MOST_IDS, 10])
def test_trials_are_read_as_optuna_reads_them(storage_url: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of many random writes, by one who reads all the time and by one who begins to."""
    monkeypatch.setattr(trial_reader, "MOST_IDS", most)
    storage = open_storage(storage_url)
    directions = ["maximize", "minimize"]
    study = optuna.create_study(storage=storage, study_name="one", directions=directions)
    optuna.create_study(storage=storage, study_name="two", directions=directions).ask()
    watching = optuna.load_study(study_name="one", storage=open_storage(storage_url))
    generator = np.random.default_rng(0)
    running: list[optuna.Trial] = []

    def begin() -> None:
        trial = study.ask()
        trial.suggest_float("rate", 1e-4, 1e-2, log=True)
        running.append(trial)

    def hand_out() -> None:
        with one_proposal(study):
            for name in ("depth", "width"):
                running[-1].suggest_int(name, 1, 9)
            running[-1].suggest_categorical("kind", ["a", None, 2, 0.5, True])
            running[-1].set_user_attr(BYTES, 12)

    def attribute() -> None:
        trial = running[int(generator.integers(len(running)))]
        trial.set_user_attr(
            "record", {"of": [1, None, "ä", math.nan, -math.inf, 1e-05, 10**20], "count": int(generator.integers(9))}
        )
        storage.set_trial_system_attr(trial._trial_id, "constraints:ms", float(generator.random()))

    def report() -> None:
        study._storage.set_trial_intermediate_value(running[-1]._trial_id, int(generator.integers(9)), math.nan)
        study._storage.set_trial_intermediate_value(running[-1]._trial_id, 9, math.inf)

    def finish() -> None:
        study.tell(running.pop(0), [float(generator.random()), math.inf])

    def fail() -> None:
        study.tell(running.pop(), state=optuna.trial.TrialState.FAIL)

    def queue() -> None:
        study.enqueue_trial({"rate": 1e-3}, user_attrs={"from": "queue"})

    def same() -> None:
        address = with_driver(make_url(storage_url)).render_as_string(hide_password=False)
        own = RDBStorage(address, engine_kwargs={"poolclass": NullPool})
        expected = [shown(trial) for trial in optuna.load_study(study_name="one", storage=own).get_trials()]
        new = optuna.load_study(study_name="one", storage=passing(storage_url))
        for reader in (watching, new, study):
            assert [shown(trial) for trial in reader.get_trials()] == expected
        assert [shown(storage.get_trial(trial._trial_id)) for trial in study.get_trials()] == expected

    begin()
    for step in range(40):
        actions = [begin, queue]
        if running:
            actions += [hand_out, attribute, attribute, report]
        if len(running) > 1:
            actions += [finish, fail]
        actions[int(generator.integers(len(actions)))]()
        if step % 4 == 0:
            same()
    same()
    with pytest.raises(KeyError):
        storage.get_trial(10_000)


def test_a_proposal_that_is_written_while_trials_are_read_is_seen_whole_later(storage_url: str) -> None:
    study = optuna.create_study(storage=open_storage(storage_url), study_name="one")
    trial = study.ask()
    watching = optuna.load_study(study_name="one", storage=open_storage(storage_url))
    seen_statements = 0

    def write(*_: Any) -> None:
        nonlocal seen_statements
        seen_statements += 1
        if seen_statements == interrupted:
            with one_proposal(study):
                trial.suggest_int("depth", 1, 4)
                trial.set_user_attr(BYTES, 12)

    event.listen(watching._storage._backend.engine, "after_cursor_execute", write)
    for interrupted in range(1, 8):
        seen_statements = 0
        while seen_statements < interrupted:  # the write falls between two statements of one of these
            watching.get_trials()
        found = watching.get_trials()[-1]
        assert (found.params, found.user_attrs) == ({"depth": trial.params["depth"]}, {BYTES: 12})
        trial = study.ask()


def test_other_choices_of_the_same_name_are_refused(storage_url: str) -> None:
    for choices in (["a", "b"], ["b", "a"]):
        study = optuna.create_study(storage=passing(storage_url), study_name="one", load_if_exists=True)
        trial = study.ask()

        def suggest(trial: optuna.Trial, study: optuna.Study, choices: list[str]) -> None:
            with one_proposal(study):
                trial.suggest_categorical("kind", choices)

        if choices[0] == "a":
            suggest(trial, study, choices)
        else:
            with pytest.raises(ValueError, match="dynamic value space"):
                suggest(trial, study, choices)


def test_a_study_in_place_of_a_deleted_one_has_none_of_its_trials(storage_url: str) -> None:
    storage = open_storage(storage_url)
    for depth in (1, 2):
        study = optuna.create_study(storage=storage, study_name="one")
        with one_proposal(study):
            trial = study.ask()
            trial.suggest_int("depth", depth, depth)
            trial.set_user_attr(BYTES, 12)
        assert [trial.params for trial in study.get_trials()] == [{"depth": depth}]
        optuna.delete_study(study_name="one", storage=storage)
        with pytest.raises(KeyError):
            study.get_trials()


def test_a_proposal_is_a_few_transactions_however_many_parameters_it_has(
    storage_url: str, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine(url=storage_url, trials=3, limits=ROOMY)
    engine.run(1)
    commits: list[Any] = []
    event.listen(engine.study._storage._backend.engine, "commit", commits.append)
    number = engine.ledger.next().number
    assert len(engine.study.get_trials()[number].params) > 10
    assert len(commits) < 10


def test_many_open_a_new_storage_at_once(storage_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(open_storage, [storage_url] * 6))
    create_study(opened[0], "one", ["maximize"], {})
    assert study_names(opened[-1]) == ["one"]


def test_many_writers_lose_nothing(storage_url: str) -> None:
    """As workers do: each opens the storage for itself and writes to its own trials."""
    study = create_study(open_storage(storage_url), "many", ["maximize"], {})
    trials = [study.ask()._trial_id for _ in range(8)]

    def write(trial: int) -> None:
        storage = passing(storage_url)
        storage.set_trial_user_attr(trial, "record", {"of": trial})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, trials))
    assert [trial.user_attrs["record"]["of"] for trial in study.get_trials()] == trials


def test_a_worker_keeps_no_connection_to_a_server(postgresql: Any) -> None:
    storage = open_storage(postgresql.new_url(), keep_connections=False)
    study_names(storage)
    assert "NullPool" in type(storage.engine.pool).__name__


@pytest.mark.parametrize("trusted", [0.0, 60.0])
def test_a_server_that_restarts_between_calls_is_not_noticed(
    postgresql: Any, make_engine: Callable[..., Any], trusted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proposals, results and settling go on, with the numbers that a study without the restart has: whether connections
    are tested before they are used, or found to be cut off then."""
    monkeypatch.setattr(postgresql_module, "TRUSTED_SECONDS", trusted)
    url = postgresql.new_url()
    engine = make_engine(url=url, trials=6, limits=ROOMY)
    engine.run(2)
    postgresql.stop()
    threading.Timer(1.0, postgresql.start).start()
    assignment = engine.ledger.next()  # waits for the server
    engine.work(assignment)
    postgresql.stop()
    postgresql.start()
    engine.ledger.settle(assignment.number)
    engine.run()
    assert engine.ledger.counts.finished == 6
    assert [trial.number for trial in load_study("toy", url).trials("finished")] == list(range(6))


def test_a_server_that_stays_away_is_an_error_in_the_end(postgresql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_module, "RECONNECT_SECONDS", 0.5)
    monkeypatch.setattr(postgresql_module, "RECONNECT_PAUSE", 0.1)
    storage = open_storage(postgresql.new_url())
    create_study(storage, "one", ["maximize"], {})
    postgresql.stop()
    try:
        start = time.monotonic()
        with pytest.raises(Exception, match=r"refused|onnection|commit"):
            storage.get_all_studies()
        assert time.monotonic() - start < 15
    finally:
        postgresql.start()
    assert study_names(storage) == ["one"]


def test_a_wrong_server_is_said_at_once_and_without_its_password() -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        open_storage("postgresql://me:s3cret@127.0.0.1:1/name")
    assert time.monotonic() - start < 5
    assert "s3cret" not in str(caught.value)


def test_without_a_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"shoebox\[postgres\]") as caught:
        with_driver(make_url("postgresql://me:s3cret@host/name"))
    assert "s3cret" not in str(caught.value)


def trials_of(storage: RDBStorage) -> list[FrozenTrial]:
    study = find_study(storage, "toy")
    return [] if study is None else study.get_trials(deepcopy=False)


@pytest.mark.slow
def test_a_search_survives_a_restart_of_its_server(postgresql: Any, toy_file: Path, shoebox_command: list[str]) -> None:
    """With Ray, while trials run and end: the server aborts every connection twice and is away for seconds."""
    url = postgresql.new_url()
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 20000000"))
    search = subprocess.Popen(
        [*shoebox_command, "search", str(toy_file), "--trials", "12", "--sampler", "random"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "SHOEBOX_STORAGE": url, "SHOEBOX_TOY_SECONDS": "1"},
    )
    try:
        storage = open_storage(url)
        for finished in (2, 6):
            until = time.monotonic() + 400
            while finished > sum(trial.state.is_finished() for trial in trials_of(storage)):
                assert time.monotonic() < until
                assert search.poll() is None, search.communicate()[0]
                time.sleep(0.5)
            postgresql.stop()
            time.sleep(4)
            postgresql.start()
        out, _ = search.communicate(timeout=500)
    finally:
        search.kill()
    assert search.returncode == 0, out
    study = load_study("toy", url)
    assert len(study.trials("finished")) == 12, out
    assert len(study.trials()) == 12
    assert "s3cret" not in out


def test_a_proposal_reads_no_trials_that_run(storage_url: str, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(url=storage_url, trials=9, limits=ROOMY, sampler="random")
    for _ in range(3):
        engine.ledger.next()
    read: list[Any] = []
    backend = engine.study._storage._backend
    reading = backend._get_trials
    backend._get_trials = lambda *given, **named: read.append(given) or reading(*given, **named)
    engine.ledger.next()
    assert not read
    # One that waits is found, also one that another process has queued.
    other = find_study(open_storage(storage_url), "toy")
    assert other is not None
    other.enqueue_trial({}, user_attrs={RETRY_OF: 0, PLACE: 9})
    assert engine.ledger.next().number == 4
    assert read
    assert engine.ledger.next().number == 5


def test_a_proposal_reads_the_trials_once(storage_url: str, make_engine: Callable[..., Any]) -> None:
    engine = make_engine(url=storage_url, trials=20, limits=ROOMY, sampler="tpe")
    engine.run(12)  # its first ten draw at random
    engine.ledger.next()
    backend, read = engine.study._storage._backend, []
    reading = backend._get_trials
    backend._get_trials = lambda *given, **named: read.append(given) or reading(*given, **named)
    engine.ledger.next()
    assert len(read) == 1
    assert len(engine.study.get_trials()) == 14
    assert len(read) == 2


def test_the_place_of_a_trial_leaves_out_repeats(storage_url: str, make_engine: Callable[..., Any]) -> None:
    study = make_engine(url=storage_url).study
    study.ask(), study.ask()
    study.enqueue_trial({}, user_attrs={RETRY_OF: 0, PLACE: 0})
    study.ask(), study.ask()
    assert [place(study, trial) for trial in study.get_trials()] == [0, 1, 0, 2]
