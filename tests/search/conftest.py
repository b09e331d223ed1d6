from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy_pipeline
from helpers.postgresql_server import PostgresServer, binaries

from runners.record import TrialRecord
from search.assignment import Assignment, Proposal
from search.cli import main
from search.drivers import Drivers
from search.run import ledger_of, unshared
from search.samplers import study_sampler
from search.states import ERROR, INFEASIBLE, RECORD, RUNGS, STOPPED
from search.storage import create_study, default_url, find_study, open_storage
from search.study import OVERRIDES, SOURCE, STUDY_FILE, directions
from search.study_file import StudyFile, load_study_file
from space import JointSpace, deployed_bytes
from space.errors import OutputError

HERE = Path(__file__).parent
Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a cache of the test's own."""
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    # Processes that a test starts find the packages and the toy pipeline.
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parents[1]}:{HERE}")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A running server; a test takes a database of its own (`new_url`)."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'shoebox[postgres]')")
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty storage of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/contract.db"
    return request.getfixturevalue("postgresql").new_url()


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(HERE / "toy_study.yaml", tmp_path / "toy.yaml"))


class Engine:
    """A ledger and a worker in one process: the engine without Ray."""

    def __init__(self, file: StudyFile, url: str | None = None, drivers: Drivers | None = None) -> None:
        self.file = file
        self.plan = file.plan()
        self.prepared = toy_pipeline.prepare(self.plan)
        space = JointSpace(file.space)
        storage = open_storage(url or default_url())
        study = find_study(storage, file.name) or create_study(
            storage,
            file.name,
            directions(list(file.objectives)),
            {STUDY_FILE: file.model_dump(mode="json"), OVERRIDES: {}, SOURCE: file.name},
        )
        shape, vocabulary = self.prepared.shape, self.prepared.vocabulary
        limits = {name: limit for name, limit in file.limits.model_dump().items() if limit is not None}
        study.sampler = study_sampler(
            file.search.sampler,
            file.search.seed,
            space,
            shape,
            vocabulary,
            file.objectives,
            limits,
            lambda config: {"latency_ms": toy_pipeline.latency(deployed_bytes(config, shape, vocabulary))},
        )
        self.study = study

        def propose(trial: optuna.Trial) -> Proposal:
            config, recipe = space.suggest(trial)
            return Proposal(config, recipe, deployed_bytes(config, shape, vocabulary))

        if drivers is not None:
            with drivers.turn():
                drivers.join(study, None, unshared(file))
        self.ledger = ledger_of(file, study, propose, drivers)

    def work(self, assignment: Assignment) -> None:
        """What `search.worker` does: run the trial and write what became of it, with early stopping at each rung."""
        given = (assignment.number, assignment.config, assignment.recipe, assignment.seed, assignment.bundle)
        try:
            if assignment.rungs is None:
                record = toy_pipeline.run_trial(self.plan, self.prepared, *given)
            else:
                record = self._climb(assignment, given)
                if record is None:
                    return
            outcome: tuple[str, Any] = RECORD, record.model_dump(mode="json")
        except toy_pipeline.InfeasibleTrial as error:
            outcome = INFEASIBLE, error.constraints
        except OutputError as error:
            outcome = STOPPED, str(error)
        except RuntimeError as error:
            outcome = ERROR, str(error)
        self.study._storage.set_trial_user_attr(assignment.trial_id, *outcome)

    def _climb(self, assignment: Assignment, given: tuple[Any, ...]) -> TrialRecord | None:
        """The record of a trial, or None where the ledger sets it aside."""
        assert assignment.rungs is not None
        passed = [rung.model_dump(mode="json") for rung in assignment.rungs.passed]
        for found in toy_pipeline.run_in_rungs(self.plan, self.prepared, *given, assignment.rungs):
            if isinstance(found, TrialRecord):
                return found
            passed.append(found.model_dump(mode="json"))
            self.study._storage.set_trial_user_attr(assignment.trial_id, RUNGS, passed)
            if not self.ledger.goes_on(assignment.number):
                return None
        raise AssertionError("a trial ends with its record")

    def run(self, most: int | None = None) -> None:
        """Trials one after the other, until the budget is spent or `most` were handed out."""
        count = 0
        while not self.ledger.exhausted and (most is None or count < most):
            assignment = self.ledger.next()
            self.work(assignment)
            self.ledger.settle(assignment.number)
            count += 1

    def proposals(self) -> list[dict[str, Any]]:
        """Parameters of all trials that were not orphaned, in order."""
        trials = self.study.get_trials(deepcopy=False)
        return [dict(trial.params) for trial in trials if "orphaned" not in trial.user_attrs]


@pytest.fixture
def make_engine(toy_file: Path) -> Callable[..., Engine]:
    def make(
        url: str | None = None,
        limits: dict[str, Any] | None = None,
        more: dict[str, Any] | None = None,
        drivers: Drivers | None = None,
        objectives: tuple[str, ...] | None = None,
        **search: Any,
    ) -> Engine:
        file = load_study_file(toy_file, search)
        if more is not None:  # of the section search
            data = file.model_dump(mode="json")
            file = StudyFile.model_validate({**data, "search": {**data["search"], **more}})
        if limits is not None:
            file = file.model_copy(update={"limits": type(file.limits)(**limits)})
        if objectives is not None:
            file = file.model_copy(update={"objectives": objectives})
        return Engine(file, url, drivers)

    return make


@pytest.fixture
def shoebox_command() -> list[str]:
    """The real command line, with the toy pipeline in place of the real one."""
    return [sys.executable, str(HERE / "toy_command.py")]


@pytest.fixture
def shoebox(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shoebox:
    """The entry point in this process: importing torch for every call would take minutes."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["shoebox", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`shoebox` in this process searches with the toy pipeline."""
    monkeypatch.setattr("search.run.PIPELINE", "toy_pipeline")
