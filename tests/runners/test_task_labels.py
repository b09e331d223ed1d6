"""Labels of two splits that do not number their classes alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from runners.task import Task, TaskSpec, load_task
from space.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


def _write(folder: Path, split: str, labels: list[Any], names: list[str] | None = None) -> None:
    rows = [{"sentence": f"text {number}", "label": label} for number, label in enumerate(labels)]
    if names is None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        return
    label = datasets.ClassLabel(names=names)
    features = datasets.Features({"sentence": datasets.Value("string"), "label": label})
    datasets.Dataset.from_list(rows, features).to_parquet(folder / f"{split}.parquet")


def _load(folder: Path, **task: Any) -> Task:
    files = {split: str(next(folder.glob(f"{split}.*"))) for split in ("train", "validation")}
    return load_task(TaskSpec(data=files, **task))


def _called(task: Task) -> tuple[list[str], list[str]]:
    assert task.label_names is not None
    train, validation = ([task.label_names[index] for index in split.labels] for split in (task.train, task.validation))
    return train, validation


NEG_POS, POS_NEG = ["neg", "pos"], ["pos", "neg"]


@pytest.mark.parametrize(
    ("train", "validation", "labels"),
    [
        (NEG_POS, POS_NEG, None),
        (NEG_POS, POS_NEG, 2),
        (NEG_POS, NEG_POS, ("pos", "neg")),
        (NEG_POS, POS_NEG, ("pos", "neg")),
        (NEG_POS, ["unknown", "pos", "neg"], None),  # a name that no row has does no harm
        (NEG_POS, ["neg", "pos", "unknown"], ("neg", "pos")),
        (None, POS_NEG, None),
        (None, NEG_POS, None),
        (None, NEG_POS, ("pos", "neg")),
        (POS_NEG, None, None),
    ],
)
def test_class_labels_are_read_by_name_whatever_their_order(
    tmp_path: Path, train: list[str] | None, validation: list[str] | None, labels: Any
) -> None:
    truth = ["neg", "pos", "neg", "pos"]
    _write(tmp_path, "train", truth, train)
    _write(tmp_path, "validation", truth[1:], validation)
    assert _called(_load(tmp_path, labels=labels)) == (truth, truth[1:])


def test_names_of_the_study_rename_those_of_the_data_set(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        _write(tmp_path, split, ["a", "b", "c"], ["a", "b", "c"])
    plain = _load(tmp_path)
    assert _called(_load(tmp_path, labels=("x", "y", "z")))[0] == ["x", "y", "z"]
    assert _called(_load(tmp_path, labels=("a", "b", "other")))[1] == ["a", "b", "other"]
    assert _load(tmp_path, labels=("x", "y", "z")).fingerprint == plain.fingerprint
    with pytest.raises(
        InputError, match=r"Label 'a' in row 1 of .*train\.parquet, column 'label' is not one of b, x, y"
    ):
        _load(tmp_path, labels=("b", "x", "y"))
    _write(tmp_path, "validation", ["a", "b", "c"], ["b", "a", "c"])
    with pytest.raises(InputError, match=r"Label 'a' in row 1 of .*validation\.parquet, .* is not one of x, y, z"):
        _load(tmp_path, labels=("x", "y", "z"))


def test_a_class_label_that_the_task_does_not_have(tmp_path: Path) -> None:
    _write(tmp_path, "train", ["neg", "pos"], NEG_POS)
    _write(tmp_path, "validation", ["positive", "negative"], ["negative", "positive"])
    with pytest.raises(InputError, match=r"Label 'positive' in row 1 of .*validation.* is not one of neg, pos"):
        _load(tmp_path)


def test_names_in_one_split_and_numbers_in_the_other(tmp_path: Path) -> None:
    _write(tmp_path, "train", ["pos", "neg", "pos"])
    _write(tmp_path, "validation", [1, 0])
    with pytest.raises(
        InputError, match=r"'label' of .*train.* holds names, neg, pos, but that of .*validation.*int64"
    ):
        _load(tmp_path)
    with pytest.raises(InputError, match="List the names in the order of their numbers"):
        _load(tmp_path, labels=2)
    assert _called(_load(tmp_path, labels=("neg", "pos")))[1] == ["pos", "neg"]
    _write(tmp_path, "train", ["2", "1", "2"])
    _write(tmp_path, "validation", [1, 2])
    assert _called(_load(tmp_path)) == (["2", "1", "2"], ["1", "2"])


@pytest.mark.parametrize(
    ("values", "labels", "called"),
    [
        ([2, 0, 1], ("2", "1", "0"), ["2", "0", "1"]),
        ([10, 20, 30], ("10", "20", "30"), ["10", "20", "30"]),
        ([1.0, 0.0], ("1.0", "0.0"), ["1.0", "0.0"]),
        ([True, False], ("True", "False"), ["True", "False"]),
        ([True, False], ("no", "yes"), ["yes", "no"]),
        ([1, 0], ("true", "false"), ["false", "true"]),  # these are no truth values: places
        ([0, 1, 2], ("1", "2", "3"), ["1", "2", "3"]),  # 0 is no name: places
    ],
)
def test_names_that_spell_the_very_numbers(
    tmp_path: Path, values: list[Any], labels: tuple[str, ...], called: list[str]
) -> None:
    _write(tmp_path, "train", values)
    _write(tmp_path, "validation", values[1:])  # what is meant hangs on the train split alone
    assert _called(_load(tmp_path, labels=labels)) == (called, called[1:])


def test_a_number_that_no_name_spells(tmp_path: Path) -> None:
    _write(tmp_path, "train", [10, 20])
    _write(tmp_path, "validation", [10, 40])
    with pytest.raises(InputError, match=r"Label 40 in row 2 of .*validation\.jsonl, .* is not one of 20, 10"):
        _load(tmp_path, labels=("20", "10"))


@pytest.mark.parametrize("labels", [None, ("N", "V"), ("V", "N")])
def test_tags_are_read_by_name_too(tmp_path: Path, labels: tuple[str, ...] | None) -> None:
    rows = {"tokens": [["a", "b"], ["c"]], "tags": [["N", "V"], ["V"]]}
    for split, names in (("train", ["N", "V"]), ("validation", ["V", "N"])):
        tags = datasets.List(datasets.ClassLabel(names=names))
        features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
        encoded = {**rows, "tags": [[names.index(tag) for tag in row] for row in rows["tags"]]}
        datasets.Dataset.from_dict(encoded, features).to_parquet(tmp_path / f"{split}.parquet")
    task = _load(tmp_path, kind="token-classification", metric="accuracy", labels=labels)
    assert _called(task) == (["N", "V", "V"], ["N", "V", "V"])


def test_tags_with_names_in_one_split_and_numbers_in_the_other(tmp_path: Path) -> None:
    for split, tags in (("train", [["O", "B-PER"], ["O"]]), ("validation", [[0, 1], [0]])):
        rows = zip([["a", "b"], ["c"]], tags, strict=True)
        lines = "".join(json.dumps({"tokens": words, "tags": row}) + "\n" for words, row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match="holds names, O, B-PER, I-PER, but that of"):
        _load(tmp_path, kind="token-classification", metric="entity_f1")
