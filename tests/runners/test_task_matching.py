"""No task trains on what another one is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runners.task import Task, TaskSpec, load_task
from runners.task.matching import load_tasks, without_rows_of
from space.errors import InputError


def _spec(folder: Path, train: list[tuple[str, str, Any]], validation: list[tuple[str, str, Any]]) -> TaskSpec:
    folder.mkdir()
    for split, rows in (("train", train), ("validation", validation)):
        first, second, label = zip(*rows, strict=True)
        pq.write_table(pa.table({"a": first, "b": second, "label": label}), folder / f"{split}.parquet")
    return TaskSpec(data={"path": str(folder)}, text=("a", "b"))


@pytest.fixture
def judged(tmp_path: Path) -> TaskSpec:
    return _spec(tmp_path / "judged", [("x", "y", 0), ("u", "v", 1)], [("It's fun.", "it was", 0), ("p", "q", 1)])


def _pairs(task: Task) -> list[tuple[str, str]]:
    assert task.train.pairs is not None
    return list(zip(task.train.texts, task.train.pairs, strict=True))


def test_rows_that_another_task_is_judged_by_are_left_out(tmp_path: Path, judged: TaskSpec) -> None:
    """In either order, however they are written; a pair that shares one of its texts only stays."""
    rows = [("it 's fun", "It was!", 1), ("q", "p", 0), ("p", "other", 1), ("x", "y", 0)]
    task, other = load_task(_spec(tmp_path / "own", rows, [("x", "y", 0)])), load_task(judged)
    found = without_rows_of(task, other.validation, "it")
    assert _pairs(found) == [("p", "other"), ("x", "y")]
    assert found.train.labels.tolist() == [1, 0]
    assert found.fingerprint != task.fingerprint
    assert found.validation is task.validation
    assert without_rows_of(found, other.validation, "it") is found


def test_of_several_tasks_each_leaves_out_what_the_others_are_judged_by(tmp_path: Path, judged: TaskSpec) -> None:
    own = _spec(tmp_path / "own", [("p", "q", 0), ("m", "n", 1), ("k", "l", 0)], [("x", "y", 0), ("m", "n", 1)])
    found = load_tasks({"first": judged, "second": own})
    assert _pairs(found["first"]) == [("u", "v")]
    assert _pairs(found["second"]) == [("m", "n"), ("k", "l")]  # its own splits are as they were published


def test_a_task_that_has_nothing_else_to_learn_from_is_refused(tmp_path: Path, judged: TaskSpec) -> None:
    task = load_task(_spec(tmp_path / "own", [("p", "q", 0), ("q", "p", 1)], [("k", "l", 0)]))
    with pytest.raises(InputError, match="Every text of a train split stands in the validation split of task mrpc too"):
        without_rows_of(task, load_task(judged).validation, "task mrpc")
