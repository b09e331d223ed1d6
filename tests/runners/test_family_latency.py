"""How far the latency model may be off the emulator, for students of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from objectives.latency import LatencyModel, load_profile
from runners import latency
from runners.emulator import Installation
from runners.latency import DeviceSpec, LatencyMeter
from space import JointSpace, SpaceSpec, TaskShape
from space.families import FAMILIES, build_student, export_model

STUDENTS = 8
LENGTHS = [16, 64]
# Median and worst relative error that are allowed; measured: 0.009 and 0.042 (transformer), 0.009 and 0.025 (birnn),
# 0.015 and 0.078 (conv).
RECORDED = (0.03, 0.10)
OTHERWISE = (0.30, 0.75)  # a family whose operators nobody has recorded yet
VOCABULARY = 3000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_latency_model_orders_random_students_as_the_emulator_does(
    family: str, emulator: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    monkeypatch.setattr(latency, "find_installation", lambda: emulator)
    torch.set_num_threads(1)
    generator = np.random.default_rng(7)
    space, shape = JointSpace(SpaceSpec(families=[family])), TaskShape(outputs=2, segments=1, max_length=64)
    configs = [space.draw(generator)[0] for _ in range(STUDENTS)]

    def writer(config: Any) -> Any:
        def write(path: Path) -> None:
            student = build_student(config, shape, VOCABULARY)
            path.write_bytes(export_model(config, shape, VOCABULARY, student).SerializeToString())

        return write

    meter = LatencyMeter(DeviceSpec(profile="cortex-a53", latency="emulated"))
    measured = meter.measure_many([(str(number), writer(config)) for number, config in enumerate(configs)], LENGTHS)
    model = LatencyModel(load_profile("cortex-a53"))
    pairs = [
        (model.predict(config, shape, VOCABULARY, tokens).milliseconds, reading.milliseconds)
        for config, readings in zip(configs, measured, strict=True)
        for tokens, reading in zip(LENGTHS, readings, strict=True)
    ]
    errors = [abs(predicted / found - 1) for predicted, found in pairs]
    median, worst = RECORDED if family in model.estimates.error else OTHERWISE
    assert np.median(errors) <= median, errors
    assert max(errors) <= worst, errors
    assert spearmanr(*zip(*pairs, strict=True)).statistic >= 0.95
