"""Studies that tag words, and their bundles on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pipes import pipe

from runners.bundle import BundleConfig, write_model
from search.study_file import load_study_file
from space import InputError, JointSpace, SpaceSpec, TaskShape
from space.families import build_student
from space.vocabulary import SPECIAL_TOKENS

TOKENS = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz.", "ada", "met"]
STUDY = """
name: tags
task: {data: {path: data}, kind: token-classification, metric: entity_f1}
teacher: {model: none}
"""
WHOLE = "space: {transformer: {token_keep: 1.0}}\n"


def study(folder: Path, text: str) -> Path:
    file = folder / "tags.yaml"
    file.write_text(STUDY + text)
    return file


def test_tokens_that_are_tagged_are_not_pruned(tmp_path: Path) -> None:
    assert load_study_file(study(tmp_path, WHOLE)).task.per_token
    for text in ("", "space: {transformer: {token_keep: [1.0, 0.75]}}\n"):
        with pytest.raises(InputError, match=r"space\.transformer\.token_keep should be 1\.0: every token gets logits"):
            load_study_file(study(tmp_path, text))


def test_words_can_have_transfer_text_but_none_that_is_learned(tmp_path: Path) -> None:
    space = "space: {transformer: {token_keep: 1.0}, recipe: {transfer_share: 0.5}}\n"
    text = "transfer: {sources: {path: x.txt}, augment: {count: 5, methods: [random, %s]}}\n"
    file = load_study_file(study(tmp_path, text % "masked" + space))
    assert file.transfer is not None
    with pytest.raises(InputError, match="learned is for tasks that judge whole texts, not words"):
        load_study_file(study(tmp_path, text % "learned" + space))


def test_a_balanced_bias_is_for_classes_of_texts(tmp_path: Path) -> None:
    text = "space: {transformer: {token_keep: 1.0}, recipe: {head_bias: [trained, balanced]}}\n"
    with pytest.raises(InputError, match="head_bias: balanced is for tasks that put texts into classes"):
        load_study_file(study(tmp_path, text))


def test_teachers_of_tags_do_not_learn_beside_the_student(tmp_path: Path) -> None:
    text = "space: {transformer: {token_keep: 1.0}, recipe: {teacher_update: [task_layer, encoder]}}\n"
    with pytest.raises(InputError, match="teacher_update: encoder is for tasks that judge whole texts"):
        load_study_file(study(tmp_path, text))


def test_columns_and_rows_are_named_on_the_command_line(tmp_path: Path) -> None:
    given = {"data": tmp_path, "text": "words", "label": "ner", "where": "lang=en, year=3,draft=false,fold=-1,room=007"}
    task = load_study_file("wikiann-en", given).task
    assert (task.tokens, task.tags) == ("words", "ner")
    assert task.where == {"lang": "en", "year": 3, "draft": False, "fold": -1, "room": "007"}
    assert load_study_file("sst2", {"data": tmp_path, "where": "genre=news"}).task.where == {"genre": "news"}
    with pytest.raises(InputError, match=r"--where: 'lang' is no condition\. Write COLUMN=VALUE"):
        load_study_file("wikiann-en", {"where": "lang"})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A student with random weights: what it says does not matter here."""
    shape = TaskShape(outputs=3, segments=1, max_length=16, per_token=True)
    transformer = {"depth": 1, "width": 32, "heads": 2, "token_keep": 1.0}
    config, recipe = JointSpace(SpaceSpec(transformer=transformer)).draw(np.random.default_rng(0))
    torch.manual_seed(0)
    student = build_student(config, shape, len(TOKENS))
    names = ("O", "B-PER", "I-PER")
    described = BundleConfig(
        study="tags",
        teacher="none",
        label_names=names,
        lower_case=True,
        shape=shape,
        student=config,
        recipe=recipe,
    )
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_model(folder, student, described, TOKENS)
    return folder


def test_words_are_printed_with_their_tags(shoebox, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shoebox("predict", str(bundle), "Ada met B.")
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[:-1]] == ["Ada", "met", "B", "."]
    assert rows[-1] == [""]
    assert {row[1] for row in rows[:-1]} <= {"O", "B-PER", "I-PER"}
    assert all(0 < float(row[2]) <= 1 for row in rows[:-1])
    pipe(monkeypatch, b"Ada met B.\n\nAda\n")
    several = shoebox("predict", str(bundle), "--tokens").stdout.split("\n\n")
    assert [line.split("\t")[0] for line in several[0].splitlines()] == ["Ada", "met", "B."]
    assert "Ada" in several[1]
    entities = shoebox("predict", str(bundle), "Ada met B.", "--entities")
    assert entities.returncode == 0
    assert all(line.startswith("PER\t") for line in entities.stdout.split("\n") if line)


def test_options_of_other_tasks_are_refused(shoebox, bundle: Path) -> None:
    done = shoebox("predict", str(bundle), "Ada", "--pair", "met")
    assert done.returncode == 2
    assert "tags single texts" in " ".join(done.stderr.replace("│", "").split())


def test_entities_are_for_printed_text(shoebox, bundle: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("Ada met B.\n")
    for more in (("Ada", "--json"), ("Ada", "--output", str(tmp_path / "b.jsonl")), ("--input", str(source))):
        done = shoebox("predict", str(bundle), "--entities", *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--entities is for printed text" in " ".join(done.stderr.replace("│", "").split())
