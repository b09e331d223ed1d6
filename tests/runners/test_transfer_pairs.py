"""New pairs for pair tasks, and transfer text of pair tasks."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from runners.grammar import sentiment
from runners.task import Examples, Task
from runners.task.load import Target
from runners.teacher import TeacherOutputs, TeacherSpec, prepare_teacher
from runners.teacher.model import load_tokenizer
from runners.transfer import TransferSpec, prepare_transfer
from runners.transfer.cleaning import Sieve
from runners.transfer.edits import edited
from runners.transfer.neighbours import nearest_texts
from runners.transfer.pairs import pair_key, recombine
from runners.transfer.prepare import transfer_key
from runners.wordpiece import encode_texts, wordpiece
from space.errors import InputError
from space.normalization import Normalization

LENGTH = 40


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(cache))


def _told(count: int, seed: int) -> Examples:
    """Pairs whose second text says the label: what a tiny teacher can learn."""
    rows, _ = sentiment(2 * count, 2, seed=seed)
    labels = np.arange(count) % 2
    said = [f"{'good' if label else 'bad'} . {text}" for label, (text, _) in zip(labels, rows[count:], strict=True)]
    return Examples([text for text, _ in rows[:count]], said, labels)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(_told(300, 0), _told(60, 1), ("bad", "good"), 2, 2, False, "accuracy", LENGTH, "told")


@pytest.fixture
def teacher(model: Path, task: Task) -> TeacherOutputs:
    return prepare_teacher(TeacherSpec(model=str(model), learning_rate=3e-3, epochs=8), task)


def _by_length(left: Sequence[str], right: Sequence[str], count: int) -> np.ndarray:
    """Near in length: enough where only the bookkeeping of pairs is tested."""
    distance = np.abs(np.array([[len(a) - len(b) for b in right] for a in left]))
    return np.argsort(distance, axis=1, kind="stable")[:, :count]


def _sieve(task: Task) -> Sieve:
    def keys(split: Examples) -> list[tuple[str, str]]:
        assert split.pairs is not None
        return [pair_key(*pair) for pair in zip(split.texts, split.pairs, strict=True)]

    validation = keys(task.validation)
    return Sieve([*validation, *(key[::-1] for key in validation)], keys(task.train))


def test_new_pairs_are_new_and_of_all_kinds(task: Task) -> None:
    extra = [text for text, _ in sentiment(50, 2, seed=3)[0]]
    made = recombine(task.train, extra, 500, 0, _sieve(task), _by_length)
    pairs = list(zip(made.texts, made.pairs, strict=True))
    keys = [pair_key(*pair) for pair in pairs]
    assert len(set(keys)) == 500
    assert all(first != second for first, second in keys)
    assert set(made.kinds) == {"swapped", "edited", "random", "near"}
    assert Counter(made.kinds) == {"swapped": 50, "edited": 150, "near": 250, "random": 50}
    assert task.train.pairs is not None
    old = set(zip(task.train.texts, task.train.pairs, strict=True))
    assert not old & set(pairs)
    for kind, pair in zip(made.kinds, pairs, strict=True):
        if kind == "swapped":
            assert pair[::-1] in old
        elif kind == "edited":
            own = {*task.train.texts, *task.train.pairs, *extra}
            assert pair[0] in own or pair[1] in own
        else:
            assert pair[0] in {*task.train.texts, *extra}  # first texts stay first
            assert pair[1] in {*task.train.pairs, *extra}
    assert any(set(pair) & set(extra) for pair in pairs)


def test_new_pairs_are_seeded(task: Task) -> None:
    first = recombine(task.train, [], 200, 0, _sieve(task), _by_length)
    again = recombine(task.train, [], 200, 0, _sieve(task), _by_length)
    other = recombine(task.train, [], 200, 1, _sieve(task), _by_length)
    assert (first.texts, first.pairs) == (again.texts, again.pairs)
    assert (first.texts, first.pairs) != (other.texts, other.pairs)


def test_validation_pairs_are_never_made() -> None:
    """With three texts on each side all pairs can be listed."""
    train = Examples(["one a", "two b", "three c"], ["four d", "five e", "six f"], np.array([0, 1, 0]))
    validation = [("one a", "five e"), ("six f", "three c")]
    keys = [pair_key(*pair) for pair in validation]
    own = [pair_key("one a", "four d"), pair_key("two b", "five e"), pair_key("three c", "six f")]
    made = recombine(train, [], 12, 0, Sieve([*keys, *(key[::-1] for key in keys)], own), _by_length)
    pairs = set(zip(made.texts, made.pairs, strict=True))
    assert not pairs & {*validation, *(pair[::-1] for pair in validation)}


def test_more_pairs_than_there_are() -> None:
    train = Examples(["one a", "two b", "three c"], ["four d", "five e", "six f"], np.array([0, 1, 0]))
    with pytest.raises(InputError, match=r"asks for 5,000 pairs, but only \d\d different .* from 3 train pairs and 0"):
        recombine(train, [], 5_000, 0, Sieve((), ()), _by_length)


def test_edits_leave_words_out() -> None:
    text = "one two three four five six seven eight nine ten"
    generator = np.random.default_rng(0)
    copies = [edited(text, generator).split() for _ in range(300)]
    words = text.split()
    assert all(set(copy) < set(words) and len(set(copy)) == len(copy) for copy in copies)
    lengths = {len(copy) for copy in copies}
    assert lengths == set(range(4, 10))  # 1 to 6 of 10 left out
    in_order = [sorted(copy, key=words.index) == copy for copy in copies]
    assert 0.4 < np.mean(in_order) < 0.6
    assert edited("one", generator) == "one"
    assert edited("one two", generator) in ("one", "two")


def test_near_texts_are_near(model: Path) -> None:
    """A random encoder still puts texts of the same words together."""
    texts = list(dict.fromkeys(text for text, _ in sentiment(80, 2, seed=4)[0]))
    tokenizer, _ = load_tokenizer(model, "tiny")
    copies = [f"{text} but" for text in texts]
    state = torch.get_rng_state()
    places = nearest_texts(texts, copies, 3, model, tokenizer, LENGTH)
    assert torch.equal(torch.get_rng_state(), state)
    assert places.shape == (len(texts), 3)
    assert np.mean(places[:, 0] == np.arange(len(texts))) > 0.8
    assert all(len(set(row)) == 3 for row in places.tolist())


def test_the_teachers_answers_cover_the_classes(
    task: Task, teacher: TeacherOutputs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "shoebox")
    assert teacher.validation_quality > 0.8
    out = prepare_transfer(TransferSpec(recombine=400), task, teacher)
    assert len(out) == len(out.texts) == len(out.pairs or []) == 400
    shares = np.bincount(out.logits.argmax(1), minlength=2) / 400
    assert shares.min() > 0.15
    assert "the teacher says all: " in caplog.text
    assert set(out.scores) == {"all", "swapped", "edited", "near", "random"}
    student = wordpiece(teacher.vocabulary, Normalization(), LENGTH)
    found, expected = out.encoded(student, LENGTH), encode_texts(student, out.texts, out.pairs)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.segments, expected.segments)
    assert out.lessons(found).labels is None


def test_sources_of_pairs_and_of_sentences(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    held = task.validation
    assert held.pairs is not None
    assert task.train.pairs is not None
    rows = [
        ("the film was a film .", "the plot was a plot ."),
        (held.texts[0], held.pairs[0]),
        (held.pairs[1], held.texts[1]),  # the other way round
        (task.train.texts[0], task.train.pairs[0]),
        ("the film was a film", "The plot was a plot"),
        ("", "the film"),
    ]
    lines = [json.dumps({"a": first, "b": second}) for first, second in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    sentences = [f"the story was story {number} ." for number in range(50)]
    (tmp_path / "single.txt").write_text("\n".join([*sentences, held.texts[2]]))
    sources = [
        {"path": str(tmp_path / "pairs.jsonl"), "text": ("a", "b")},
        {"path": str(tmp_path / "single.txt")},
    ]
    out = prepare_transfer(TransferSpec(sources=sources, recombine=100), task, teacher)
    assert len(out) == 101
    assert (out.texts[0], (out.pairs or [])[0]) == rows[0]
    pairs, single = out.counts.values()
    assert pairs == {"read": 6, "pieces": 6, "blank": 1, "validation": 2, "train": 1, "repeated": 1, "taken": 1}
    assert (single["validation"], single["taken"]) == (1, 50)
    assert set(sentences) & {*out.texts, *(out.pairs or [])}
    with pytest.raises(InputError, match="one text column, but the task reads pairs"):
        prepare_transfer(TransferSpec(sources=sources), task, teacher)


def test_pairs_for_one_domain_are_made_of_its_texts(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    domains = np.arange(len(task.train)) % 3
    targeted = dataclasses.replace(
        task,
        train=dataclasses.replace(task.train, domains=domains),
        domains=("books", "dvd", "toys"),
        target=Target(1, task.validation, np.arange(len(task.validation))),
    )
    assert targeted.learned_train.texts == task.train.texts[1::3]
    out = prepare_transfer(TransferSpec(recombine=90), targeted, teacher)
    others = [split for domain in (0, 2) for split in (task.train.texts[domain::3], task.train.pairs[domain::3])]
    assert not {*out.texts, *out.pairs} & {text for split in others for text in split}
    (tmp_path / "single.txt").write_text("a film")
    for section in ({"recombine": 90}, {"augment": 9}, {"sources": {"path": str(tmp_path / "single.txt")}}):
        assert len({transfer_key(TransferSpec(**section), each, teacher.key, LENGTH) for each in (task, targeted)}) == 2


def test_found_pairs_of_other_domains_are_new_to_students_of_one(
    tmp_path: Path, task: Task, teacher: TeacherOutputs
) -> None:
    """They stand in the train split, but not in what these students learn from."""
    domains = np.arange(len(task.train)) % 3
    target = Target(1, task.validation, np.arange(len(task.validation)))
    train = dataclasses.replace(task.train, domains=domains)
    targeted = dataclasses.replace(task, train=train, domains=("books", "dvd", "toys"), target=target)
    assert task.train.pairs is not None
    table = {"text": task.train.texts, "other": task.train.pairs}
    pq.write_table(pa.table(table), tmp_path / "found.parquet")
    source = {"path": str(tmp_path / "found.parquet"), "text": ("text", "other")}
    out = prepare_transfer(TransferSpec(sources=source), targeted, teacher)
    others = [pair for row, pair in enumerate(zip(*table.values(), strict=True)) if row % 3 != 1]
    assert out.pairs is not None
    assert set(zip(out.texts, out.pairs, strict=True)) <= set(others)
    assert len(out.texts) == len(set(others))


def test_scores_of_a_regression_are_told_by_quantiles(model: Path, task: Task) -> None:
    def scored(split: Examples) -> Examples:
        return Examples(split.texts, split.pairs, (5.0 * split.labels).astype(np.float32))

    changes: dict[str, Any] = {"label_names": None, "outputs": 1, "regression": True, "metric": "pearson"}
    regression = dataclasses.replace(
        task, train=scored(task.train), validation=scored(task.validation), fingerprint="scores", **changes
    )
    teacher = prepare_teacher(TeacherSpec(model=str(model), learning_rate=3e-3, epochs=2), regression)
    out = prepare_transfer(TransferSpec(recombine=50), regression, teacher)
    low, high = float(out.logits.min()), float(out.logits.max())
    assert out.scores["all"].startswith(f"{low:.2f} (0 %), ")
    assert out.scores["all"].endswith(f"{high:.2f} (100 %)")
