from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from runners.task import Task, TaskSpec, load_task
from runners.task.sources import read_files
from space.errors import InputError, OutputError

TEXTS = ["a gripping , funny film", "NA", "null", 'she said "no" , twice', "ein schöner Tag", ""]
LABELS = [1, 0, 0, 1, 1, 0]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))


def _parquet(folder: Path, split: str = "train", **columns: Any) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def _both(folder: Path, **columns: Any) -> Path:
    for split in ("train", "validation"):
        _parquet(folder, split, **columns)
    return folder


def _load(folder: Path, **task: Any) -> Task:
    return load_task(TaskSpec(data={"path": str(folder)}, **task))


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    folder = _both(tmp_path / "data", sentence=TEXTS, label=LABELS)
    _parquet(folder, "validation", sentence=TEXTS[:2], label=LABELS[:2], extra=["x", "y"])
    task = _load(folder)
    assert task.train.texts == TEXTS
    assert task.train.pairs is None
    assert task.train.labels.dtype == np.int64
    assert task.train.labels.tolist() == LABELS
    assert (len(task.train), len(task.validation)) == (6, 2)
    assert (task.outputs, task.segments, task.regression, task.label_names) == (2, 1, False, ("0", "1"))
    assert (task.metric, task.max_length) == ("accuracy", 64)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl"])
def test_every_format_gives_the_same_task(tmp_path: Path, ending: str) -> None:
    texts = TEXTS[:5]  # an empty CSV cell is a missing text
    reference = _load(_both(tmp_path / "parquet", sentence=texts, label=LABELS[:5]))
    folder = tmp_path / ending
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"sentence": text, "label": label} for text, label in zip(texts, LABELS, strict=False)]
        if ending == "json":
            content = json.dumps(rows)
        elif ending == "jsonl":
            content = "\n".join(json.dumps(row) for row in rows)
        else:
            separator = "," if ending == "csv" else "\t"
            quoted = [f'"{row["sentence"].replace(chr(34), chr(34) * 2)}"{separator}{row["label"]}' for row in rows]
            content = "\n".join([f"sentence{separator}label", *quoted])
        (folder / f"{split}.{ending}").write_text(content + "\n", encoding="utf-8")
    task = _load(folder)
    assert task.train.texts == texts
    assert task.fingerprint == reference.fingerprint


def test_explicit_files_and_sharded_folders(tmp_path: Path) -> None:
    whole = _both(tmp_path / "whole", sentence=TEXTS, label=LABELS)
    shards = tmp_path / "shards"
    _parquet(shards, "train-00000-of-00002", sentence=TEXTS[:3], label=LABELS[:3])
    _parquet(shards, "train-00001-of-00002", sentence=TEXTS[3:], label=LABELS[3:])
    _parquet(shards, "validation", sentence=TEXTS, label=LABELS)
    files = {"train": str(whole / "train.parquet"), "validation": str(whole / "validation.parquet")}
    assert load_task(TaskSpec(data=files)).fingerprint == _load(shards).fingerprint == _load(whole).fingerprint


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = _both(tmp_path / "data", sentence=TEXTS, label=LABELS)
    before = _load(folder)
    _parquet(folder, "train", sentence=[*TEXTS[:-1], "new"], label=LABELS)
    after = _load(folder)
    assert after.train.texts[-1] == "new"
    assert after.fingerprint != before.fingerprint


def test_sentence_pairs_and_regression(tmp_path: Path) -> None:
    folder = _both(tmp_path / "data", a=TEXTS, b=TEXTS[::-1], score=[0.0, 1.5, 2, 3, 4, 5])
    task = _load(folder, text=("a", "b"), label="score", kind="regression", metric="pearson")
    assert task.train.pairs == TEXTS[::-1]
    assert task.train.labels.dtype == np.float32
    assert task.train.labels.tolist() == [0.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    assert (task.outputs, task.segments, task.regression, task.label_names) == (1, 2, True, None)


def test_string_labels_are_numbered_in_sorted_order_or_as_the_study_says(tmp_path: Path) -> None:
    names = ["refund", "card", "card", "app", "refund", "app"]
    folder = _both(tmp_path / "data", sentence=TEXTS, label=names)
    task = _load(folder)
    assert task.label_names == ("app", "card", "refund")
    assert task.train.labels.tolist() == [2, 1, 1, 0, 2, 0]
    assert _load(folder, labels=3).fingerprint == task.fingerprint
    other = _load(folder, labels=("refund", "card", "app"))
    assert other.train.labels.tolist() == [0, 1, 1, 2, 0, 2]


def test_names_of_classes_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    folder = _both(tmp_path / "data", sentence=TEXTS, label=LABELS)
    named = _load(folder, labels=("negative", "positive"))
    assert named.label_names == ("negative", "positive")
    assert named.fingerprint == _load(folder).fingerprint != _load(folder, labels=3).fingerprint


@pytest.mark.parametrize("labels", [[True, False, False, True, True, False], [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
def test_truth_values_and_whole_floats_are_class_indices(tmp_path: Path, labels: list[Any]) -> None:
    assert _load(_both(tmp_path / "data", sentence=TEXTS, label=labels)).train.labels.tolist() == LABELS


def test_the_grammar_is_a_data_source() -> None:
    task = load_task(TaskSpec(data={"grammar": "sentiment", "train": 40, "validation": 10, "seed": 3}))
    assert (len(task.train), len(task.validation)) == (40, 10)
    assert task.label_names == ("negative", "positive")
    same = load_task(TaskSpec(data={"grammar": "sentiment", "train": 40, "validation": 10, "seed": 3}))
    assert task.fingerprint == same.fingerprint


def test_specs_round_trip_through_json() -> None:
    spec = TaskSpec(data={"hub": "nyu-mll/glue", "config": "mrpc"}, text=["sentence1", "sentence2"], metric="f1")
    assert TaskSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TaskSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "Extra inputs are not permitted"),
        ({"data": {"hub": "x", "split": "train"}}, "Extra inputs are not permitted"),
        ({"data": {}}, "say where the data is"),
        ({"data": {"grammar": "poetry"}}, "sentiment"),
        ({"data": {"grammar": "sentiment", "train": 0}}, "greater than or equal to 2"),
        ({"kind": "regression"}, "metric accuracy does not fit a regression: use pearson or spearman"),
        ({"metric": "pearson"}, "metric pearson does not fit a classification"),
        ({"labels": ["a", "a"]}, "each once"),
        ({"labels": 1}, "greater than or equal to 2"),
        ({"max_length": 1000}, "less than or equal to 512"),
        ({"text": ["a", "b", "c"]}, "at most 2 items"),
        ({"kind": "regression", "metric": "pearson", "labels": 3}, "leave labels out"),
    ],
)
def test_bad_specs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate({"data": {"path": "x"}, **change})


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"text": TEXTS, "label": LABELS}, {}, "train.parquet has no column 'sentence'; it has text, label. Set task"),
        ({"sentence": TEXTS, "intent": LABELS}, {}, "has no column 'label'; it has sentence, intent"),
        ({"sentence": LABELS, "label": LABELS}, {}, "Column 'sentence' of .*train.parquet holds int64, not text"),
        ({"sentence": [*TEXTS[:5], None], "label": LABELS}, {}, "There is no text in row 6 of .*, column 'sentence'"),
        ({"sentence": TEXTS, "label": [*LABELS[:5], None]}, {}, "There is no label in row 6 of .*, column 'label'"),
        ({"sentence": TEXTS, "label": [*LABELS[:2], np.nan, 1, 1, 1]}, {}, "Label nan in row 3 of .*, column 'label'"),
        (
            {"sentence": TEXTS, "label": [0.5, 1, 0, 1, 0, 1]},
            {},
            "Label 0.5 in row 1 .* is not a class index. For real",
        ),
        ({"sentence": TEXTS, "label": [1, 2, 3, 1, 2, 3]}, {}, "are 1, 2, 3: they must count from 0 without a gap"),
        ({"sentence": TEXTS, "label": [0] * 6}, {}, "has one label only: '0' in every row"),
        ({"sentence": TEXTS, "label": ["a"] * 6}, {}, "has one label only: 'a' in every row"),
        ({"sentence": TEXTS, "label": [*LABELS[:4], 7, 0]}, {"labels": 2}, "Label 7 in row 5 of .* is outside 0 to 1"),
        ({"sentence": TEXTS, "label": [-1] * 6}, {"labels": 2}, "Label -1 in row 1 .* hidden labels"),
        ({"sentence": TEXTS, "label": list("aabbcc")}, {"labels": ("a", "b")}, "Label 'c' in row 5 .* not one of a, b"),
        ({"sentence": TEXTS, "label": list("aabbcc")}, {"labels": 2}, "has 3 names. List the names under labels"),
        ({"sentence": TEXTS, "label": [0, 1, 2, 0, 1, 2]}, {"metric": "f1"}, "Metric f1 is for two labels"),
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, {}, "train.parquet has no rows"),
        ({"sentence": TEXTS, "label": [[1]] * 6}, {}, "holds list<.*>, not class indices or names"),
    ],
)
def test_bad_classification_data_gives_one_clear_sentence(
    tmp_path: Path, columns: dict[str, Any], task: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _load(_both(tmp_path / "data", **columns), **task)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, np.nan, 2, 3, 4, 5], "Label nan in row 2 of .*train.parquet, column 'label' is not a finite number"),
        ([1.0, 2, np.inf, 3, 4, 5], "Label inf in row 3"),
        ([1.0, None, 2, 3, 4, 5], "There is no label in row 2"),
        (["1"] * 6, "holds string, but a regression needs numbers"),
        ([2.5] * 6, "has the same label in every row"),
    ],
)
def test_bad_regression_labels_give_one_clear_sentence(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _load(_both(tmp_path / "data", sentence=TEXTS, label=labels), kind="regression", metric="spearman")


def test_a_label_that_only_validation_has_names_that_file(tmp_path: Path) -> None:
    folder = _both(tmp_path / "data", sentence=TEXTS, label=LABELS)
    _parquet(folder, "validation", sentence=TEXTS, label=[0, 1, 2, 0, 1, 2])
    with pytest.raises(
        InputError, match=r"Label 2 in row 3 of .*validation\.parquet, column 'label' is outside 0 to 1"
    ):
        _load(folder)


def test_a_missing_label_in_a_csv_file(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("sentence,label\ngood,1\nbad,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no label in row 2 of .*train\.csv"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.parquet", b"sentence,label\ngood,1\n", "is not a Parquet file: it does not start as one"),
        ("train.parquet", b"PAR1 and then nothing", "is not a Parquet file: it is cut off"),
        ("train.parquet", b"PAR1 only the ends are rightPAR1", "is not a Parquet file: its description is damaged"),
        ("train.parquet", b"", "is an empty file"),
        ("train.csv", b"", "is an empty file"),
        ("train.csv", b"sentence,label\n", r"train\.csv has no rows\.$"),
        ("train.csv", b"sentence,label,label\ngood,1,0\n", r"train\.csv, line 1 names 'label' twice"),
        ("train.csv", b"\xff\xfe\x00\xd8 \x80", "could not be read as CSV"),
        ("train.json", b"{not json", "could not be read as JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    _parquet(tmp_path, "validation", sentence=TEXTS, label=LABELS)
    with pytest.raises(InputError, match=message) as caught:
        _load(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_of_another_content_is_read_whatever_its_time_says(tmp_path: Path, ending: str) -> None:
    found = []
    for texts in (TEXTS[:2], TEXTS[1:3], TEXTS[:2]):
        for split in ("train", "validation"):
            file = tmp_path / f"{split}.{ending}"
            if ending == "parquet":
                _parquet(tmp_path, split, sentence=texts, label=LABELS[:2])
            else:
                rows = pd.DataFrame({"sentence": texts, "label": LABELS[:2]})
                rows.to_csv(file, index=False) if ending == "csv" else rows.to_json(file, orient="records", lines=True)
            os.utime(file, (946684800, 946684800))
        found.append(_load(tmp_path))
    assert [task.train.texts for task in found] == [TEXTS[:2], TEXTS[1:3], TEXTS[:2]]
    assert found[0].fingerprint == found[2].fingerprint != found[1].fingerprint


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_cached_of_a_file_is_read_again_where_it_is_damaged(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    pd.DataFrame({"sentence": TEXTS[:2], "label": LABELS[:2]}).to_csv(tmp_path / "train.csv", index=False)
    _parquet(tmp_path, sentence=TEXTS[:2], label=LABELS[:2])
    whole = read_files([tmp_path / f"train.{ending}"]).columns.to_pydict()
    for cut in (0, 100):
        for cached in (tmp_path / "cache").rglob("*.arrow"):
            cached.write_bytes(cached.read_bytes()[:cut])
        assert read_files([tmp_path / f"train.{ending}"]).columns.to_pydict() == whole
        assert f"What is cached of {tmp_path / 'train'}.{ending} is damaged" in caplog.text
        caplog.clear()


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").write_bytes(b"")  # where a folder should be
    _parquet(tmp_path, sentence=TEXTS, label=LABELS)
    with pytest.raises(OutputError, match=r"Could not read .*train\.parquet by way of the cache folder .*cache/data: "):
        read_files([tmp_path / "train.parquet"])


@pytest.mark.parametrize("rows", [1, 3])
def test_one_class_alone_is_refused(tmp_path: Path, rows: int) -> None:
    folder = _both(tmp_path / "data", sentence=TEXTS[:rows], label=[1] * rows)
    with pytest.raises(InputError, match=r"Column 'label' of .*train\.parquet has the same label in every row"):
        _load(folder, labels=2)


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Data folder .*nowhere does not exist"):
        _load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"is not a folder"):
        _load(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"has no train file .* it holds notes\.txt"):
        _load(tmp_path)
    _parquet(tmp_path, "train", sentence=TEXTS, label=LABELS)
    with pytest.raises(InputError, match=r"has no validation file"):
        _load(tmp_path)
    (tmp_path / "train.csv").write_text("sentence,label\ngood,1\n")
    with pytest.raises(InputError, match=r"more than one train file: train\.csv, train\.parquet"):
        _load(tmp_path)
    with pytest.raises(InputError, match=r"train\.xlsx has an unknown ending"):
        load_task(TaskSpec(data={"train": "train.xlsx", "validation": "validation.xlsx"}))
    with pytest.raises(InputError, match=r"Data file .*absent\.csv does not exist"):
        load_task(TaskSpec(data={"train": str(tmp_path / "absent.csv"), "validation": "x.csv"}))


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens on the discard port
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"hub is out of reach .* train and validation files: --data DIR") as caught:
        load_task(TaskSpec(data={"hub": "nobody/never-downloaded", "config": "sst2"}))
    assert time.monotonic() - begin < 20
    assert "nobody/never-downloaded (sst2)" in str(caught.value)


def test_without_the_hub_its_local_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    source = _both(tmp_path / "source", sentence=TEXTS, label=LABELS)
    files = {split: str(source / f"{split}.parquet") for split in ("train", "validation")}
    builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(tmp_path / "made"))
    builder.download_and_prepare()
    cached = tmp_path / "hub" / "nobody___corpus" / "sst2" / "0.0.0" / "0123abcd"  # as a download leaves it
    shutil.copytree(builder.cache_dir, cached)
    for path in cached.glob("parquet-*"):
        path.rename(cached / path.name.replace("parquet-", "corpus-"))
    info = json.loads((cached / "dataset_info.json").read_text())
    (cached / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "corpus", "config_name": "sst2"}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    task = load_task(TaskSpec(data={"hub": "nobody/corpus", "config": "sst2"}))
    assert task.train.texts == TEXTS
    assert datasets.config.HF_HUB_OFFLINE is False
    with pytest.raises(InputError, match="hub is out of reach"):
        load_task(TaskSpec(data={"hub": "nobody/corpus", "config": "sst2", "validation": "test"}))
