"""Edited copies of a task's own texts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.quality import Metric
from runners.task import Examples, TaskSpec, load_task
from runners.task.matching import match_key
from runners.teacher import TeacherSpec, prepare_teacher
from runners.transfer import TransferSpec, prepare_transfer
from runners.transfer.augment import LEFT_OUT, REPLACED, augment, edit, near_words, words_of
from runners.transfer.cleaning import Sieve
from runners.transfer.pairs import pair_key
from runners.transfer.prepare import transfer_key
from space.errors import InputError


def test_near_words_are_nearest_whole_words_and_numbers_are_near_numbers() -> None:
    tokens = ["[PAD]", "good", "fine", "##ly", "bad", "12", "13", "a"]
    embeddings = torch.tensor(
        [[1, 0], [1, 0], [1, 0.1], [1, 0.05], [-1, 0.2], [1, 0], [0, 1], [1, 0]], dtype=torch.float
    )
    near = near_words(["good", "12", "goodly", "a"], tokens, embeddings)
    assert near == {"good": ["fine", "bad"], "12": ["13"], "a": ["good", "fine", "bad"]}


def test_an_edited_text_keeps_its_punctuation_and_most_of_its_words() -> None:
    text = "Anna said, on 12 May: (nothing) of the sort!"
    generator = np.random.default_rng(0)
    near = {"anna": ["bob"], "12": ["13"], "nothing": ["something"], "said": ["told"]}
    kept = []
    for _ in range(200):
        copy = edit(text, near, generator)
        assert re.sub(r"[\w\s]", "", copy) == ",:()!"
        assert {word for word in copy.split() if "ob" in word} <= {"Bob", "Bob,"}  # capitals stay
        kept.append(len(set(words_of(copy)) & set(words_of(text))) / len(words_of(text)))
    assert 0.6 < np.mean(kept) < 0.95
    assert edit("...", {}, generator) == "..."


def test_a_word_without_near_words_is_left_out_where_it_would_be_replaced() -> None:
    text, near = "a b c d e f g h", {word: ["z"] for word in "abcd"}
    generator = np.random.default_rng(0)
    copies = [edit(text, near, generator).split() for _ in range(3000)]
    replaced = sum(copy.count("z") for copy in copies)
    gone_known, gone = (sum(len(set(part) - set(copy)) for copy in copies) for part in ("abcd", "efgh"))
    assert replaced / gone_known == pytest.approx(REPLACED / (REPLACED + LEFT_OUT), abs=0.03)
    assert gone / gone_known == pytest.approx(1, abs=0.05)


def test_copies_are_new_different_and_repeatable() -> None:
    train = Examples(["a b c d e f", "g h i j k l"], ["m n o p q r", "s t u v w x"], np.array([0, 1]))

    def make(seed: int) -> list[tuple[str, str]]:
        known = [pair_key(*pair) for pair in zip(train.texts, train.pairs or [], strict=True)]
        copies = augment(train, 60, seed, Sieve((), known), lambda words: {word: ["zz", "yy"] for word in words})
        return list(zip(copies.texts, copies.pairs or [], strict=True))

    made = make(0)
    assert made == make(0) != make(1)
    assert len({pair_key(*pair) for pair in made}) == 60
    assert not {*zip(train.texts, train.pairs or [], strict=True)} & {*made}
    changed = [(first not in train.texts, second not in (train.pairs or [])) for first, second in made]
    assert {*changed} == {(True, False), (False, True), (True, True)}
    with pytest.raises(InputError, match="asks for 50 copies, but only 3 different"):
        augment(Examples(["one two"], None, np.zeros(1)), 50, 0, Sieve((), [match_key("one two")]), lambda words: {})


def test_a_study_can_learn_from_copies_alone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    torch.set_num_threads(1)
    data = {"grammar": "sentiment", "train": 100, "validation": 20, "seed": 0}
    task = load_task(TaskSpec(data=data, max_length=32))
    teacher = prepare_teacher(TeacherSpec(model=str(model)), task)
    out = prepare_transfer(TransferSpec(augment=150), task, teacher)
    assert (len(out), out.pairs) == (150, None)
    assert not {*map(match_key, out.texts)} & {*map(match_key, [*task.train.texts, *task.validation.texts])}
    vocabulary = set((model / "vocab.txt").read_text().split())
    new = {word for text in out.texts for word in words_of(text)} - {w for t in task.train.texts for w in words_of(t)}
    assert new <= vocabulary


def test_copies_for_one_domain_are_made_of_its_texts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    torch.set_num_threads(1)
    data = {"grammar": "sentiment", "train": 160, "validation": 40, "seed": 0}
    whole = load_task(TaskSpec(data=data, max_length=32, domain="domain"))
    task = load_task(TaskSpec(data=data, max_length=32, domain="domain", target=whole.domains[0]))
    teacher = prepare_teacher(TeacherSpec(model=str(model)), task)
    augment = {"count": 30, "methods": ["random", "masked", "learned"], "candidates": 2, "episodes": 3}
    out = prepare_transfer(TransferSpec(augment=augment), task, teacher)
    assert len(out) == 90
    assert {*out.origins.tolist()} <= {*task.learned.tolist()}
    for place in range(30):
        own = words_of(task.train.texts[out.origins[place]])
        assert len([word for word in words_of(out.texts[place]) if word in own]) >= len(own) // 2


def test_an_entry_is_named_by_what_its_texts_depend_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    data = {"grammar": "sentiment", "train": 100, "validation": 20, "seed": 0}
    task = load_task(TaskSpec(data=data, max_length=32))
    teacher = replace(prepare_teacher(TeacherSpec(model=str(model)), task), key="teacher")

    def key(metric: Metric = "accuracy", **section: Any) -> str:
        return transfer_key(TransferSpec(**section), replace(task, metric=metric), teacher.key, 32)

    assert key(recombine=9) == "dc5bc8dcb8081293450b"  # as ever
    assert key(augment=9) != "5f31ef661a27cf619b03"  # of copies that were edited otherwise
    drawn = {"count": 9, "methods": ["random", "masked"]}
    learned = {"count": 9, "methods": ["random", "learned"]}
    assert len({key(augment=learned), key(augment={**learned, "episodes": 7}), key(augment=drawn)}) == 3
    assert key("f1", augment=learned) != key(augment=learned)  # whose selector is rewarded by the metric
    assert key("f1", augment=drawn) == key(augment=drawn)
