"""What `shoebox doctor STUDY` says of a study's data and teachers."""

from __future__ import annotations

from pathlib import Path

import small_study
import yaml

from runners.grammar import sentiment
from runners.prepared import prepare
from search.doctor import examine
from search.doctor_study import examine_study
from search.study_file import load_study_file
from space.errors import InputError


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


# What a recipe has to have that a section of text is of use.
USES = {"transfer": {"transfer_share": [0.0, 0.5]}, "pretraining": {"initialization": ["layers", "pretrained"]}}


def test_text_that_a_search_would_miss_is_a_problem(tmp_path, model):
    texts = small_study.write_texts(tmp_path / "more.txt", 50, seed=5)
    text, absent = {"path": str(texts)}, {"path": str(tmp_path / "absent.csv")}
    for section, uses in USES.items():
        file = small_study.write(tmp_path, model, space={"recipe": uses}, **{section: {"sources": [text, absent]}})
        assert findings(file)[f"study: {section}"] == (
            "problem",
            f"Transfer source {tmp_path / 'absent.csv'} does not exist.",
        )
        file = small_study.write(tmp_path, model, space={"recipe": uses}, **{section: {"sources": text}})
        assert findings(file)[f"study: {section}"] == ("ok", "50 rows of text")
    both = {"transfer": {"sources": text}, "pretraining": {"sources": text, "max_length": 32}}
    file = small_study.write(tmp_path, model, space={"recipe": USES["transfer"] | USES["pretraining"]}, **both)
    prepare(load_study_file(str(file)).plan())
    cached = ("ok", "read by the teacher and cached")
    found = findings(file)
    assert (found["study: transfer"], found["study: pretraining"]) == (cached, cached)


def test_text_is_looked_at_where_data_or_teacher_are_missing(tmp_path, model):
    absent = {"sources": {"path": str(tmp_path / "absent.csv")}}
    space, nowhere = {"recipe": USES["transfer"]}, {"path": str(tmp_path / "nowhere")}
    file = small_study.write(tmp_path, model, space=space, transfer=absent, task={"data": nowhere})
    assert findings(file)["study: transfer"][0] == "problem"
    space = {"recipe": USES["transfer"] | USES["pretraining"]}
    file = small_study.write(tmp_path, tmp_path / "no-model", space=space, transfer=absent, pretraining=absent)
    found = findings(file)
    assert {found[f"study: {part}"][0] for part in ("teacher", "transfer", "pretraining")} == {"problem"}


def test_data_are_said_to_be_missing_only_where_they_are(tmp_path, model):
    data = tmp_path / "data"
    data.mkdir()

    def fix(of):
        file = small_study.write(tmp_path, model, task={"data": of})
        return next(each.fix for each in examine_study(str(file), None) if each.subject == "study: data")

    asked = f"Say where it is: shoebox search {tmp_path / 'small.yaml'} --data DIR"
    assert fix({"path": str(tmp_path / "nowhere")}) == asked
    assert fix({"path": str(data)}) == asked
    files = {split: str(data / f"{split}.csv") for split in ("train", "validation")}
    assert fix(files) == asked
    for path in files.values():
        Path(path).write_bytes(b"")
    assert fix(files) is None
    assert fix({"path": str(data)}) is None


def test_data_of_ones_own_are_looked_at_before_the_first_search(shoebox, tmp_path, model):
    file = small_study.write(tmp_path, model)
    for split in ("train", "validation"):
        lines = "".join(f'"{text}",{label}\n' for text, label in sentiment(40, 2, seed=len(split))[0])
        (tmp_path / f"{split}.csv").write_text(f"review,mood\n{lines}")
    own = ("doctor", str(file), "--data", str(tmp_path), "--label", "mood")
    wrong = shoebox(*own)
    assert wrong.returncode == 1
    assert "problem  study: data" in wrong.stdout
    right = shoebox(*own, "--text", "review")
    assert right.returncode == 0, right.stdout
    assert "40 train and 40 validation examples" in right.stdout
    assert shoebox(*own, "--text", "review", "--where", "mood=9").returncode == 1
    alone = shoebox("doctor", "--data", str(tmp_path))
    assert alone.returncode == 2
    assert "--data is of a study" in alone.stderr


def test_a_device_that_a_search_would_refuse_is_a_problem(tmp_path, model, emulator, monkeypatch):
    file = small_study.write(tmp_path, model)
    assert findings(file)["study: device"] == ("ok", "cortex-a53, estimated")
    found = findings(small_study.write(tmp_path, model, device={"latency": "estimated", "profile": "cortex-a99"}))
    assert found["study: device"][0] == "problem"
    assert "cortex-a99" in found["study: device"][1]

    def fail(installation: object) -> None:
        raise InputError("This build of qemu takes no plugins.")

    monkeypatch.setattr("runners.emulator.find_installation", lambda: emulator)
    monkeypatch.setattr("runners.emulator.execution.start_once", fail)
    found = findings(small_study.write(tmp_path, model, device={"latency": "emulated"}))
    assert found["study: device"] == ("problem", "This build of qemu takes no plugins.")
    # Of a study that uses another backend the machine's emulator is no concern.
    file = small_study.write(tmp_path, model)
    assert {f.state for f in examine(study=str(file)) if f.subject in ("latency: emulated", "study: device")} == {
        "note",
        "ok",
    }


def test_bundles_of_another_study_are_a_problem(tmp_path, model, home):
    file = small_study.write(tmp_path, model)
    assert "study: bundles" not in findings(file)
    (home / "studies" / "small" / "trials" / "00000").mkdir(parents=True)
    state, text = findings(file)["study: bundles"]
    assert state == "problem"
    assert "holds bundles of another study named 'small'" in text
