from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objectives.latency import cycles, known_profiles, load_profile
from objectives.latency.estimate import LatencyModel
from objectives.latency.traffic import Machine, traffic_of
from runners import record_estimates
from runners.emulator import Installation
from runners.fit_estimates import fit_linear, most_cycles, sample
from runners.measurements import load, save
from runners.operators import count_operators
from runners.record_estimates import measure_students
from runners.recorded_students import SPACES, draw_student
from space.errors import InputError
from space.families import get_family
from space.operators import OperatorCall

FRESH = 700_000  # seeds from here on are not recorded


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="is not an ONNX file"):
        count_operators(path, 8)


def test_raw_counts_survive_the_store(tmp_path: Path, emulator: Installation) -> None:
    measured = measure_students([("transformer", FRESH)], 8, ["cortex-a53"], emulator)
    save(measured, tmp_path, "batch")
    for left in (".other.json", ".other.7.part"):  # by recordings that were killed
        (tmp_path / left).write_text("[")
    (stored,) = load(tmp_path)
    profile = load_profile("cortex-a53")
    assert cycles(stored.counts(profile), profile) == cycles(measured[0].counts(profile), profile)
    assert sample(stored, profile).work == sample(measured[0], profile).work
    with pytest.raises(InputError, match="cortex-a76"):
        stored.counts(load_profile("cortex-a76"))


def test_what_was_not_recorded_cannot_be_fitted(tmp_path: Path, emulator: Installation, monkeypatch, capsys) -> None:
    monkeypatch.setattr(record_estimates, "find_installation", lambda: emulator)
    monkeypatch.setattr(record_estimates, "cache", lambda: tmp_path)
    monkeypatch.setattr("sys.argv", ["record_estimates", "--fit-only"])
    with pytest.raises(SystemExit, match="2"):
        record_estimates.main()
    assert "leave out --fit-only" in capsys.readouterr().err


@pytest.mark.parametrize("device", known_profiles())
def test_fresh_students_are_predicted(device: str, emulator: Installation) -> None:
    """Ten students that no cost was fitted to: within 2 % of the emulator in instructions and 9 % in time.

    On the A72 the worst of 100 short ones was off by 15 %: they just about fit its second level, and it has no third.
    """
    profile = load_profile(device)
    model = LatencyModel(profile)
    allowed = 0.15 if device == "cortex-a72" else 0.09
    for tokens in (16, 64):
        students = [("transformer", FRESH + 100 * tokens + number) for number in range(5)]
        for (space, seed), measurement in zip(
            students, measure_students(students, tokens, [device], emulator), strict=True
        ):
            config, shape, vocabulary_size = draw_student(space, seed)
            found = model.predict(config, shape, vocabulary_size, tokens)
            counts = measurement.counts(profile)
            spent = cycles(counts, profile)
            assert found.instructions == pytest.approx(counts.instructions, rel=0.02)
            assert found.compute_cycles + found.stall_cycles == pytest.approx(spent.compute + spent.stall, rel=allowed)


def test_costs_are_fitted_within_their_bounds() -> None:
    amounts = [{"near": 1.0, "far@l3 0.7": 2.0}, {"near": 3.0, "far@l3 0.7": 1.0}, {"near": 2.0}]
    target = [5.0 * entry["near"] + 900.0 * entry.get("far@l3 0.7", 0.0) for entry in amounts]
    free = fit_linear(amounts, target, [1.0] * 3, 1e-6)
    assert free == pytest.approx({"near": 5.0, "far@l3 0.7": 900.0}, rel=1e-3)
    memory = load_profile("cortex-a76").memory
    most = most_cycles(memory)
    bounded = fit_linear(amounts, target, [1.0] * 3, 1e-6, most)
    assert bounded["far@l3 0.7"] == most("far@l3 0.7") == memory.memory_cycles.value
    assert memory.l3_cycles is not None
    assert most("weights.other@0.7") == memory.l3_cycles.value
    assert most("lines.other") == most("run@0.7") == np.inf
    without = load_profile("cortex-a53").memory
    assert most_cycles(without)("weights.other@0.7") == without.memory_cycles.value
    product = OperatorCall("MatMul", (), ((8, 64), (64, 32)), ((8, 32),))
    touched = traffic_of(product, Machine.of(load_profile("cortex-a76")))
    assert touched.code == 96 * 64
    assert most(f"code {touched.kernel}@0.7") == 96 * memory.l3_cycles.value


def test_every_recorded_space_can_be_drawn_from() -> None:
    for space in SPACES:
        config, shape, size = draw_student(space, 1)
        assert space.startswith(config.family)
        assert get_family(config.family).sections(config, shape, size, 16)
