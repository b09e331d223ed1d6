"""Ablations: real trainings of a tiny teacher's students, and the command."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import CONFIG, RECIPE, start, write, write_several, write_texts
from transformers import DistilBertConfig, DistilBertModel

from search.ablate import ablate, start_from_study
from search.ablate.report import Ablation, AblationRow, spread
from search.cli.ablate_command import write_tables
from search.study import load_study
from space.errors import InputError
from space.families import parse_config

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def study(tmp_path: Path, model: Path) -> Path:
    return write(tmp_path, model)


def test_of_several_tasks_each_row_takes_as_many_steps(tmp_path: Path, model: Path) -> None:
    file, setup = start(write_several(tmp_path, model))
    table = ablate(file, setup, seeds=1, rows=["distillation", "transfer-data"])
    assert [row.in_place for row in table.rows] == ["", "labels alone", "the train splits alone, as many steps"]
    seen = [row.records[0].metrics["examples_seen"] for row in table.rows]
    assert seen == [160, 160, 160]  # 5 full batches: large has 64 texts and 64 further ones, small has 32
    assert len({row.records[0].metrics["final_loss"] for row in table.rows}) == 3


def test_a_row_that_cannot_be_built_fails_alone(tmp_path: Path, model: Path, home: Path) -> None:
    teacher = tmp_path / "distilbert"
    shutil.copytree(model, teacher)
    entries = len((model / "vocab.txt").read_text().split())
    config = DistilBertConfig(vocab_size=entries, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(teacher)
    file, setup = start(write(tmp_path, teacher))
    found = ablate(file, setup, seeds=1, rows=["layer-initialization"])
    full, embeddings = found.rows
    assert "not laid out like BERT" in found.cells(full)[2]
    assert embeddings.records[0].quality > 0
    assert len(list((home / "ablations" / "small").glob("*.json"))) == 1  # the failure may be mended outside
    with pytest.raises(InputError, match=r"No row could be trained\. .* not laid out like BERT"):
        ablate(file, setup, seeds=1, rows=["word-state-loss"])


def test_rows_of_one_table_are_timed_by_the_same_tools(
    study: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "shoebox.search.ablate")
    file, setup = start(study)
    ablate(file, setup, seeds=1, rows=["initialization"])
    for module in ("runners.latency", "objectives.latency.estimate"):
        monkeypatch.setattr(f"{module}.estimate_version", lambda profile: "of newer records")
    table = ablate(file, setup, seeds=1, rows=["initialization"])
    assert "Kept from before" not in caplog.text
    assert [row.records[0].latency.versions["estimates"] for row in table.rows] == ["of newer records"] * 2


def test_other_text_trains_anew_and_moved_text_does_not(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shoebox.search.ablate")

    def trained(path: Path, epochs: float = 0.5) -> int:
        """How many of two trainings had to be made."""
        caplog.clear()
        section = {"sources": {"path": str(path)}, "max_length": 32, "epochs": epochs, "batch_size": 32}
        space = {"recipe": {"initialization": ["pretrained"]}}
        file, setup = start(write(tmp_path, model, {"initialization": "pretrained"}, pretraining=section, space=space))
        ablate(file, setup, seeds=1, rows=["pre-training"])
        return sum("bytes" in message for message in caplog.messages)

    texts = write_texts(tmp_path / "texts.txt", 100, seed=5)
    assert trained(texts) == 2
    moved = Path(shutil.copy(texts, tmp_path / "moved.txt"))
    texts.unlink()
    assert trained(moved) == 0
    assert trained(moved, epochs=1) == 1  # the row without pre-training has no part in it
    write_texts(moved, 100, seed=6)
    assert trained(moved) == 2  # the text orders the vocabulary too


def test_rows_are_trained_judged_kept_and_gone_on_with(
    study: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, setup = start(study)
    rows = ["vocabulary-pruning", "sequence-pruning", "initialization"]
    caplog.set_level(logging.INFO, "shoebox.search.ablate")
    first = ablate(file, setup, seeds=1, rows=rows[:2])
    assert "Kept from before" not in caplog.text
    kept = sorted((home / "ablations" / "small").glob("*.json"))
    assert len(kept) == 3
    kept[0].write_text("{")  # damaged: made again
    whole = ablate(file, setup, seeds=2, rows=rows)
    assert "Kept from before: 2 of 8 trainings." in caplog.text
    assert [row.name for row in whole.rows] == ["full", *rows]
    assert [row.qualities()[0] for row in whole.rows[:3]] == [row.qualities()[0] for row in first.rows]
    assert all(record.seed == seed for row in whole.rows for seed, record in enumerate(row.records))
    full, vocabulary, sequence, initial = whole.rows
    assert vocabulary.records[0].deployed_bytes > full.records[0].deployed_bytes
    assert sequence.records[0].deployed_bytes < full.records[0].deployed_bytes  # a simpler graph
    losses = [row.records[0].metrics["final_loss"] for row in whole.rows]
    assert len(set(losses)) == 4  # each was trained otherwise
    told = json.loads(whole.as_json())
    mean = (full.qualities()[0] + full.qualities()[1]) / 2  # type: ignore[operator]
    assert told["rows"][0]["mean"] == pytest.approx(mean)
    assert [row["broken_limits"] for row in told["rows"]] == [[], ["deployed_bytes"], [], []]
    assert "(over)" in whole.cells(vocabulary)[4]
    assert f"{initial.qualities()[1]:.4f} |" in whole.as_markdown()
    assert not list((home / "ablations" / "small").glob("bundle-*"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(study: Path, tmp_path: Path) -> None:
    file, setup = start(study)
    alone = ablate(file, setup, seeds=1, rows=["sequence-pruning"])
    beside = ablate(file, setup, seeds=1, rows=["sequence-pruning"], workers=2, folder=tmp_path / "other")
    for one, other in zip(alone.rows, beside.rows, strict=True):
        assert one.records[0].quality == other.records[0].quality
        assert one.records[0].metrics == other.records[0].metrics


def test_the_command_writes_both_files_and_its_json_starts_another_one(
    shoebox: Shoebox, study: Path, tmp_path: Path
) -> None:
    setup, output = study.with_name("setup.yaml"), tmp_path / "table.md"
    options = ("--seeds", "1", "--rows", "hidden-state-loss")
    done = shoebox("ablate", str(study), "--config", str(setup), *options, "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert "hidden-state loss" in done.stdout
    assert output.read_text().startswith("# Ablation of small\n")
    told = json.loads((tmp_path / "table.json").read_text())
    assert [row["row"] for row in told["rows"]] == ["full", "hidden-state-loss"]
    again = shoebox("ablate", str(study), "--config", str(tmp_path / "table.json"), *options)
    assert "Kept from before: 2 of 2 trainings." in again.stderr


@pytest.mark.parametrize(
    ("name", "written"),
    [("run-0.5", "run-0.5"), ("run.md", "run"), ("run.json", "run")],
)
def test_only_suffixes_of_the_files_themselves_are_cut(study: Path, tmp_path: Path, name: str, written: str) -> None:
    file, setup = start(study)
    found = Ablation(file, 0.9, [0], [AblationRow("full", setup, "", [(None, "diverged")])], [])
    paths = write_tables(found, tmp_path / name)
    assert paths == [tmp_path / f"{written}.md", tmp_path / f"{written}.json"]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "lang"], "--where: 'lang' is no condition"),
        (["--rows", "vocabulary-prunning"], "Did you mean 'vocabulary-pruning'?"),
        (["--rows", "initialization,initialization"], "named twice"),
        (["--rows", "transfer-data"], "the configuration has no transfer data to remove"),
        (["--trial", "3"], "leave out --trial"),
        (["-o", "no/such/folder/x.md"], "name a file in a folder that exists"),
        (["--output=~"], "name a file in a folder that exists"),
        (["--latency", "guessed"], "--latency: should be"),
    ],
)
def test_wrong_options_are_one_sentence(shoebox: Shoebox, study: Path, arguments: list[str], said: str) -> None:
    done = shoebox("ablate", str(study), "--config", str(study.with_name("setup.yaml")), *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_configuration_files_are_named(study: Path) -> None:
    path = study.with_name("setup.yaml")
    path.write_text(yaml.safe_dump({"config": {**CONFIG, "width": 33}, "recipe": RECIPE}))
    with pytest.raises(InputError, match=r"setup\.yaml: config\.width"):
        start(study)
    path.write_text(yaml.safe_dump({"recipe": RECIPE}))
    with pytest.raises(InputError, match="config is missing"):
        start(study)
    path.write_text(yaml.safe_dump({"config": CONFIG, "recipe": {**RECIPE, "transfer_share": 0.5}}))
    with pytest.raises(InputError, match="no section transfer"):
        start(study)


@pytest.mark.parametrize(
    ("recipe", "tokens", "said"),
    [
        ({"initialization": "pretrained"}, 1.0, "there is no section pretraining"),
        ({"initialization": "supernet"}, 1.0, "there is no section supernet"),
        ({}, 0.5, r"token_keep 1\.0: every token gets logits"),
        ({"teacher_update": "encoder"}, 1.0, "the study tags words"),
    ],
)
def test_setups_that_do_not_fit_a_study_of_words_are_refused(
    tmp_path: Path, model: Path, recipe: dict[str, Any], tokens: float, said: str
) -> None:
    task = {"data": {"path": "data"}, "kind": "token-classification", "metric": "entity_f1", "max_length": 32}
    study = write(tmp_path, model, task=task, space={"transformer": {"token_keep": 1.0}})
    config = {**CONFIG, "layers": [{**CONFIG["layers"][0], "token_keep": tokens}]}  # type: ignore[index]
    setup = study.with_name("setup.yaml")
    setup.write_text(yaml.safe_dump({"config": config, "recipe": {**RECIPE, **recipe}}))
    with pytest.raises(InputError, match=rf"setup\.yaml does not fit study 'small': .*{said}"):
        start(study)


def test_a_study_in_the_storage_gives_its_best_trial_or_the_one_that_is_named(make_engine: Callable[..., Any]) -> None:
    engine = make_engine(trials=4)
    engine.run()
    study = load_study("toy")
    file, setup = start_from_study("toy")
    assert (setup.config, setup.recipe) == (study.best().config, study.best().recipe)
    assert setup.plan == file.plan()
    other = next(record for record in study.records() if record.config != setup.config)
    assert start_from_study("toy", other.trial)[1].config == other.config
    with pytest.raises(InputError, match="has no trial 999"):
        start_from_study("toy", 999)


def test_a_study_that_is_not_there(shoebox: Shoebox) -> None:
    done = shoebox("ablate", "nothing")
    assert done.returncode == 2
    assert "There is no study 'nothing'" in done.stderr


def test_spread() -> None:
    found = spread([0.7, 0.8, 0.9])
    assert found is not None
    assert found.text() == "0.8000 ± 0.1000"
    assert parse_config(CONFIG).vocabulary_keep == 0.9
    one = spread([0.25])
    assert one is not None
    assert one.text("+") == "+0.2500"
    assert spread([]) is None
