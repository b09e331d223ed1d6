"""No task trains on what another one is judged by."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runners.task import Task, TaskSpec, load_task
from runners.task.matching import load_tasks, match_key, without_rows_of
from space.errors import InputError


def _spec(folder: Path, train: list[tuple[str, str, Any]], validation: list[tuple[str, str, Any]]) -> TaskSpec:
    folder.mkdir()
    for split, rows in (("train", train), ("validation", validation)):
        first, second, label = zip(*rows, strict=True)
        pq.write_table(pa.table({"a": first, "b": second, "label": label}), folder / f"{split}.parquet")
    return TaskSpec(data={"path": str(folder)}, text=("a", "b"))


@pytest.fixture
def judged(tmp_path: Path) -> TaskSpec:
    return _spec(tmp_path / "judged", [("x", "y", 0), ("u", "v", 1)], [("It's fun.", "it was", 0), ("p", "q", 1)])


def _pairs(task: Task) -> list[tuple[str, str]]:
    assert task.train.pairs is not None
    return list(zip(task.train.texts, task.train.pairs, strict=True))


def test_rows_that_another_task_is_judged_by_are_left_out(tmp_path: Path, judged: TaskSpec) -> None:
    """In either order, however they are written; a pair that shares one of its texts only stays."""
    rows = [("it 's fun", "It was!", 1), ("q", "p", 0), ("p", "other", 1), ("x", "y", 0)]
    task, other = load_task(_spec(tmp_path / "own", rows, [("x", "y", 0)])), load_task(judged)
    found = without_rows_of(task, other.validation, "it")
    assert _pairs(found) == [("p", "other"), ("x", "y")]
    assert found.train.labels.tolist() == [1, 0]
    assert found.fingerprint != task.fingerprint
    assert found.validation is task.validation
    assert without_rows_of(found, other.validation, "it") is found


def test_of_several_tasks_each_leaves_out_what_the_others_are_judged_by(tmp_path: Path, judged: TaskSpec) -> None:
    own = _spec(tmp_path / "own", [("p", "q", 0), ("m", "n", 1), ("k", "l", 0)], [("x", "y", 0), ("m", "n", 1)])
    found = load_tasks({"first": judged, "second": own})
    assert _pairs(found["first"]) == [("u", "v")]
    assert _pairs(found["second"]) == [("m", "n"), ("k", "l")]  # its own splits are as they were published


def test_a_task_that_has_nothing_else_to_learn_from_is_refused(tmp_path: Path, judged: TaskSpec) -> None:
    task = load_task(_spec(tmp_path / "own", [("p", "q", 0), ("q", "p", 1)], [("k", "l", 0)]))
    with pytest.raises(InputError, match="Every text of a train split stands in the validation split of task mrpc too"):
        without_rows_of(task, load_task(judged).validation, "task mrpc")


def _of_domains(folder: Path, rows: dict[str, list[Any]], target: str | None) -> TaskSpec:
    folder.mkdir()
    for split in ("train", "validation"):
        pq.write_table(pa.table(rows), folder / f"{split}.parquet")
    return TaskSpec(data={"path": str(folder)}, text=("a", "b"), domain="from", target=target)


def test_each_text_of_many_tasks_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To compare each pair of 50 tasks of 10,000 texts took 81 s, in each process that loads them."""
    read: list[str] = []

    def counted(text: str) -> str:
        read.append(text)
        return match_key(text)

    specs = {
        f"task{each}": _spec(tmp_path / f"t{each}", [(f"a{each}", "b", 0), ("c", "d", 1)], [(f"e{each}", "f", 1)])
        for each in range(5)
    }
    monkeypatch.setattr("runners.task.matching.match_key", counted)
    load_tasks(specs)
    assert len(read) == 5 * 2 * 3


@pytest.mark.parametrize("target", [None, "c"])
def test_a_domain_of_which_no_text_is_left_is_none_of_the_task(
    tmp_path: Path, judged: TaskSpec, target: str | None
) -> None:
    """Its mean of no texts was not a number, and with it every weight of a loss."""
    rows = {"a": ["k", "p", "m", "i"], "b": ["l", "q", "n", "j"], "label": [0, 1, 1, 0], "from": ["a", "b", "c", "a"]}
    found = load_tasks({"own": _of_domains(tmp_path / "own", rows, target), "judged": judged})["own"]
    assert found.domains == ("a", "c")
    assert found.train.domains is not None
    assert found.train.domains.tolist() == [0, 1, 0]
    assert found.learned_train.texts == (["m"] if target else ["k", "m", "i"])


def test_a_task_of_whose_target_no_text_is_left_is_refused(tmp_path: Path, judged: TaskSpec) -> None:
    rows = {"a": ["k", "p", "m"], "b": ["l", "q", "n"], "label": [0, 1, 1], "from": ["a", "b", "a"]}
    specs = {"own": _of_domains(tmp_path / "own", rows, "b"), "judged": judged}
    with pytest.raises(InputError, match=r"Every text of domain 'b' in a train split stands in .* task judged too"):
        load_tasks(specs)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("It's fun.", "it 's fun ."),
        ("caf\u00e9 cr\u00e8me", "cafe\u0301 cre\u0300me"),
        ("\uff26\uff35\uff2e 1", "fun \uff11"),  # full width
        ("e\ufb03cient", "efficient"),  # a ligature
        ("Stra\u00dfe", "STRASSE"),
        ("\u1f80", "\u1f88"),  # to fold Greek capitals undoes their normal form
        ("\u0130stanbul", "istanbul"),
        ("it\u00b4s", "its"),  # a lone accent for an apostrophe
        ("fun \u2764\ufe0f", "fun \u2764"),
        ("\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),  # Hebrew with and without its points
        ("\uac01", "\u1100\u1161\u11a8"),  # Hangul as one syllable and as its letters
    ],
)
def test_texts_are_the_same_however_they_are_spelt(text: str, other: str) -> None:
    keys = {match_key(unicodedata.normalize(form, each)) for each in (text, other) for form in ("NFC", "NFD")}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("\u0915\u0940", "\u0915\u093e"),  # Devanagari: two vowel signs on one letter
        ("\u0e01\u0e34", "\u0e01\u0e38"),  # Thai: likewise
        ("sch\u00f6n", "schon"),
        ("scho\u0308n", "schon"),
        ("?!", "!!"),
        ("\u2764", "\u263a"),
    ],
)
def test_other_texts_are_not(text: str, other: str) -> None:
    assert match_key(text) != match_key(other)


def test_ascii_text_takes_the_short_way_to_the_same_key() -> None:
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choice(" aB1_-'.\t") for _ in range(12))
        assert match_key(f"{text}\u00e9") == match_key(f"{text}a")[:-1] + "\u00e9"
