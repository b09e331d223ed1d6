"""Tasks that label words: columns of lists, row filters, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from runners.task import Task, TaskSpec, load_task
from space import InputError

TOKENS = [["Ada", "met", "Bob", "Lee"], ["Rome", "fell"], [], ["it", "rains"], ["Ada", "left"]]
TAGS = [["B-PER", "O", "B-PER", "I-PER"], ["B-LOC", "O"], [], ["O", "O"], ["B-PER", "O"]]
LANG = ["en", "en", "en", "de", "de"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


def write(folder: Path, **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    table = pa.table({"tokens": TOKENS, "tags": TAGS, "lang": LANG, **columns})
    for split in ("train", "validation"):
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def load(folder: Path, **task: Any) -> Task:
    given = {"kind": "token-classification", "metric": "entity_f1", **task}
    return load_task(TaskSpec(data={"path": str(folder)}, **given))


def test_words_and_tags_of_all_rows_that_have_any(tmp_path: Path) -> None:
    task = load(write(tmp_path / "data"))
    assert task.label_names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert task.per_token
    assert (task.segments, task.outputs, len(task.train)) == (1, 5, 4)
    assert task.train.words == [words for words in TOKENS if words]
    assert task.train.texts[0] == "Ada met Bob Lee"
    assert task.train.labels.tolist() == [3, 0, 3, 4, 1, 0, 0, 0, 3, 0]
    assert task.train.starts.tolist() == [0, 4, 6, 8, 10]
    part = task.train.take(range(1, 3))
    assert (part.words, part.labels.tolist()) == ([["Rome", "fell"], ["it", "rains"]], [1, 0, 0, 0])


def test_where_words_end_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    one = load(write(tmp_path / "one"))
    two = load(write(tmp_path / "two", tokens=[["Ada met", "x", "Bob", "Lee"], *TOKENS[1:]]))
    three = load(write(tmp_path / "three", tokens=[["Ada", "met x", "Bob", "Lee"], *TOKENS[1:]]))
    assert len({one.fingerprint, two.fingerprint, three.fingerprint}) == 3


def test_rows_are_chosen_by_value(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", year=[1, 2, 1, 1, 2])
    assert load(folder, where={"lang": "de"}).train.words == TOKENS[3:]
    assert load(folder, where={"lang": ["de", "en"], "year": 2}).train.words == [TOKENS[1], TOKENS[4]]
    with pytest.raises(InputError, match=r"No row of .*train.parquet has 'fr' in column 'lang'; it has en, de\."):
        load(folder, where={"lang": ["de", "fr"]})
    with pytest.raises(InputError, match="'1' in column 'year'; it has 1, 2"):
        load(folder, where={"year": "1"})
    with pytest.raises(InputError, match=r"Column 'tags' of .* rows cannot be chosen by it"):
        load(folder, where={"tags": "O"})
    with pytest.raises(InputError, match="has no column 'language'"):
        load(folder, where={"language": "de"})


def test_rows_are_chosen_of_any_task(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        table = pa.table({"sentence": list("abcd"), "label": [0, 1, 0, 5], "lang": [*"xxxy"]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    spec = {"data": {"path": str(tmp_path)}, "labels": 2}
    assert load_task(TaskSpec(**spec, where={"lang": "x"})).train.texts == ["a", "b", "c"]
    # Rows are counted as they stand in the file.
    with pytest.raises(InputError, match="Label 5 in row 4 of"):
        load_task(TaskSpec(**spec, where={"lang": "y"}))


def test_class_labels_of_the_data_set_name_the_tags(tmp_path: Path) -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    indices = [[names.index(tag) for tag in row] for row in TAGS]
    features = {
        "tokens": datasets.List(datasets.Value("string")),
        "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
    }
    made = datasets.Dataset.from_dict({"tokens": TOKENS, "ner_tags": indices}, datasets.Features(features))
    for split in ("train", "validation"):
        made.to_parquet(str(tmp_path / f"{split}.parquet"))
    task = load(tmp_path, tags="ner_tags")
    assert task.label_names == tuple(names)
    assert task.train.labels.tolist() == [index for row in indices for index in row]


def test_indices_take_their_names_from_the_study(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", tags=[[1, 0, 1, 2], [1, 0], [], [0, 0], [1, 0]])
    assert load(folder, labels=["O", "B-PER", "I-PER"]).train.labels.tolist() == [1, 0, 1, 2, 1, 0, 0, 0, 1, 0]
    with pytest.raises(InputError, match=r"Tag '0' of .* is not IOB2: O, B-TYPE or I-TYPE\. Name the tags"):
        load(folder)
    with pytest.raises(InputError, match="lack B-LOC"):
        load(folder, labels=["O", "B-PER", "I-LOC"])


def test_tags_of_parts_of_speech_are_judged_by_accuracy(tmp_path: Path) -> None:
    tags = [["N", "V", "N", "N"], ["N", "V"], [], ["P", "V"], ["N", "V"]]
    assert load(write(tmp_path / "data", tags=tags), metric="accuracy").label_names == ("N", "P", "V")


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"tags": [*TAGS[:3], ["O"], TAGS[4]]}, {}, "There are 2 words but 1 tags in row 4 of .*, column 'tags'"),
        ({"tags": [["I-PER", *TAGS[0][1:]], *TAGS[1:]]}, {}, "Tag I-PER begins the sentence in row 1 of .* not IOB2"),
        ({"tags": [*TAGS[:3], ["O", "I-PER"], TAGS[4]]}, {}, "Tag I-PER follows O in row 4 of .* B- tag"),
        ({"tags": [*TAGS[:4], ["B-PER", "I-LOC"]]}, {}, "Tag I-LOC follows B-PER in row 5"),
        ({"tags": [["PER", *TAGS[0][1:]], *TAGS[1:]]}, {}, "Tag 'PER' of .* is not IOB2"),
        ({}, {"labels": ["O", "B-PER", "I-PER"]}, "Label 'B-LOC' in row 2 of .*, column 'tags' is not one of O, B-PER"),
        ({"tokens": [" ".join(words) for words in TOKENS]}, {}, "Column 'tokens' of .* holds string, but words and"),
        ({"tags": [None, *TAGS[1:]]}, {}, "There is no list in row 1 of"),
        ({"tokens": [["Ada", None, "Bob", "Lee"], *TOKENS[1:]]}, {}, "There is no text in row 1 of"),
        ({"tokens": [[1, 2, 3, 4], *([1] * len(words) for words in TOKENS[1:])]}, {}, "holds int64, not text"),
        ({"tokens": pa.array([[]] * 5, pa.list_(pa.string()))}, {}, "No row of .* has a word in column 'tokens'"),
        ({}, {"tokens": "words"}, "has no column 'words'; it has tokens, tags, lang"),
    ],
)
def test_bad_data_gives_one_clear_sentence(
    tmp_path: Path, columns: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "data", **columns), **task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "f1"}, "metric f1 does not fit a token-classification: use accuracy or entity_f1"),
        ({"text": "words"}, "text is no column of a token-classification: name its columns under tokens and tags"),
        ({"kind": "classification", "metric": "accuracy", "tags": "x"}, "tags is no column of a classification"),
        ({"kind": "classification"}, "metric entity_f1 does not fit a classification: use accuracy, f1 or matthews"),
        ({"where": {"lang": []}}, "where holds an empty list"),
    ],
)
def test_bad_specs_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"data": {"path": "x"}, "kind": "token-classification", "metric": "entity_f1", **change}
    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate(given)


def test_specs_round_trip_through_json() -> None:
    spec = TaskSpec(
        data={"path": "x"}, kind="token-classification", metric="entity_f1", where={"lang": ["en", "de"], "year": 3}
    )
    assert TaskSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.skipif("SHOEBOX_DATA" not in os.environ, reason="SHOEBOX_DATA names no folder of data sets")
@pytest.mark.parametrize(("language", "words"), [("en", 160_394), ("de", 195_387)])
def test_wikiann_as_it_lies_on_disk(language: str, words: int) -> None:
    task = load(Path(os.environ["SHOEBOX_DATA"]) / "wikiann", where={"lang": language})
    assert task.label_names == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    assert (len(task.train), len(task.validation), len(task.train.labels)) == (20_000, 10_000, words)
