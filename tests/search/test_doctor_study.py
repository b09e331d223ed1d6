"""What `shoebox doctor STUDY` says of a study's data and teachers."""

from __future__ import annotations

import small_study
import yaml

from runners.prepared import prepare
from search.doctor_study import examine_study
from search.study_file import load_study_file


def findings(file, storage=None):
    return {finding.subject: (finding.state, finding.text) for finding in examine_study(str(file), storage)}


def grammar(seed):
    return {"data": {"grammar": "sentiment", "train": 60, "validation": 40, "seed": seed}, "max_length": 32}


def test_a_teacher_with_an_intermediate_task_is_found_in_the_cache(tmp_path, model):
    teacher = {"model": str(model), "epochs": 1, "intermediate": {**grammar(3), "teacher": {"learning_rate": 1e-3}}}
    file = small_study.write(tmp_path, model, teacher=teacher)
    assert "to be fine-tuned" in findings(file)["study: teacher"][1]
    prepare(load_study_file(str(file)).plan())
    assert findings(file)["study: teacher"] == ("ok", f"{model}, fine-tuned and cached")
    teacher["intermediate"]["data"] = {"path": str(tmp_path / "nowhere")}
    state, text = findings(small_study.write(tmp_path, model, teacher=teacher))["study: teacher"]
    assert state == "problem"
    assert text.startswith("Intermediate task: ")


def test_teachers_of_several_tasks_are_found_in_the_cache(tmp_path, model):
    """None of them trains on what another task is judged by, which the cache takes into account."""
    tasks = {"first": grammar(0), "second": grammar(1)}
    file = small_study.write(tmp_path, model, task=None, tasks=tasks)
    prepare(load_study_file(str(file)).plan())
    found = findings(file)
    assert {found[f"study: teacher {name}"] for name in tasks} == {("ok", f"{model}, fine-tuned and cached")}


def test_the_task_whose_data_are_missing_is_named(tmp_path, model):
    content = yaml.safe_load(small_study.write(tmp_path, model).read_text())
    del content["task"]
    content["tasks"] = {"first": grammar(0), "second": {"data": {"path": str(tmp_path / "nowhere")}}}
    (tmp_path / "several.yaml").write_text(yaml.safe_dump(content))
    found = findings(tmp_path / "several.yaml")
    assert found["study: data first"][0] == "ok"
    assert found["study: data second"][0] == "problem"
    assert "nowhere" in found["study: data second"][1]
