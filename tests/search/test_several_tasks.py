"""Study files of several tasks, and what the command line shows of them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runners.grammar import sentiment
from search.run import run_study
from search.study_file import StudyFile, load_study_file
from space import InputError

TASKS: dict[str, Any] = {
    "mood": {"data": {"path": "data"}, "text": "a", "max_length": 32},
    "gap": {
        "data": {"path": "data"},
        "max_length": 32,
        "text": ["a", "b"],
        "label": "gap",
        "kind": "regression",
        "metric": "pearson",
        "teacher": {"epochs": 2},
    },
}


def write(folder: Path, tasks: Any = TASKS, **sections: Any) -> Path:
    study = {
        "name": "several",
        "tasks": tasks,
        "teacher": {"model": "none", "learning_rate": 1e-3},
        "device": {"latency": "estimated"},
        **sections,
    }
    file = folder / "several.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in study.items() if value is not None}, sort_keys=False))
    return file


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**TASKS, name: {**TASKS[name], **fields}}


def test_each_task_has_its_own_plan(tmp_path: Path) -> None:
    file = load_study_file(write(tmp_path))
    plans = file.task_plans
    assert list(plans) == ["mood", "gap"]
    assert plans["mood"].teacher == file.teacher
    assert plans["gap"].teacher == file.teacher.model_copy(update={"epochs": 2})
    assert plans["gap"].task.data.path == str(tmp_path / "data")
    assert file.metric == "retention"
    assert StudyFile.model_validate(file.model_dump(mode="json")) == file
    assert file.plan().task_plans == plans


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tasks": None}, "task is missing: describe one task under task, or several by name under tasks."),
        ({"task": TASKS["mood"]}, "a study has task or tasks, not both: put all tasks under tasks."),
        ({"tasks": {"mood": TASKS["mood"]}}, "tasks should name two tasks or more; describe a single one under task."),
        ({"tasks": [1]}, "tasks should be a section of keys and values, found [1]."),
        (
            {"tasks": changed("mood", metrik="f1")},
            "tasks.mood.metrik is not a key of section 'tasks.mood'. Did you mean 'metric'?",
        ),
        (
            {"tasks": changed("gap", teacher={"model": "other"})},
            "tasks.gap.teacher.model is not a key of section 'tasks.gap.teacher'.",
        ),
        ({"tasks": changed("gap", teacher={"epochs": 0})}, "tasks.gap.teacher.epochs should be at least 1, found 0."),
        ({"tasks": changed("gap", metric="f1")}, "tasks.gap.metric f1 does not fit a regression"),
        (
            {"tasks": {**TASKS, "names": {"data": {"path": "data"}, "kind": "token-classification"}}},
            "tasks.names tags words, which a student of other tasks cannot: study it by itself.",
        ),
        ({"tasks": {**TASKS, "a b": TASKS["mood"]}}, "tasks.a b should be of letters, digits"),
        ({"transfer": {"recombine": 3}}, "transfer is text for one task: put it into that task's section"),
        (
            {"tasks": changed("gap", transfer={"sources": {"path": "x.txt"}})},
            "tasks.gap: transfer is never read: give space.recipe.transfer_share choices above 0.",
        ),
        (
            {
                "tasks": changed("gap", transfer={"sources": {"path": "x.txt"}}),
                "space": {"recipe": {"transfer_share": 0.5}},
            },
            "tasks.gap: a transfer source has one text column, but the task reads pairs",
        ),
        ({"device": {"latency": "estimated", "tokens": 33}}, "device.tokens 33 is above every max_length of tasks"),
        ({"tasks": None, "task": TASKS["mood"], "space": {"recipe": {"task_exponent": 1.0}}}, "space.recipe.task_exp"),
    ],
)
def test_wrong_sections_name_the_key_and_what_is_right(tmp_path: Path, sections: dict, message: str) -> None:
    file = write(tmp_path, **sections)
    with pytest.raises(InputError) as caught:
        load_study_file(file)
    assert str(caught.value).startswith(f"Study file {file}: {message}")


def test_data_of_several_tasks_is_a_folder_of_folders(tmp_path: Path) -> None:
    (tmp_path / "glue" / "mood").mkdir(parents=True)
    file = write(tmp_path)
    with pytest.raises(InputError, match=r"--data: there is no folder .*/glue/gap\. .* each: mood, gap"):
        load_study_file(file, {"data": tmp_path / "glue"})
    (tmp_path / "glue" / "gap").mkdir()
    found = load_study_file(file, {"data": tmp_path / "glue"}).task_plans
    assert found["gap"].task.data.path == str(tmp_path / "glue" / "gap")
    with pytest.raises(InputError, match="--label is for a study of one task"):
        load_study_file(file, {"label": "verdict"})


def test_a_search_of_several_tasks_from_study_to_answers(
    shoebox: Callable[..., subprocess.CompletedProcess[str]],
    model: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    train, validation = sentiment(120, 40, seed=0)
    for split, rows in (("train", train), ("validation", validation)):
        lines = [{"a": text, "b": rows[row - 1][0], "label": y, "gap": y / 2} for row, (text, y) in enumerate(rows)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    file = write(
        tmp_path,
        teacher={"model": str(model), "epochs": 2, "learning_rate": 1e-3},
        space={
            "vocabulary_keep": 0.9,
            "embedding_width": 32,
            "transformer": {"depth": 1, "width": [32, 64], "heads": 2, "ffn_width": 32},
            "recipe": {"learning_rate": 2e-3, "task_exponent": [0.0, 1.0]},
        },
        search={"trials": 2, "workers": 1},
        fidelity={"epochs": 1, "batch_size": 32},
    )
    study = run_study(str(file))
    best = study.best()
    assert best.quality == pytest.approx(sum(task.retention for task in best.tasks.values()) / 2)
    table = shoebox("pareto", "several").stdout
    assert "retention (validation)" in table
    assert "mood accuracy" in table
    assert "gap pearson" in table
    rows = json.loads(shoebox("pareto", "several", "--format", "json").stdout)["trials"]
    assert rows[0]["gap.pearson"] == best.tasks["gap"].quality
    listed = list(csv.DictReader(io.StringIO(shoebox("pareto", "several", "--format", "csv").stdout)))
    assert float(listed[0]["mood.retention"]) == best.tasks["mood"].retention
    out = tmp_path / "out"
    assert shoebox("export", "several", "--best", "-o", str(out)).returncode == 0
    assert shoebox("predict", str(out), train[0][0], "--task", "mood").stdout.split("\t")[0] in ("0", "1")
    assert shoebox("predict", str(out), train[0][0], "--pair", train[1][0], "--task", "gap").returncode == 0
    unnamed = shoebox("predict", str(out), train[0][0])
    assert unnamed.returncode == 2
    assert "Say which with --task: mood, gap." in unnamed.stderr
    assert f"retention {best.quality:.4f}" in shoebox("studies").stdout
