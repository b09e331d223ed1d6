"""A driver that is killed before or after any one of its writes: the resumed study ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.assignment import NothingToDo
from search.study import load_study
from search.study_storage import backend_of

EngineMaker = Callable[..., Any]
# So few configurations that many proposals are answered from the record.
FEW = {
    "vocabulary_keep": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    "embedding_width": 32,
    "embedding_bits": 4,
    "block_size": 32,
    "transformer": {
        "depth": 1,
        "width": 32,
        "heads": 2,
        "ffn_width": [32, 64],
        "activation": "relu",
        "token_keep": 1.0,
        "attention_bits": 4,
        "ffn_bits": 4,
    },
    "recipe": {
        "learning_rate": [1e-3, 2e-3],
        "label_weight": 0.5,
        "logit_weight": 1.0,
        "hidden_weight": 1.0,
        "temperature": 2.0,
        "teacher_learning_rate": 0.0,
        "initialization": "random",
    },
}
RUNGS = {"early_stopping": {"rungs": [0.1, 0.3]}, "keep_bundles": "front"}
STUDIES = {
    "without rungs": {"sampler": "random", "trials": 12},
    "ranked at rungs": {"sampler": "random", "trials": 14, **RUNGS},
    "promoted by gain": {"sampler": "known-cost", "trials": 16, **RUNGS},
}


class Killed(BaseException):
    """As `kill -9`: nothing catches it."""


def kill_at(engine: Any, point: int | None, after: bool) -> Callable[[], int]:
    """Kill a driver at a write to the storage, counted from 1, before or after it; answers how many there were."""
    storage, count = backend_of(engine.study), 0

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if point is not None and count == point and after:
                write(*given, **named)
            if point is not None and count >= point:
                raise Killed
            return write(*given, **named)

        return writing

    for name in ("_write", "set_trial_state_values", "_create_new_trial", "set_study_user_attr"):
        setattr(storage, name, counted(getattr(storage, name)))
    return lambda: count


def finish(engine: Any) -> list[str]:
    """Search until the budget is spent: what became of all trials but those that others repeat."""
    engine.ledger.recover()
    while not engine.ledger.exhausted:
        with suppress(NothingToDo):  # a trial that was repeated stops at its rung, and none is to follow
            engine.run()
    engine.ledger.close()
    study = load_study("toy")
    left = {trial.state for trial in study.trials()} & {"running", "paused", "waiting"}
    assert not left
    trained = [trial for trial in study.trials() if trial.state in ("finished", "failed", "stopped")]
    assert len({json.dumps(trial.params, sort_keys=True) for trial in trained}) == len(trained)  # no one twice
    kept = study.pareto() if engine.ledger.keep_bundles == "front" else study.records()
    assert {path.name for path in engine.ledger.bundles.iterdir()} == {f"{record.trial:05d}" for record in kept}
    assert not any(engine.ledger.folders.all_checkpoints.glob("*"))
    return sorted(
        json.dumps([trial.params, trial.state, trial.record and trial.record.quality], sort_keys=True)
        for trial in study.trials()
        if trial.state != "orphaned"
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_ends_as_if_its_driver_had_not_been_killed(
    make_engine: EngineMaker, toy_file: Path, home: Path, study: str, every: bool
) -> None:
    content = yaml.safe_load(toy_file.read_text())
    toy_file.write_text(yaml.safe_dump({**content, "space": FEW, "limits": {"deployed_bytes": 20_000_000}}))

    def make() -> Any:
        shutil.rmtree(home, ignore_errors=True)
        return make_engine(more=STUDIES[study])

    engine = make()
    writes = kill_at(engine, None, after=False)
    whole = finish(engine)
    points = [(number, after) for number in range(1, writes() + 1) for after in (False, True)]
    for number, after in points if every else random.Random(0).sample(points, 8):
        engine = make()
        kill_at(engine, number, after)
        with pytest.raises(Killed):
            finish(engine)
        assert finish(make_engine(more=STUDIES[study])) == whole, f"killed {'after' if after else 'before'} {number}"
