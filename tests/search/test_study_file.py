from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from search.ablate.rows import ROWS, Facts, Setup
from search.study_file import StudyFile, load_study_file, shipped_studies
from space import InputError, JointSpace

REFERENCE = Path(__file__).resolve().parents[2] / "studies" / "reference"
SHIPPED = [
    "amazon",
    "banking77",
    "cola",
    "everything",
    "mrpc",
    "multi-task",
    "quickstart",
    "rte",
    "sst2-imdb",
    "sst2",
    "stsb",
    "wikiann-de",
    "wikiann-en",
]

SAMPLER_NAMES = "'known-cost', 'tpe', 'nsga2', 'gp', 'random' or 'qmc'"


def test_shipped_studies_are_valid_and_named_after_their_files() -> None:
    assert list(shipped_studies()) == SHIPPED
    for name in SHIPPED:
        file = load_study_file(name)
        assert file.name == name
        assert file.description
        assert file.limits.deployed_bytes == 2_000_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("search: {trails: 3}", "search.trails is not a key of section 'search'. Did you mean 'trials'?"),
        ("taks: {}", "taks is not a key of a study file. Did you mean 'tasks'?"),
        ("tasks: {}", "a study has task or tasks, not both: put all tasks under tasks."),
        ("search: {trials: many}", "search.trials should be a whole number, found 'many'."),
        ("search: {trials: 0}", "search.trials should be at least 1, found 0."),
        ("search: {sampler: tpp}", f"search.sampler should be {SAMPLER_NAMES}, found 'tpp'; did you mean 'tpe'?"),
        ("search: 3", "search should be a section of keys and values, found 3."),
        ("limits: {deployed_bytes: 2 MB}", "limits.deployed_bytes should be a whole number, found '2 MB'."),
        ("fidelity: {epochs: [1]}", "fidelity.epochs should be a number, found [1]."),
        ("objectives: [latency_ms]", "objectives should hold quality and"),
        (
            "objectives: [speed]",
            "objectives[0] should be 'quality', 'deployed_bytes', 'latency_ms', 'long_latency_ms' or",
        ),
        ("objectives: [quality, long_latency_ms]", "long_latency_ms needs two lengths: device.tokens should be auto"),
        ("limits: {long_latency_ms: 9}", "long_latency_ms needs two lengths: device.tokens should be auto"),
        ("limits: {peak_heap_bytes: 4000000}", "peak_heap_bytes is counted by device.latency: emulated or native"),
        ("device: {tokens: [16, 65], latency: estimated}", "device.tokens 65 is above task.max_length 64"),
        ("device: {tokens: [64, 16], latency: estimated}", "device.tokens"),
        ("space: {recipe: {temprature: 2}}", "space.recipe.temprature is not a key of section 'space.recipe'. Did"),
        ("space: {embedding_width: {low: 3, hgih: 5}}", "space.embedding_width.hgih is not a key of"),
        ("space: {embedding_width: {low: 64, high: 32}}", "space.embedding_width has low 64 above high 32."),
        (
            "space: {families: [lstm]}",
            "space.families: There is no student family 'lstm'. Known: transformer, birnn, conv.",
        ),
        ("name: a/b", "name should be of letters, digits, dots, dashes and underscores"),
        ("name: 3", "name should be text, found 3."),
        ("device: {tokens: 65, latency: estimated}", "device.tokens 65 is above task.max_length 64"),
        ("pretraining: {sources: {path: a.txt}}", "pretraining is never used: add pretrained to space.recipe.init"),
        ("pretraining: {source: {path: a.txt}}", "pretraining.source is not a key of section 'pretraining'. Did you"),
        ("pretraining: {sources: {text: a}}", "pretraining.sources: say where the text is: hub"),
        ("pretraining: {sources: {path: a.txt}, epochs: 0}", "pretraining.epochs should be above 0.0, found 0."),
        ("space: {recipe: {initialization: pretrained}}", "space.recipe.initialization names pretrained, but"),
        ("space: {recipe: {initialization: supernet}}", "space.recipe.initialization names supernet, but there is no"),
        ("supernet: {epochs: 1}", "supernet is never used: add supernet to space.recipe.initialization."),
        ("supernet: {epoch: 1}", "supernet.epoch is not a key of section 'supernet'. Did you mean 'epochs'?"),
        ("supernet: {epochs: 0}", "supernet.epochs should be above 0.0, found 0."),
        (
            "space: {recipe: {schedule: [joint, staged]}}",
            "space.recipe.schedule cannot be 'staged': it should be 'joint'",
        ),
        (
            "space: {recipe: {example_weighting: [none, expertise]}}",
            "space.recipe.example_weighting cannot be 'expertise': it should be 'none' or 'domain_expertise'",
        ),
        (
            "space: {recipe: {example_weighting: [none, domain_expertise]}}",
            "space.recipe.example_weighting: domain_expertise is for a classification with domains: name their column",
        ),
        (
            "space: {recipe: {teacher_kind: [finetuned, meta]}}",
            "space.recipe.teacher_kind: meta is for a classification with domains: name their column under task.domain",
        ),
        ("teacher: {kind: meta}", "teacher.kind: meta is for a classification with domains: name their column under"),
        (
            "teacher: {intermediate: {data: {grammar: sentiment}, teacher: {kind: meta}}}",
            "teacher.intermediate.teacher.kind: meta is for a classification with domains: name their column under "
            "teacher.intermediate.domain",
        ),
        ("teacher: {kind: mata}", "teacher.kind should be 'finetuned' or 'meta', found 'mata'; did you mean 'meta'?"),
        ("space: {birnn: {cell: [lstm, rnn]}}", "space.birnn.cell cannot be 'rnn': it should be 'lstm' or 'gru'"),
    ],
)
def test_wrong_values_name_the_file_the_key_and_what_is_right(toy_file: Path, wrong: str, message: str) -> None:
    key = wrong.partition(":")[0]
    lines = [line for line in toy_file.read_text().splitlines() if not line.startswith(f"{key}:")]
    toy_file.write_text("\n".join([*lines, wrong]))
    with pytest.raises(InputError) as caught:
        load_study_file(toy_file)
    assert str(caught.value).startswith(f"Study file {toy_file}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ["transformer", "birnn"]}, "names supernet, which students of birnn cannot be"),
        ({"kind": "token-classification"}, "supernet is for tasks that judge whole texts"),
        ({"tasks": True}, "supernet is for studies of one task"),
    ],
)
def test_studies_that_a_supernet_cannot_serve_are_refused(change: dict, message: str) -> None:
    data = load_study_file("sst2").model_dump(mode="json")
    data["supernet"] = {}
    data["space"]["recipe"]["initialization"] = "supernet"
    data["space"]["families"] = change.get("families", ["transformer"])
    if "kind" in change:
        data["task"] |= {"kind": "token-classification", "metric": "entity_f1", "labels": None}
        data["task"] |= {"text": "sentence", "label": "label"}
        data["space"]["transformer"]["token_keep"] = 1.0
    if "tasks" in change:
        task = {key: value for key, value in data.pop("task").items() if key != "teacher"}
        data["tasks"] = {"first": task, "second": task}
    with pytest.raises(ValueError, match=message):
        StudyFile.model_validate(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "{grammar: sentiment, trian: 10}",
            "task.data.trian is not a key of section 'task.data'. Did you mean 'train'?",
        ),
        ("{grammar: sentiment, train: -1}", "task.data.train should be at least 2, found -1."),
        ("{hub: a/b, confg: x}", "task.data.confg is not a key of section 'task.data'. Did you mean 'config'?"),
        ("{}", "task.data: say where the data is: hub: ID, path: DIR"),
        ("{grammar: sentiment}\n  target: film", "task.target is a domain: name the column of domains under domain"),
        (
            "{grammar: sentiment}\n  domain: domain\n  target: film\n  unseen: arts",
            "task.target and unseen exclude each other: students are for one domain",
        ),
        (
            "{grammar: sentiment}\n  domian: domain",
            "task.domian is not a key of section 'task'. Did you mean 'domain'?",
        ),
    ],
)
def test_errors_inside_a_choice_of_sections(toy_file: Path, data: str, message: str) -> None:
    toy_file.write_text(toy_file.read_text().replace("{grammar: sentiment, train: 10, validation: 10}", data))
    with pytest.raises(InputError) as caught:
        load_study_file(toy_file)
    assert str(caught.value).startswith(f"Study file {toy_file}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: not valid YAML"),
        ("name: 2026-99-99", "not valid YAML (month must be in 1..12)"),
        ("name: a\nname: b\n", "line 2: not valid YAML (the key 'name' stands there twice)"),
        ("- a\n- b\n", "a study file is a mapping of sections."),
        ("", "a study file is a mapping of sections."),
        ("name: toy\ntask: {data: {grammar: sentiment}}\n", "teacher is missing."),
        ("name: !!python/object/apply:os.system ['true']\n", "line 1: not valid YAML"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_study_file(file)
    assert str(caught.value).startswith(f"Study file {file}: {message}")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"space": {"transfer_share": 0.5}}, "space.transfer_share is not a key .*It belongs under space.recipe."),
        ({"space": {"depth": 2}}, "space.depth is not a key .*It belongs under space.transformer"),
        ({"trials": 3}, "trials is not a key of a study file. It belongs under search."),
        ({"search": {"trails": 3}}, "search.trails is not a key .*Did you mean 'trials'?"),
        ({"search": {"bundles": "here"}}, "search.bundles should be the URL of a folder, like s3://bucket/folder"),
        (
            {"space": {"recipe": {"initialization": "layer"}}},
            "space.recipe.initialization cannot be 'layer': it sh",
        ),
        ({"search": {"sampler": "known"}}, "found 'known'; did you mean 'known-cost'?"),
        ({"task": {"data": "folder"}}, "task.data: say where the data is"),
    ],
)
def test_what_is_wrong_and_where_it_belongs(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    file = tmp_path / "study.yaml"
    base = {"name": "mine", "task": {"data": {"grammar": "sentiment"}, "text": "sentence"}, "teacher": {}}
    file.write_text(yaml.safe_dump({**base, **sections}))
    with pytest.raises(InputError, match=message.replace(".", r"\.").replace(r"\.*", ".*").replace("?", r"\?")):
        load_study_file(file)


def test_options_are_named_where_sections_do_not_fit(toy_file: Path) -> None:
    with pytest.raises(InputError, match=r"with --latency, --workers: search\.workers should be 1"):
        load_study_file(toy_file, {"latency": "native", "workers": 2})


def test_unknown_studies_and_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no shipped study 'sst3'. Did you mean 'sst2'\?"):
        load_study_file("sst3")
    with pytest.raises(InputError, match="There is no study file"):
        load_study_file(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot be read"):
        load_study_file(tmp_path / "binary.yaml")


def test_overrides_reach_their_keys(tmp_path: Path) -> None:
    given = {
        "name": "mine",
        "data": tmp_path,
        "text": "question, answer",
        "label": "verdict",
        "trials": 5,
        "workers": 3,
        "seed": 9,
        "sampler": "nsga2",
        "latency": "estimated",
        "device": "cortex-a76",
    }
    file = load_study_file("mrpc", {**given, "seed": 9})
    assert file.name == "mine"
    assert file.task.data.path == str(tmp_path)
    assert file.task.text == ("question", "answer")
    assert file.task.label == "verdict"
    assert (file.search.trials, file.search.workers, file.search.seed) == (5, 3, 9)
    assert file.search.sampler == "nsga2"
    assert (file.device.latency, file.device.profile) == ("estimated", "cortex-a76")
    assert load_study_file("mrpc", dict.fromkeys(given)) == load_study_file("mrpc")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"trials": 0}, "--trials: should be at least 1, found 0."),
        ({"sampler": "best"}, f"--sampler: should be {SAMPLER_NAMES}, found 'best'."),
        ({"data": "/does/not/exist"}, "--data: there is no folder /does/not/exist."),
        ({"latency": "guessed"}, "--latency: should be 'emulated', 'native' or 'estimated', found 'guessed'."),
    ],
)
def test_wrong_overrides_name_the_option(override: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_study_file("sst2", override)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("task", ["", "foo"])
def test_columns_for_a_task_that_is_none_are_no_accident(toy_file: Path, task: str) -> None:
    lines = [line if not line.startswith("task:") else f"task: {task}" for line in toy_file.read_text().splitlines()]
    toy_file.write_text("\n".join(line for line in lines if not line.startswith(" ")))
    with pytest.raises(InputError, match="task"):
        load_study_file(toy_file, {"text": "sentence"})


def test_relative_data_paths_are_the_files_own(toy_file: Path) -> None:
    text = toy_file.read_text().replace("{grammar: sentiment, train: 10, validation: 10}", "{path: texts}")
    toy_file.write_text(text)
    assert load_study_file(toy_file).task.data.path == str(toy_file.parent / "texts")


def test_relative_teachers_and_devices_are_the_files_own(toy_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = toy_file.read_text().replace("{model: none}", "{model: models/tiny}")
    toy_file.write_text(text.replace("profile: cortex-a53", "profile: mine.yaml"))
    assert load_study_file(toy_file).teacher.model == "models/tiny"  # no such folder: an id of the hub
    (toy_file.parent / "models" / "tiny").mkdir(parents=True)
    file = load_study_file(toy_file)
    assert file.teacher.model == str(toy_file.parent / "models" / "tiny")
    assert file.device.profile == str(toy_file.parent / "mine.yaml")
    monkeypatch.chdir(toy_file.parent)
    assert load_study_file("sst2", {"device": "mine.yaml"}).device.profile == str(toy_file.parent / "mine.yaml")


def test_round_trip_through_json() -> None:
    for name in SHIPPED:
        file = load_study_file(name)
        assert type(file).model_validate(file.model_dump(mode="json")) == file


def test_wrong_file_on_the_command_line_exits_with_2_and_one_sentence(toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text().replace("trials: 6", "trails: 6"))
    command = [sys.executable, "-m", "search.cli", "search", str(toy_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"shoebox: Study file {toy_file}: search.trails is not a key of section 'search'. Did you mean 'trials'?\n"
    )


def test_native_latency_wants_one_worker(toy_file: Path) -> None:
    toy_file.write_text(toy_file.read_text().replace("latency: estimated", "latency: native"))
    with pytest.raises(InputError, match=r"search\.workers should be 1 with device\.latency: native"):
        load_study_file(toy_file)
    assert load_study_file(toy_file, {"workers": 1}).device.latency == "native"


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.yaml")), ids=lambda path: path.stem)
def test_reference_studies_train_one_student_three_times(path: Path) -> None:
    file = load_study_file(path)
    assert file.name == f"{path.stem}-reference"
    assert (file.search.trials, file.search.repeats) == (3, 3)
    space = JointSpace(file.space)
    assert len({str(space.draw(np.random.default_rng(seed))) for seed in range(3)}) == 1


@pytest.mark.parametrize("path", sorted(REFERENCE.with_name("ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_ablation_studies_train_one_student_with_every_method(path: Path) -> None:
    file = load_study_file(path)
    assert file.name == f"{path.stem}-ablation"
    assert file.search.trials == 1
    drawn = [JointSpace(file.space).draw(np.random.default_rng(seed)) for seed in range(3)]
    assert len({str(student) for student in drawn}) == 1
    setup, facts = Setup(file.plan(), *drawn[0]), Facts(lambda config: 10**6, {"": 1000})
    for name in (
        "vocabulary-pruning",
        "sequence-pruning",
        "cross-distillation",
        "layer-initialization",
        "transfer-data",
        "quantization-aware-training",
    ):
        assert ROWS[name].remove(setup, facts) is not None


@pytest.mark.parametrize(
    ("latency", "label"),
    [("estimated", "latency, ms (cortex-a76, estimated)"), ("native", "latency, ms (native)")],
)
def test_times_of_this_machine_are_not_called_those_of_a_core(latency: str, label: str) -> None:
    file = load_study_file("sst2", {"latency": latency, "device": "cortex-a76"})
    assert file.label_of("latency_ms") == label
