from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.models import EncoderShape, write_encoder

from runners.emulator import native, parts
from runners.emulator.native import find_native, install_native, measure_natively, typical
from space.errors import InputError

SMALL = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_disturbed_quarter_of_the_rounds_does_not_count() -> None:
    random = np.random.default_rng(0)
    times = 2 + 0.01 * random.standard_normal((12, 20))
    quiet, interval = typical(times, seed=0)
    assert interval[0] <= quiet <= interval[1] < 2.02
    times[[1, 5, 7]] *= 3
    times[:, 4] += 1  # and one slow run in every round
    disturbed, _ = typical(times, seed=0)
    assert disturbed == pytest.approx(quiet, rel=0.01)


def test_the_interval_covers_what_repeating_would_give() -> None:
    """Drawn anew 200 times, the true figure lies in the interval about 19 times in 20; it is small, so seldomer."""
    random = np.random.default_rng(1)
    rounds = 1 + 0.05 * random.random((200, 12, 1)) + 0.01 * random.random((200, 12, 5))
    found = [typical(times, seed=0) for times in rounds]
    truth = np.mean([value for value, _ in found])
    covered = np.mean([low <= truth <= high for _, (low, high) in found])
    assert 0.8 < covered <= 1


def test_the_interval_follows_the_seed_alone() -> None:
    times = np.random.default_rng(2).random((12, 20))
    assert typical(times, seed=3) == typical(times, seed=3)
    assert len({typical(times, seed=seed) for seed in range(20)}) > 1


def test_builds_once(own_cache) -> None:
    lines: list[str] = []
    assert find_native() is None
    runner = install_native(lines.append)
    assert install_native(lines.append) == runner == find_native()
    assert len(lines) == 1
    assert sorted(path.name for path in (own_cache / "native").iterdir()) == ["install.lock", runner.program.name]


def test_two_processes_build_it_once(own_cache) -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    code = "from runners.emulator.native import install_native; print(install_native(print).program)"
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed[0][-1] == printed[1][-1]
    assert sum("Compiling" in line for lines in printed for line in lines) == 1


def test_no_compiler_is_a_sentence_and_leaves_nothing(own_cache, monkeypatch) -> None:
    def refuse(*arguments, **options):
        raise InputError("Cannot download a C compiler (ziglang): no network.", parts.GO_ON)

    monkeypatch.setattr(parts.shutil, "which", lambda name: None)
    monkeypatch.setattr(parts, "_pip_download", refuse)
    with pytest.raises(InputError, match=r"C compiler.*--latency estimated"):
        install_native(lambda line: None)
    assert [path.name for path in (own_cache / "native").iterdir()] == ["install.lock"]


def test_an_onnxruntime_without_its_library_is_told(own_cache, monkeypatch) -> None:
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no libonnxruntime\.so.*--latency estimated"):
        install_native(lambda line: None)


def test_a_model_that_takes_too_long_is_named_and_the_others_are_timed(own_cache, tmp_path) -> None:
    small = write_encoder(tmp_path / "small.onnx", SMALL)
    slow = write_encoder(
        tmp_path / "slow.onnx", EncoderShape(layers=8, hidden=512, heads=8, feed_forward=2048, bits=32)
    )
    runner = install_native(lambda line: None)
    requests = [(small, 8), (slow, 128), (small, 8)]
    first, late, last = measure_natively(requests, runner, rounds=1, runs=4000, model_seconds=3)
    assert "did not finish" in str(late)
    assert "slow.onnx" in str(late)
    assert first.repeats == last.repeats == 4000
