"""Trials that are judged on their way, stopped, and gone on with: real training, real files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectives.limits import Limits
from runners.plan import FidelitySpec, TrialPlan
from runners.record import TrialRecord
from runners.rungs import RungResult, Rungs
from runners.trial import prepare, run_in_rungs, run_trial
from space import JointSpace, SpaceSpec

SAME = ("model.onnx", "vocab.txt", "student.safetensors", "config.json")


def test_a_disk_that_takes_no_more_is_told_from_other_errors(tmp_path: Path) -> None:
    """In a process whose files may not grow, as on a full disk; nothing is left of what was written."""
    program = """
import errno, resource, signal, sys
import subprocess
import sys
from pathlib import Path
import torch
from runners.tensors import save_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors({"a": torch.zeros(1000)}, Path(sys.argv[1]))
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "student.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "EFBIG\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_steps_of_rungs() -> None:
    rungs = Rungs((0.1, 0.3, 0.95), 10, Path("x"))
    assert rungs.ahead(100) == [(0, 10), (1, 30), (2, 95)]
    assert rungs.ahead(3) == [(0, 1)]  # rung 1 is the same step, rung 2 the end
    assert rungs.ahead(1) == []
    passed = RungResult(rung=0, share=0.1, quality=0.5, costs={}, seconds={}, checkpoint="")
    assert Rungs(rungs.shares, 10, Path("x"), (passed,)).ahead(100) == [(1, 30), (2, 95)]


@pytest.mark.parametrize("quantization", ["aware", "post_training"])
def test_a_trial_that_stops_and_goes_on_gives_the_same_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, quantization: str
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    plan = TrialPlan(
        study="small",
        task={"data": {"grammar": "sentiment", "train": 320, "validation": 60}, "text": "sentence", "max_length": 32},
        teacher={"model": str(model), "learning_rate": 1e-3},
        device={"tokens": 8, "latency": "estimated"},
        limits=Limits(),
        fidelity=FidelitySpec(epochs=1, batch_size=16),
    )
    prepared = prepare(plan)
    space = SpaceSpec(
        vocabulary_keep=0.5,
        embedding_width=32,
        embedding_bits=4,
        accuracy_level=0,
        transformer={"depth": 2, "width": 32, "heads": 2, "ffn_width": 32, "token_keep": [0.5]},
        recipe={
            "learning_rate": 2e-3,
            "teacher_learning_rate": 1e-4,
            "quantization": quantization,
            "clipping": "searched",
        },
    )
    config, recipe = JointSpace(space).draw(np.random.default_rng(0))

    def rungs(*passed: RungResult) -> Rungs:
        return Rungs((0.2, 0.5), 40, tmp_path / "checkpoints", passed)

    def begin(name: str, *passed: RungResult) -> Any:
        return run_in_rungs(plan, prepared, 0, config, recipe, 7, tmp_path / name, rungs(*passed))

    whole = run_trial(plan, prepared, 0, config, recipe, 7, tmp_path / "whole")
    training = begin("parts")
    first = next(training)
    assert (first.rung, first.share) == (0, 0.2)
    assert Path(first.checkpoint).is_file()
    assert first.costs == {"deployed_bytes": whole.deployed_bytes, "latency_ms": whole.latency.milliseconds}
    training.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "parts" in path.name) == []

    second, record = begin("parts", first)
    assert (second.rung, second.share) == (1, 0.5)
    assert second.seconds["train"] > first.seconds["train"]
    assert isinstance(record, TrialRecord)
    assert record.seconds["train"] > second.seconds["train"]
    assert record.quality == whole.quality
    for file in SAME:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    # Not stopped, only judged.
    *_, record = begin("judged")
    for file in SAME:
        assert (tmp_path / "judged" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file

    # A file that is damaged, or of another training, costs the time of that training and no trial.
    content = Path(first.checkpoint).read_bytes()
    for number, damaged in enumerate((b"", b"damaged", content[:1000], content[:-1000])):
        Path(first.checkpoint).write_bytes(damaged)
        caplog.clear()
        again = begin(f"damaged{number}", first)
        assert next(again).rung == 0
        assert "could not be read" in caplog.text
        assert "starts anew" in caplog.text
        if number:
            again.close()
            continue
        *_, record = again
        for file in SAME:
            assert (tmp_path / "damaged0" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    other = run_in_rungs(plan, prepared, 0, config, recipe, 8, tmp_path / "other", rungs(second))
    caplog.clear()
    assert next(other).rung == 0
    assert "is of another training" in caplog.text
    other.close()
