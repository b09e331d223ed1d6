from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from objectives.latency import cycles, known_profiles, load_profile
from objectives.latency.estimate import LatencyModel
from runners.emulator import Installation
from runners.fit_estimates import sample
from runners.measurements import load, save
from runners.operators import count_operators
from runners.record_estimates import draw_student, measure_students, student_calls
from space import JointSpace, SpaceSpec, TaskShape
from space.errors import InputError
from space.families import build_student, export_model

FRESH = 700_000  # seeds from here on are not recorded


@pytest.mark.parametrize("tokens", [2, 7, 64])
def test_inferred_operators_are_those_that_run(tmp_path: Path, tokens: int) -> None:
    """From the configuration alone, one or two segments, pruned or not; as ONNX Runtime's own profile says."""
    segments, pruned = set(), set()
    for number in range(12):
        config, shape, vocabulary_size = draw_student(("default", "wide")[number % 2], FRESH + number)
        if config.heads == 1:  # then ONNX Runtime moves transpositions past the split
            continue
        torch.manual_seed(0)
        path = tmp_path / f"{number}.onnx"
        student = build_student(config, shape, vocabulary_size)
        path.write_bytes(export_model(config, shape, vocabulary_size, student).SerializeToString())
        inferred = student_calls(config, shape, vocabulary_size, tokens)
        assert Counter(inferred) == Counter(count_operators(path, tokens)), config.summary()
        segments.add(shape.segments)
        pruned.add(min(layer.token_keep for layer in config.layers) < 1)
    assert segments == {1, 2}
    assert pruned == {True, False}


@pytest.mark.parametrize("tokens", [2, 7])
def test_inferred_operators_of_recurrent_students_are_those_that_run(tmp_path: Path, tokens: int) -> None:
    choices = {"depth": [1, 2], "hidden_width": [32, 64], "pooling": ["mean", "max"], "unpacking": ["run", "load"]}
    space, generator = JointSpace(SpaceSpec(families=["birnn"], birnn=choices)), np.random.default_rng(0)
    for number in range(8):
        config, _ = space.draw(generator)
        shape = TaskShape(outputs=2, segments=1 + number % 2, max_length=64, per_token=number % 4 > 1)
        path = tmp_path / "student.onnx"
        path.write_bytes(export_model(config, shape, 900, build_student(config, shape, 900)).SerializeToString())
        inferred = student_calls(config, shape, 900, tokens)
        assert Counter(inferred) == Counter(count_operators(path, tokens)), config.summary()


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
