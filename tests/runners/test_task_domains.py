"""Domains of a task's rows, and the one that students are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from runners.grammar import domain_of, sentiment
from runners.task import Task, TaskSpec, load_task
from space.errors import InputError

TRAIN = ["books", "dvd", "books", "toys", "dvd", "books"]
VALIDATION = ["dvd", "books", "toys", "books"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, domains in (("train", TRAIN), ("validation", VALIDATION)):
        count = len(domains)
        columns = {
            "sentence": [f"{split} {row}" for row in range(count)],
            "label": [row % 2 for row in range(count)],
            "domain": domains,
            "number": [["books", "dvd", "toys"].index(name) for name in domains],
            "score": np.linspace(0, 1, count),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    return tmp_path


def _load(folder: Path, **task: Any) -> Task:
    return load_task(TaskSpec(data={"path": str(folder)}, **task))


def test_domains_are_numbered_in_the_order_of_their_names(folder: Path) -> None:
    task = _load(folder, domain="domain")
    assert task.domains == ("books", "dvd", "toys")
    assert task.train.domains is not None
    assert task.train.domains.tolist() == [0, 1, 0, 2, 1, 0]
    assert task.train.take(range(1, 4)).domains.tolist() == [1, 0, 2]
    assert task.learned is None
    numbered = _load(folder, domain="number")
    assert numbered.domains == ("0", "1", "2")
    assert numbered.fingerprint == task.fingerprint != _load(folder).fingerprint


def test_students_of_a_target_learn_from_its_rows_and_are_judged_on_them(folder: Path) -> None:
    whole, task = _load(folder, domain="domain"), _load(folder, domain="domain", target="books")
    assert task.learned is not None
    assert task.learned.tolist() == [0, 2, 5]
    assert task.train.texts == whole.train.texts  # which the teacher learns from
    assert task.validation.texts == ["validation 1", "validation 3"]
    assert task.validation.labels.tolist() == [1, 1]
    assert task.taught_validation.texts == whole.validation.texts
    assert task.on_target(np.arange(8).reshape(4, 2)).tolist() == [[2, 3], [6, 7]]
    assert task.fingerprint == whole.fingerprint  # one teacher serves every target
    assert _load(folder, domain="number", target=0).validation.texts == task.validation.texts


def test_nothing_of_an_unseen_domain_is_trained_on(folder: Path) -> None:
    task = _load(folder, domain="domain", unseen="books")
    assert task.train.texts == ["train 1", "train 3", "train 4"]
    assert task.validation.texts == task.taught_validation.texts == ["validation 1", "validation 3"]
    assert task.domains == ("dvd", "toys")
    assert task.learned is None


def test_tagged_words_of_a_target(tmp_path: Path) -> None:
    columns = {
        "tokens": [["a", "b"], [], ["c"], ["d", "e", "f"]],
        "tags": [["O", "B-X"], [], ["B-X"], ["O", "B-X", "I-X"]],
        "domain": ["news", "news", "talk", "news"],
    }
    for split in ("train", "validation"):
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    spec = {"kind": "token-classification", "metric": "entity_f1", "domain": "domain", "target": "news"}
    task = _load(tmp_path, **spec)
    assert task.learned is not None
    assert task.learned.tolist() == [0, 2]  # of the rows that have words
    assert task.validation.words == [["a", "b"], ["d", "e", "f"]]
    assert task.on_target(np.arange(6)).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"domain": "nowhere"}, "has no column 'nowhere'"),
        ({"domain": "score"}, "holds double: it tells no domains. Correct task.domain."),
        ({"domain": "domain", "target": "cars"}, "has domain 'cars' in column 'domain'; it has books, dvd, toys. Corr"),
        ({"domain": "domain", "unseen": "cars"}, "it has books, dvd, toys. Correct task.unseen."),
        ({"domain": "domain", "unseen": "toys", "where": {"domain": "toys"}}, "have domain 'toys' in column 'domain'"),
    ],
)
def test_wrong_domains_name_the_file_and_what_is_right(folder: Path, task: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _load(folder, **task)
    assert message in str(caught.value)


def test_a_column_of_texts_is_no_column_of_domains(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        texts = [f"{split} {row}" for row in range(50)]
        pq.write_table(pa.table({"sentence": texts, "label": [0, 1] * 25}), tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match="has 50 values in 50 rows: it tells no domains"):
        _load(tmp_path, domain="sentence")


@pytest.mark.parametrize("task", [{"target": "books"}, {"domain": "a", "target": "books", "unseen": "dvd"}])
def test_sections_that_contradict_themselves_are_refused(task: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"name the column of domains under domain|exclude each other"):
        TaskSpec(data={"path": "x"}, **task)


def test_every_sentence_of_the_grammar_has_a_domain() -> None:
    rows, _ = sentiment(2000, 2, seed=1)
    found = [domain_of(text) for text, _ in rows]
    assert min(found.count(name) for name in ("film", "arts", "hotel", "travel")) > 200
    assert domain_of("on a rainy tuesday , the soup was bad but the film was good .") == "hotel"
    with pytest.raises(ValueError, match="no sentence of the grammar"):
        domain_of("nothing")
