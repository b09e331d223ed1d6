"""Ablations: which setups the rows make, and real trainings of a tiny teacher's students."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runners.plan import FidelitySpec
from runners.transfer import TransferSpec
from search.ablate import ROWS, Setup, ablate, start_from_file, start_from_study
from search.ablate.report import spread
from search.ablate.rows import changed
from search.study import load_study
from search.study_file import StudyFile
from space.errors import InputError
from space.families import parse_config

Shoebox = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = {
    "family": "transformer",
    "vocabulary_keep": 0.9,
    "embedding_width": 32,
    "embedding_bits": 4,
    "block_size": 32,
    "accuracy_level": 0,
    "width": 32,
    "heads": 2,
    "activation": "gelu",
    "layers": [{"ffn_width": 32, "token_keep": 0.5, "attention_bits": 4, "ffn_bits": 4}],
}
RECIPE = {
    "learning_rate": 2e-3,
    "label_weight": 0.3,
    "logit_weight": 1.0,
    "hidden_weight": 1.0,
    "temperature": 2.0,
    "teacher_learning_rate": 1e-4,
    "state_weight": 1.0,
    "initialization": "layers",
}


@pytest.fixture
def study(tmp_path: Path, model: Path) -> Path:
    content = {
        "name": "small",
        "task": {"data": {"grammar": "sentiment", "train": 60, "validation": 40}, "text": "sentence", "max_length": 32},
        "teacher": {"model": str(model), "epochs": 1},
        "limits": {"deployed_bytes": 20_000},
        "device": {"latency": "estimated", "tokens": 16},
        "fidelity": {"epochs": 1, "batch_size": 32},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    (tmp_path / "setup.yaml").write_text(yaml.safe_dump({"config": CONFIG, "recipe": RECIPE}))
    return path


def start(study: Path) -> tuple[StudyFile, Setup]:
    return start_from_file(str(study), study.with_name("setup.yaml"))


def count(config: object) -> int:
    """Bytes that fall with the embedding alone, so that the row at equal bytes has to narrow it."""
    return int(config.vocabulary_keep * config.embedding_width * 1000)  # type: ignore[attr-defined]


def differences(one: Setup, other: Setup) -> set[str]:
    sides = [{**s.config.model_dump(), **s.recipe.model_dump(), **s.plan.model_dump()} for s in (one, other)]
    return {name for name in sides[0] if sides[0][name] != sides[1][name]}


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("vocabulary-pruning", {"vocabulary_keep"}),
        ("vocabulary-pruning-equal-bytes", {"vocabulary_keep", "embedding_width"}),
        ("sequence-pruning", {"layers"}),
        ("cross-distillation", {"hidden_weight", "teacher_learning_rate"}),
        ("mutual-updates", {"teacher_learning_rate"}),
        ("hidden-state-loss", {"hidden_weight"}),
        ("word-state-loss", {"state_weight"}),
        (
            "distillation",
            {"label_weight", "logit_weight", "hidden_weight", "teacher_learning_rate", "state_weight"},
        ),
        ("layer-initialization", {"initialization"}),
        ("initialization", {"initialization"}),
    ],
)
def test_a_row_changes_its_method_and_nothing_else(study: Path, row: str, fields: set[str]) -> None:
    _, whole = start(study)
    found = ROWS[row].remove(whole, count)
    assert found is not None
    assert differences(whole, found[0]) == fields
    again = ROWS[row].remove(found[0], count)
    assert again is None  # what is removed cannot be removed again


def test_the_embedding_is_narrowed_no_more_than_needed(study: Path) -> None:
    _, whole = start(study)
    wide = changed(whole, embedding_width=96, vocabulary_keep=0.9)
    found = ROWS["vocabulary-pruning-equal-bytes"].remove(wide, count)
    assert found is not None
    assert found[0].config.embedding_width == 80


def test_without_transfer_text_there_are_as_many_steps(study: Path) -> None:
    _, whole = start(study)
    plan = whole.plan.model_copy(
        update={"transfer": TransferSpec(sources={"path": "more.txt"}), "fidelity": FidelitySpec(epochs=2)}
    )
    mixed = changed(Setup(plan, whole.config, whole.recipe), transfer_share=0.75)
    for row in ("transfer-data", "distillation"):
        found = ROWS[row].remove(mixed, count)
        assert found is not None
        assert found[0].plan.fidelity.epochs == 8
        assert found[0].plan.transfer is None
        assert found[0].recipe.transfer_share == 0
    assert ROWS["transfer-data"].remove(whole, count) is None


def test_weights_are_quantised_after_training_where_recipes_say_when(study: Path) -> None:
    _, whole = start(study)
    found = ROWS["quantization-aware-training"].remove(whole, count)
    if "quantization" not in type(whole.recipe).model_fields:
        assert found is None
    else:
        assert found is not None
        assert found[0].recipe.quantization == "post_training"  # type: ignore[attr-defined]


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
    ("arguments", "said"),
    [
        (["--rows", "vocabulary-prunning"], "Did you mean 'vocabulary-pruning'?"),
        (["--rows", "initialization,initialization"], "named twice"),
        (["--rows", "transfer-data"], "the configuration has no transfer data to remove"),
        (["--trial", "3"], "leave out --trial"),
        (["-o", "no/such/folder/x.md"], "name a file in a folder that exists"),
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
