"""Transfer text: read, cleaned, scored once by a small teacher, cached."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import multiprocessing
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import BertTokenizer

from runners.batches import collate, encode
from runners.grammar import sentiment
from runners.task import Examples, Task, TaskSpec, load_task
from runners.task.matching import match_key
from runners.teacher import TeacherOutputs, TeacherSpec, load_teacher, prepare_teacher
from runners.transfer import TransferOutputs, TransferSpec, prepare, prepare_transfer
from runners.transfer.cleaning import even_sample
from runners.wordpiece import encode_texts, wordpiece
from space.errors import InputError, OutputError
from space.normalization import Normalization

LENGTH = 32


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(
        TaskSpec(data={"grammar": "sentiment", "train": 200, "validation": 60, "seed": 0}, max_length=LENGTH)
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(cache))


@pytest.fixture
def teacher(model: Path, task: Task) -> TeacherOutputs:
    return prepare_teacher(TeacherSpec(model=str(model), learning_rate=1e-3), task)


def _sentences(count: int, seed: int = 5) -> list[str]:
    """Sentences of the grammar that are not in the task."""
    rows, _ = sentiment(count, 2, seed=seed)
    return [text for text, _ in rows]


def _file(path: Path, texts: list[str], **columns: list[str]) -> dict[str, Any]:
    pq.write_table(pa.table({"sentence": texts, **columns}), path)
    return {"path": str(path)}


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("the teacher ran again")


def test_the_teachers_answers_belong_to_the_texts(
    tmp_path: Path, task: Task, teacher: TeacherOutputs, model: Path
) -> None:
    texts = [f"{first} {second}" for first, second in zip(_sentences(60, 5), _sentences(60, 6), strict=True)]
    out = prepare_transfer(TransferSpec(sources=_file(tmp_path / "more.parquet", texts)), task, teacher)
    assert out.texts == texts
    assert out.pairs is None
    assert (out.logits.shape, out.hidden.shape, out.hidden.dtype) == ((60, 2), (60, 32), np.float16)
    for array in (out.logits, out.hidden, out.vocabulary_count):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    tokenizer = BertTokenizer.from_pretrained(model)
    encoded = encode(tokenizer, Examples(texts, None, np.zeros(60)), LENGTH)
    with torch.no_grad():
        logits, pooled = load_teacher(teacher)(collate(encoded, np.arange(60), torch.device("cpu")))
    np.testing.assert_allclose(out.logits, logits.numpy(), atol=0.03)  # written in bfloat16 perhaps
    np.testing.assert_allclose(out.hidden, pooled.numpy(), atol=0.05)
    np.testing.assert_array_equal(out.vocabulary_count, np.bincount(encoded.ids, minlength=len(teacher.vocabulary)))
    student = wordpiece(teacher.vocabulary[:40], Normalization(), 16)
    found, expected = out.encoded(student, 16), encode_texts(student, texts, None)
    np.testing.assert_array_equal(found.ids, expected.ids)
    lessons = out.lessons(found)
    assert len(lessons) == 60
    assert lessons.labels is None
    assert lessons.logits is out.logits


def test_long_texts_become_sentences_that_fit(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    sentences = list(dict.fromkeys(text for text in _sentences(400) if text.count(".") == 1))
    texts = [" ".join(sentences[start : start + 10]) for start in range(0, len(sentences), 10)]
    texts.append("the film was so " * 40)
    spec = TransferSpec(sources={**_file(tmp_path / "long.parquet", texts), "sentences": True})
    out = prepare_transfer(spec, task, teacher)
    student = wordpiece(teacher.vocabulary, Normalization(), 512)
    whole = out.encoded(student, 512)
    assert whole.lengths.max() <= LENGTH
    known = {match_key(text) for split in (task.train, task.validation) for text in split.texts}
    assert [text for text in out.texts if text in sentences] == [t for t in sentences if match_key(t) not in known]
    counts = out.counts[str(tmp_path / "long.parquet")]
    assert counts["read"] == len(texts)
    assert counts["pieces"] == len(sentences) + 1


def test_what_the_task_knows_is_left_out(
    tmp_path: Path, task: Task, teacher: TeacherOutputs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shoebox")
    new = ["the film was a film .", "the plot was a plot ."]
    validation = [text.upper().replace(" .", ".") for text in task.validation.texts[:3]]  # written in another way
    texts = [*validation, *task.train.texts[:2], *new, "The film, was a  FILM", " ", ""]
    spec = TransferSpec(
        sources=[_file(tmp_path / "one.parquet", texts), _file(tmp_path / "two.parquet", [new[1], "one more film"])]
    )
    out = prepare_transfer(spec, task, teacher)
    assert out.texts == [*new, "one more film"]
    first, second = out.counts.values()
    expected = {"read": 10, "pieces": 10, "blank": 2, "validation": 3, "train": 2, "repeated": 1, "taken": 2}
    assert first == expected
    assert (second["repeated"], second["taken"]) == (1, 1)
    assert "3 that stand in the validation split" in caplog.text
    assert "positive" in caplog.text  # what the teacher says
    assert out.kinds == {"one.parquet": 2, "two.parquet": 1}


def test_long_validation_texts_do_not_leak_by_their_sentences(
    tmp_path: Path, task: Task, teacher: TeacherOutputs
) -> None:
    long = ["the film was a film . it had a plot of a plot .", "the story was a story ."]
    judged = Examples(long, None, np.array([0, 1]))
    texts = ["It had a plot of a plot. The story was bad of bad.", "the film was a film ."]
    spec = TransferSpec(sources={**_file(tmp_path / "leak.parquet", texts), "sentences": True})
    out = prepare_transfer(spec, dataclasses.replace(task, validation=judged), teacher)
    assert out.texts == ["The story was bad of bad."]
    assert out.counts[str(tmp_path / "leak.parquet")]["validation"] == 2


def test_it_is_made_once(tmp_path: Path, task: Task, teacher: TeacherOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _file(tmp_path / "more.parquet", _sentences(50, 7))
    first = prepare_transfer(TransferSpec(sources=source), task, teacher)
    moved = tmp_path / "elsewhere.parquet"
    Path(source["path"]).rename(moved)
    monkeypatch.setattr(prepare, "infer", _refuse)
    again = prepare_transfer(TransferSpec(sources={"path": str(moved)}), task, teacher)
    assert again.key == first.key  # where the file lies does not count
    np.testing.assert_array_equal(again.logits, first.logits)
    others = [{"limit": 40}, {"sentences": True}]
    for change in others:
        with pytest.raises(AssertionError, match="ran again"):
            prepare_transfer(TransferSpec(sources={"path": str(moved), **change}), task, teacher)
    _file(moved, _sentences(50, 8))
    with pytest.raises(AssertionError, match="ran again"):
        prepare_transfer(TransferSpec(sources={"path": str(moved)}), task, teacher)
    assert not list(first.folder.parent.glob("*.part*"))


def test_a_sample_is_even_and_seeded(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    source = {**_file(tmp_path / "more.parquet", _sentences(400, 9)), "limit": 50}
    first = prepare_transfer(TransferSpec(sources=source), task, teacher)
    other = prepare_transfer(TransferSpec(sources=source, seed=1), task, teacher)
    assert len(first) == len(other) == 50
    assert first.texts != other.texts
    shifted = prepare_transfer(TransferSpec(sources=source), task, dataclasses.replace(teacher, key="other"))
    assert shifted.key != first.key
    assert shifted.texts == first.texts
    np.testing.assert_array_equal(shifted.logits, first.logits)


@given(count=st.integers(0, 500), limit=st.none() | st.integers(1, 600), seed=st.integers(0, 9))
def test_even_samples(count: int, limit: int | None, seed: int) -> None:
    found = even_sample(count, limit, np.random.default_rng(seed))
    assert len(found) == (count if limit is None else min(count, limit))
    assert (np.diff(found) > 0).all()
    assert all(0 <= place < count for place in found)
    if limit is not None and limit < count:
        assert (np.arange(limit) * count // limit <= found).all()
        assert (found < (np.arange(limit) + 1) * count // limit).all()


def test_a_damaged_entry_is_made_again(
    tmp_path: Path, task: Task, teacher: TeacherOutputs, caplog: pytest.LogCaptureFixture
) -> None:
    spec = TransferSpec(sources=_file(tmp_path / "more.parquet", _sentences(30, 10)))
    first = prepare_transfer(spec, task, teacher)
    for name in ("hidden.npy", "words.arrow", "texts.arrow", "word_starts.npy"):
        (first.folder / name).write_bytes((first.folder / name).read_bytes()[:200])
        again = prepare_transfer(spec, task, teacher)
        assert again.hidden.shape == first.hidden.shape
        assert "damaged" in caplog.text
        caplog.clear()


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, task: Task, teacher: TeacherOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "new_array", full)
    spec = TransferSpec(sources=_file(tmp_path / "more.parquet", _sentences(30, 11)))
    with pytest.raises(OutputError, match="No space left for the transfer text in"):
        prepare_transfer(spec, task, teacher)
    key = prepare.transfer_key(spec, task, teacher.key, LENGTH)
    assert not [path for path in teacher.folder.parents[1].glob(f"transfer/{key}*") if path.is_dir()]


def _in_a_process(spec: TransferSpec, task: Task, teacher: TeacherOutputs, started: Any, queue: Any) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("shoebox").addHandler(handler)
    started.wait()
    out = prepare_transfer(spec, task, teacher)
    queue.put((out.key, float(np.asarray(out.logits).sum()), any("Teacher scores" in line for line in lines)))


def test_two_processes_at_once(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    spec = TransferSpec(sources=_file(tmp_path / "more.parquet", _sentences(200, 12)))
    context = multiprocessing.get_context("spawn")
    queue, started = context.Queue(), context.Barrier(2)
    # A teacher's arrays are memory maps: the processes open them for themselves.
    plain = dataclasses.replace(
        teacher,
        **{
            field.name: np.array(value)
            for field in dataclasses.fields(teacher)
            if isinstance(value := getattr(teacher, field.name), np.memmap)
        },
    )
    processes = [context.Process(target=_in_a_process, args=(spec, task, plain, started, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = queue.get(timeout=300), queue.get(timeout=300)
    for process in processes:
        process.join()
    assert first[:2] == second[:2]
    assert sorted([first[2], second[2]]) == [False, True]  # one of them scored


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "txt"])
def test_every_format(tmp_path: Path, task: Task, teacher: TeacherOutputs, ending: str) -> None:
    texts = _sentences(6, 13)
    path = tmp_path / f"more.{ending}"
    if ending == "jsonl":
        path.write_text("\n".join(json.dumps({"sentence": text}) for text in texts))
    elif ending == "txt":
        path.write_text("\n\n".join(texts) + "\n")
    else:
        path.write_text("\n".join(["sentence", *texts, ""]))
    out = prepare_transfer(TransferSpec(sources={"path": str(path)}), task, teacher)
    assert out.texts == texts


def test_a_text_ends_at_a_newline_and_nowhere_else(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    texts = ["one\u2028two", "three\x85four", "five\x0csix", "seven\x1ceight"]
    (tmp_path / "more.txt").write_bytes("\r\n".join(texts).encode() + b"\n\nnine")
    out = prepare_transfer(TransferSpec(sources={"path": str(tmp_path / "more.txt")}), task, teacher)
    assert out.texts == [*texts, "nine"]
    assert out.counts[str(tmp_path / "more.txt")]["read"] == 6


def test_a_folder_is_all_its_files(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    texts = _sentences(9, 14)
    _file(tmp_path / "b.parquet", texts[3:6], more=["x", "y", "z"])
    _file(tmp_path / "a.parquet", texts[:3])
    (tmp_path / "c.txt").write_text("\n".join(texts[6:]))
    (tmp_path / "README.md").write_text("no text of the source")
    out = prepare_transfer(TransferSpec(sources={"path": str(tmp_path)}), task, teacher)
    assert out.texts == texts


def test_lists_of_words_are_texts(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    words = pa.array([["a", None, "good", "film"], None, ["x"]], pa.large_list(pa.string()))
    pq.write_table(pa.table({"tokens": words}), tmp_path / "words.parquet")
    source = {"path": str(tmp_path / "words.parquet"), "text": "tokens"}
    assert prepare_transfer(TransferSpec(sources=source), task, teacher).texts == ["a good film", "x"]


def test_bad_input(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    def refused(message: str, **source: Any) -> None:
        with pytest.raises(InputError, match=message):
            prepare_transfer(TransferSpec(sources=source), task, teacher)

    good = _file(tmp_path / "good.parquet", _sentences(3, 15))
    refused("has no column 'review'; it has sentence.*Set text of the transfer source", **good, text="review")
    refused("Transfer source .*nowhere.* does not exist", path=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refused("holds no file with text", path=str(tmp_path / "empty"))
    refused("leaves no text to learn from: .* 2 blank", **_file(tmp_path / "blank.parquet", ["", "  "]))
    known = _file(tmp_path / "known.parquet", task.train.texts)
    refused("leaves no text to learn from: .* 200 in the train split", **known)
    (tmp_path / "none.parquet").write_bytes(b"")
    refused("is an empty file", path=str(tmp_path / "none.parquet"))
    pq.write_table(pa.table({"sentence": [1, 2]}), tmp_path / "numbers.parquet")
    refused("holds int64, not text", path=str(tmp_path / "numbers.parquet"))
    pq.write_table(pa.table({"sentence": [[1], [2]]}), tmp_path / "lists.parquet")
    refused("holds list<.*int64>, not text", path=str(tmp_path / "lists.parquet"))
    (tmp_path / "latin.txt").write_bytes("ein schöner Tag".encode("latin-1"))
    refused("is not UTF-8 text", path=str(tmp_path / "latin.txt"))
    refused("two text columns, but the task reads single texts", **good, text=("sentence", "other"))
    with pytest.raises(InputError, match=r"recombine makes pairs, but the task reads single texts"):
        prepare_transfer(TransferSpec(recombine=5), task, teacher)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "should name sources"),
        ({"sources": {"file": "x"}}, "say where the text is"),
        ({"sources": {"path": "x", "text": ("a", "b"), "sentences": True}}, "pairs cannot be split"),
        ({"sources": {"path": "x", "limit": 0}}, "greater than or equal to 1"),
        ({"recombine": -1}, "greater than or equal to 0"),
    ],
)
def test_sections_that_make_no_sense(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransferSpec(**section)


def test_a_null_is_a_blank_text(tmp_path: Path, task: Task, teacher: TeacherOutputs) -> None:
    pq.write_table(pa.table({"sentence": ["a film of a film", None]}), tmp_path / "null.parquet")
    out: TransferOutputs = prepare_transfer(
        TransferSpec(sources={"path": str(tmp_path / "null.parquet")}), task, teacher
    )
    assert out.texts == ["a film of a film"]
    assert out.counts[str(tmp_path / "null.parquet")]["blank"] == 1


def test_the_validation_split_is_left_out_in_any_form_of_unicode(
    task: Task, teacher: TeacherOutputs, tmp_path: Path
) -> None:
    judged = [unicodedata.normalize("NFC", text.replace("e", "\u00e9")) for text in task.validation.texts]
    accented = dataclasses.replace(task, validation=Examples(judged, None, task.validation.labels))
    lines = [unicodedata.normalize("NFD", text) for text in judged] + ["a new film ."]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    found = prepare_transfer(TransferSpec(sources=[{"path": str(tmp_path / "texts.txt")}]), accented, teacher)
    assert found.texts == ["a new film ."]


def test_entries_that_were_sifted_otherwise_are_made_again(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of ASCII text alone are kept: their texts are the same."""
    (tmp_path / "texts.txt").write_text("a new film", encoding="utf-8")
    further = Examples(["d\u00e9j\u00e0 vu"], None, task.validation.labels[:1])
    accented = dataclasses.replace(task, validation=further)

    def keys() -> list[str]:
        own, source = TransferSpec(augment=9), TransferSpec(sources=[{"path": str(tmp_path / "texts.txt")}])
        return [prepare.transfer_key(*each, "teacher", 32) for each in ((own, task), (own, accented), (source, task))]

    before = keys()
    monkeypatch.setattr(prepare, "MATCH_FORMAT", 0)
    assert [old == new for old, new in zip(before, keys(), strict=True)] == [True, False, False]
