"""What a user can get wrong, through the real command: one sentence, exit 2, and nothing in the storage."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from objectives.latency.profile import read_profile

Shoebox = Callable[..., subprocess.CompletedProcess[str]]
ROWS: dict[str, list[Any]] = {"sentence": ["fine", "dull", "so so", "great"], "label": [1, 0, 0, 1]}


def check_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.startswith("shoebox: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def write_data(folder: Path, **splits: dict[str, list[Any]] | str) -> None:
    folder.mkdir()
    for split in ("train", "validation"):
        content = splits.get(split, ROWS)
        if isinstance(content, str):
            (folder / f"{split}.parquet").write_text(content)
        else:
            pq.write_table(pa.table(content), folder / f"{split}.parquet")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": {"text": ["a", "b"], "label": [0, 1]}},
            r"train\.parquet has no column 'sentence'; it has text, label",
        ),
        ({"validation": {"sentence": ["a"]}}, r"validation\.parquet has no column 'label'; it has sentence"),
        ({"train": {**ROWS, "label": [0, 1, 2, 1]}}, r"Label 2 in row 3 of .*train\.parquet.* is outside 0 to 1"),
        ({"validation": {**ROWS, "label": [0, -1, 0, 1]}}, r"Label -1 in row 2 of .*validation\.parquet"),
        ({"validation": {"sentence": [], "label": []}}, r"validation\.parquet has no rows"),
        ({"train": "sentence,label\nfine,1\n"}, r"train\.parquet is not a Parquet file"),
        ({"train": {**ROWS, "label": [0.0, float("nan"), 1.0, 1.0]}}, r"Label nan in row 2 of .*train\.parquet"),
    ],
    ids=["text column", "label column", "label range", "hidden label", "empty split", "no parquet", "nan label"],
)
def test_data_that_does_not_fit(shoebox: Shoebox, tmp_path: Path, splits: dict[str, Any], message: str) -> None:
    write_data(tmp_path / "data", **splits)
    check_refused(shoebox("search", "sst2", "--data", str(tmp_path / "data"), "--latency", "estimated"), message)
    check_refused(shoebox("pareto", "sst2"), "There is no study 'sst2'")


def test_data_that_is_not_there(shoebox: Shoebox, tmp_path: Path) -> None:
    missing = str(tmp_path / "data")
    check_refused(shoebox("search", "sst2", "--data", missing, "--latency", "estimated"), f"no folder {missing}")
    (tmp_path / "data").mkdir()
    check_refused(shoebox("search", "sst2", "--data", missing, "--latency", "estimated"), "has no train file")
    check_refused(shoebox("pareto", "sst2"), "There is no study 'sst2'")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("trials: 6", "trails: 6", r"toy\.yaml: search\.trails is not a key of section 'search'"),
        ("trials: 6", "trials: six", r"toy\.yaml: search\.trials should be a whole number, found 'six'"),
        ("cortex-a53", "cortex-z9", r"Unknown device 'cortex-z9'. Known: .*cortex-a53"),
        ("tokens: 32", "tokens: 100", r"device\.tokens 100 is above task\.max_length 64"),
        ("600000", "1000", r"is 1,000, but the smallest student of this space takes \d+,\d{3} bytes"),
        ("600000", "600000, latency_ms: .inf", r"limits\.latency_ms should be a finite number"),
    ],
    ids=["unknown key", "wrong type", "device", "tokens", "limit", "infinite limit"],
)
@pytest.mark.usefixtures("toy")
def test_study_files_that_cannot_be_searched(
    shoebox: Shoebox, toy_file: Path, before: str, after: str, message: str
) -> None:
    toy_file.write_text(toy_file.read_text().replace(before, after))
    check_refused(shoebox("search", str(toy_file)), message)
    check_refused(shoebox("pareto", "toy"), "There is no study 'toy'")


def test_a_wrong_device_is_said_before_the_emulator_is_set_up(
    shoebox: Shoebox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(report: Any) -> None:
        raise AssertionError("too early")

    monkeypatch.setattr("runners.latency.install", install)
    write_data(tmp_path / "data", train={"text": ["a"], "label": [0]})
    check_refused(shoebox("search", "sst2", "--data", str(tmp_path / "data")), "has no column 'sentence'")
    check_refused(shoebox("search", "sst2", "--device", "cortex-z9"), "Unknown device 'cortex-z9'")
    for option in ("--device", "--data"):
        check_refused(shoebox("search", "sst2", option, "~nosuchuser/x.yaml"), "no home folder for the ~ of")


def test_exports_that_cannot_be_written(
    shoebox: Shoebox, make_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_engine(trials=1).run()
    target = tmp_path / "target"
    (target / "taken").mkdir(parents=True)
    check_refused(shoebox("export", "toy", "--best", "-o", str(target / "taken")), "taken exists already")

    def full(source: str, destination: str, *arguments: Any, **options: Any) -> None:
        Path(destination).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(destination))

    monkeypatch.setattr(shutil, "copyfile", full)
    check_refused(
        shoebox("export", "toy", "--best", "-o", str(target / "new")), "new cannot be written: the disk is full"
    )
    assert [path.name for path in target.rglob("*")] == ["taken"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("model,tokens\n", r"measured\.csv has no column 'milliseconds'"),
        ("model,tokens,milliseconds\ngone.onnx,32,1.5\n", r"line 2, column 'model': there is no file .*gone\.onnx"),
        ("model,tokens,milliseconds\n", r"holds 0 different measurements"),
    ],
    ids=["column", "model", "empty"],
)
def test_measurements_that_cannot_be_calibrated_with(shoebox: Shoebox, tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "measured.csv").write_text(rows)
    output = tmp_path / "mine.yaml"
    check_refused(
        shoebox("emulator", "calibrate", str(tmp_path / "measured.csv"), "--device", "cortex-a53", "-o", str(output)),
        message,
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("memory_cycles", "memory_cycle", r"wrong at memory\.memory_cycles: Field required"),
        (
            "issue_width: {value: 2",
            "issue_width: {value: two",
            r"wrong at pipeline\.issue_width\.value: Input should be a valid integer",
        ),
        ("board:", "bord:", r"wrong at board: Field required"),
        ("memory:", "memory: 3\nspeed:", r"wrong at memory: Input should be"),
        ("    value: {long_loads_alone: true,", "    value: {", r"pairing\.value\.long_loads_alone: Field required"),
    ],
    ids=["missing", "type", "name", "section", "nested"],
)
def test_device_profiles_that_are_wrong(
    shoebox: Shoebox, tmp_path: Path, before: str, after: str, message: str
) -> None:
    text = read_profile("cortex-a53")
    assert before in text
    (tmp_path / "mine.yaml").write_text(text.replace(before, after, 1))
    write_data(tmp_path / "data", train={"text": ["a"], "label": [0]})
    check_refused(shoebox("search", "sst2", "--device", str(tmp_path / "mine.yaml")), message)
    check_refused(shoebox("pareto", "sst2"), "There is no study 'sst2'")
