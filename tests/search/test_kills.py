"""Searches that are killed at random points, and what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.storage import default_url, find_study, open_storage
from search.study import Study, load_study


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def running(name: str) -> set[int]:
    """Trials that a worker has, by a look into the database: opening a storage takes longer than a trial."""
    file = default_url().removeprefix("sqlite:///")
    if not Path(file).exists():
        return set()
    query = """
        SELECT trials.number FROM trials JOIN studies USING (study_id)
        WHERE studies.study_name = ? AND trials.state = 'RUNNING' AND NOT EXISTS (
            SELECT * FROM trial_user_attributes AS attribute
            WHERE attribute.trial_id = trials.trial_id AND attribute.key = 'paused' AND attribute.value_json != 'null')
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
            return {number for (number,) in connection.execute(query, [name])}
    except sqlite3.OperationalError:  # its tables are being made
        return set()


def kill_at_random(command: list[str], name: str, longest: float, generator: random.Random) -> None:
    """Start or resume a search and kill its driver: mostly among its trials, now and then before."""
    before = running(name)
    driver = start([*command, *resume_option(name)])
    if generator.random() < 0.8:
        until = time.monotonic() + 60
        while driver.poll() is None and not running(name) - before and time.monotonic() < until:
            time.sleep(0.1)
    time.sleep(generator.uniform(0, longest))
    if driver.poll() is None:
        os.kill(driver.pid, signal.SIGKILL)
    _, errors = driver.communicate()
    assert "Traceback" not in errors, errors


def resume_option(name: str) -> list[str]:
    try:
        load_study(name)
    except ValueError:
        return []
    return ["--resume"]


def finished(study: Study) -> dict[int, Any]:
    return {trial.number: trial.record for trial in study.trials("finished")}


def check_whole(name: str, trials: int) -> Study:
    """The count is exact, nothing is left over, and what finished is there once."""
    study = load_study(name)
    states = [trial.state for trial in study.trials()]
    assert set(states) <= {"finished", "failed", "stopped", "infeasible", "orphaned", "answered"}
    assert sum(states.count(state) for state in ("finished", "failed", "stopped")) == trials
    assert states.count("failed") == 0
    raw = find_study(open_storage(default_url()), name)
    assert raw is not None
    assert not [trial.number for trial in raw.get_trials(deepcopy=False) if not trial.state.is_finished()]
    records = finished(study)
    setups = {json.dumps([r.config.model_dump(), r.recipe.model_dump()], sort_keys=True) for r in records.values()}
    assert len(setups) == len(records)
    folders = {path.name for path in (study.folder / "trials").iterdir()}
    assert folders == {f"{number:05d}" for number in records}
    checkpoints = study.folder / "checkpoints"
    assert not checkpoints.is_dir() or not list(checkpoints.iterdir())
    return study


def search_through(command: list[str], name: str, trials: int, points: int, longest: float, seed: int) -> Study:
    generator = random.Random(seed)
    before: dict[int, Any] = {}
    for _ in range(points):
        kill_at_random(command, name, longest, generator)
        if resume_option(name):
            now = finished(load_study(name))
            print(
                time.strftime("%H:%M:%S"), f"killed with {len(now)} finished of {len(load_study(name).trials())} trials"
            )
            assert {number: now[number] for number in before} == before
            before = now
    done = subprocess.run([*command, *resume_option(name)], capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    study = check_whole(name, trials)
    now = finished(study)
    assert {number: now[number] for number in before} == before
    return study


@pytest.mark.parametrize(("sampler", "trials"), [("random", 8), ("known-cost", 15)])
def test_killed_among_rungs(
    shoebox_command: list[str], toy_file: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, trials: int
) -> None:
    text = toy_file.read_text().replace("sampler: tpe", f"sampler: {sampler}, early_stopping: {{rungs: [0.2, 0.5]}}")
    toy_file.write_text(text)
    monkeypatch.setenv("SHOEBOX_TOY_SECONDS", "0.4")
    command = [*shoebox_command, "search", str(toy_file), "--trials", str(trials)]
    study = search_through(command, "toy", trials, points=1, longest=1.0, seed=1)
    assert study.trials("stopped")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_real_trials(model: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher").symlink_to(model)
    study = {
        "name": "kills",
        "task": {
            "data": {"grammar": "sentiment", "train": 400, "validation": 60},
            "labels": ["negative", "positive"],
            "metric": "accuracy",
            "max_length": 32,
        },
        "teacher": {"model": "teacher", "epochs": 1, "learning_rate": 1e-3},
        "space": {
            "vocabulary_keep": [0.5, 1.0],
            "embedding_width": [32],
            "transformer": {"depth": [1, 2], "width": [32, 64], "heads": 2, "ffn_width": [32, 64]},
        },
        "device": {"latency": "estimated", "tokens": 16},
        "search": {"trials": 40, "workers": 2, "sampler": "random", "early_stopping": {"rungs": [0.2, 0.5]}},
        "fidelity": {"epochs": 2, "batch_size": 32},
    }
    file = tmp_path / "kills.yaml"
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "search.cli", "search", str(file)]
    found = search_through(command, "kills", 40, points=20, longest=4.0, seed=0)
    for record in found.records():
        on_disk = sum((Path(record.bundle) / name).stat().st_size for name in ("model.onnx", "vocab.txt"))
        assert on_disk == record.deployed_bytes
