"""The whole job by the real command: a small teacher, real training, real files, real answers."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.pipes import pipe

from runners.emulator import Installation
from runners.grammar import sentiment
from search.study import load_study

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def installed(emulator: Installation, tmp_path: Path) -> Installation:
    """The installed emulator in the test's own cache."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "emulator").symlink_to(emulator.folder.parent)
    return emulator


BUNDLE = ["README.md", "config.json", "metrics.json", "model.onnx", "student.safetensors", "vocab.txt"]


def write_study(folder: Path, name: str, model: Path, task: dict[str, object], device: dict[str, object]) -> Path:
    (folder / "teacher").symlink_to(model)
    study = {
        "name": name,
        "task": {"max_length": 32, **task},
        "teacher": {"model": "teacher", "epochs": 1, "learning_rate": 1e-3},
        "space": {
            "vocabulary_keep": [0.5, 1.0],
            "embedding_width": [32],
            "transformer": {"depth": [1, 2], "width": [32, 64], "heads": 2, "ffn_width": [32, 64]},
            "recipe": {"learning_rate": 2e-3},
        },
        "device": device,
        "search": {"trials": 3, "workers": 2},
        "fidelity": {"epochs": 1},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def search(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search.cli", "search", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=dict(os.environ))


def check_search(done: subprocess.CompletedProcess[str], name: str, metric: str, conditions: str) -> None:
    assert done.returncode == 0, done.stderr
    study = load_study(name)
    assert [trial.state for trial in study.trials()] == ["finished"] * 3
    best = study.best()
    assert f"{metric} (validation)" in done.stdout
    assert conditions in done.stdout
    assert done.stdout.endswith(
        f"Best bundle: trial {best.trial}, {best.bundle}\nCopy it with: shoebox export {name} --best -o DIR\n"
    )
    assert "Fine-tuning teacher" in done.stderr
    assert "3 of 3 trials, 0 running" in done.stderr
    for record in study.records():
        bundle = Path(record.bundle)
        assert sorted(path.name for path in bundle.iterdir()) == BUNDLE
        on_disk = sum((bundle / file).stat().st_size for file in ("model.onnx", "vocab.txt"))
        assert on_disk == record.deployed_bytes <= 2_000_000


def test_sentences_from_study_to_answers(
    shoebox: Shoebox, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Installation
) -> None:
    data = {"grammar": "sentiment", "train": 300, "validation": 60}
    task = {"data": data, "labels": ["negative", "positive"], "metric": "accuracy"}
    done = search(str(write_study(tmp_path, "sentences", model, task, {"profile": "cortex-a76"})))
    check_search(done, "sentences", "accuracy", "latency ms (cortex-a76, emulated)")
    assert "ARM kernels" in done.stdout
    front = json.loads(shoebox("pareto", "sentences", "--format", "json").stdout)
    for row, record in zip(front["trials"], load_study("sentences").pareto(), strict=True):
        assert row["tokens"] < row["long_tokens"] <= 32
        assert row["latency_ms"] < row["long_latency_ms"]
        arm = record.on_arm
        assert arm is not None
        assert (arm.device, arm.examples, arm.quality_here) == ("cortex-a76", 60, record.quality)
        assert row["quality_on_arm"] == arm.quality
        assert arm.quality == pytest.approx(arm.quality_here, abs=0.1)
        assert arm.largest_difference < 1
        told = json.loads((Path(record.bundle) / "metrics.json").read_text())["on_arm"]
        assert told == arm.model_dump(mode="json")
    table = shoebox("pareto", "sentences", "--format", "csv").stdout
    assert len(list(csv.DictReader(io.StringIO(table)))) == len(front["trials"])
    assert shoebox("pareto", "sentences").returncode == 0

    out = tmp_path / "out"
    exported = shoebox("export", "sentences", "--best", "-o", str(out))
    best = load_study("sentences").best()
    assert (exported.returncode, exported.stdout) == (0, f"Trial {best.trial}: {out}\n")
    assert sorted(path.name for path in out.iterdir()) == BUNDLE
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["trial"], metrics["quality"]) == (best.trial, best.quality)

    texts = [text for text, _ in sentiment(300, 3, 0)[1]]
    one = shoebox("predict", str(out), texts[0])
    assert one.returncode == 0
    label, score = one.stdout.rstrip("\n").split("\t")
    assert label in ("negative", "positive")
    assert 0.5 <= float(score) <= 1
    pipe(monkeypatch, ("\n".join(texts) + "\n").encode())
    several = shoebox("predict", str(out))
    assert several.returncode == 0
    assert len(several.stdout.splitlines()) == len(texts)
    assert several.stdout.splitlines()[0].split("\t")[0] == label


def test_regression_on_pairs_from_local_files(
    shoebox: Shoebox, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    train, validation = sentiment(200, 40, seed=0)
    for split, rows in (("train", train), ("validation", validation)):
        with (tmp_path / "data" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["first", "second", "score"])
            for (text, label), (other, _) in zip(rows, reversed(rows), strict=True):
                writer.writerow([text, other, label + len(other.split()) / 10])
    columns = {"text": ["first", "second"], "label": "score"}
    task = {"data": {"path": "data"}, **columns, "kind": "regression", "metric": "pearson"}
    device = {"latency": "estimated", "tokens": 8}
    done = search(str(write_study(tmp_path, "pairs", model, task, device)))
    check_search(done, "pairs", "pearson", "latency ms (cortex-a53, 8 tokens, estimated)")

    out, smaller = tmp_path / "out", tmp_path / "smaller"
    assert shoebox("export", "pairs", "--best", "-o", str(out)).returncode == 0
    none = shoebox("quantize", str(out), "-o", str(smaller))
    assert (none.returncode, "No bits are given." in none.stderr) == (2, True)
    odd = shoebox("quantize", str(out), "-o", str(smaller), "--bits", "3")
    assert (odd.returncode, "Give 2, 4 or 8." in odd.stderr) == (2, True)
    quantized = shoebox("quantize", str(out), "-o", str(smaller), "--bits", "2", "--embedding-bits", "4")
    assert quantized.returncode == 0, quantized.stderr
    assert quantized.stdout.startswith(f"{smaller}: pearson ")
    student = json.loads((smaller / "config.json").read_text())["student"]
    assert student["embedding_bits"] == 4
    assert {layer["attention_bits"] + layer["ffn_bits"] for layer in student["layers"]} == {4}
    one = shoebox("predict", str(out), train[0][0], "--pair", train[1][0])
    assert one.returncode == 0
    assert float(one.stdout) == float(one.stdout)
    pipe(monkeypatch, f"{train[0][0]}\t{train[1][0]}\n{train[2][0]}\t{train[3][0]}\n".encode())
    several = shoebox("predict", str(out))
    assert several.returncode == 0, several.stderr
    assert len(several.stdout.splitlines()) == 2
    assert float(several.stdout.splitlines()[0]) == pytest.approx(float(one.stdout), abs=1e-3)
    alone = shoebox("predict", str(out), train[0][0])
    assert alone.returncode == 2
    assert "Give the second text with --pair." in alone.stderr
