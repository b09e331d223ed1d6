from __future__ import annotations

from pathlib import Path

import pytest

from objectives.latency import cycles, known_profiles, load_profile
from objectives.latency.estimate import LatencyModel
from runners.emulator import Installation
from runners.fit_estimates import sample
from runners.measurements import load, save
from runners.operators import count_operators
from runners.record_estimates import draw_student, measure_students
from space.errors import InputError

FRESH = 700_000  # seeds from here on are not recorded


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="is not an ONNX file"):
        count_operators(path, 8)


def test_raw_counts_survive_the_store(tmp_path: Path, emulator: Installation) -> None:
    measured = measure_students([("default", FRESH)], 8, ["cortex-a53"], emulator)
    save(measured, tmp_path, "batch")
    (stored,) = load(tmp_path)
    profile = load_profile("cortex-a53")
    assert cycles(stored.counts(profile), profile) == cycles(measured[0].counts(profile), profile)
    assert sample(stored, profile).work == sample(measured[0], profile).work
    with pytest.raises(InputError, match="cortex-a76"):
        stored.counts(load_profile("cortex-a76"))


@pytest.mark.parametrize("device", known_profiles())
def test_fresh_students_are_predicted(device: str, emulator: Installation) -> None:
    """Ten students that no cost was fitted to, within 10 % of the emulator in time and 2 % in instructions."""
    profile = load_profile(device)
    model = LatencyModel(profile)
    for tokens in (16, 64):
        students = [("default", FRESH + 100 * tokens + number) for number in range(5)]
        for (space, seed), measurement in zip(
            students, measure_students(students, tokens, [device], emulator), strict=True
        ):
            config, shape, vocabulary_size = draw_student(space, seed)
            found = model.predict(config, shape, vocabulary_size, tokens)
            counts = measurement.counts(profile)
            spent = cycles(counts, profile)
            assert found.instructions == pytest.approx(counts.instructions, rel=0.02)
            assert found.compute_cycles + found.stall_cycles == pytest.approx(spent.compute + spent.stall, rel=0.1)
