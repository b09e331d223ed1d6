from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.models import EncoderShape, write_encoder
from pydantic import ValidationError

from objectives.latency import LatencyReading, estimate, recorded, traffic, work
from runners import latency
from runners.latency import DeviceSpec, LatencyMeter
from runners.operators import count_operators
from space import operators
from space.errors import InputError

INSTALLATION = SimpleNamespace(versions={"qemu": "7.2", "runner": "0a"})
SMALL = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path):
    return write_encoder(tmp_path / "encoder.onnx", SMALL)


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """Replaces the emulator; collects the number of requests of each of its runs."""
    batches: list[int] = []

    def measure(requests, profile, installation) -> list[LatencyReading]:
        assert all(path.read_bytes() for path, _ in requests)
        batches.append(len(requests))
        fields = {"backend": "emulated", "device": profile.name, "calibrated": False, "instructions": 5}
        return [LatencyReading(milliseconds=1.5, tokens=tokens, **fields) for _, tokens in requests]

    monkeypatch.setattr(latency, "find_installation", lambda: INSTALLATION)
    monkeypatch.setattr(latency, "measure_each", measure)
    return batches


def _write(path) -> None:
    path.write_bytes(b"model")


def test_measures_an_architecture_once(own_cache, measured) -> None:
    first = LatencyMeter(DeviceSpec()).measure("key", _write, [32])

    def never(path) -> None:
        raise AssertionError("the reading was not remembered")

    assert LatencyMeter(DeviceSpec()).measure("key", never, [32]) == first
    assert measured == [1]


def test_measures_what_is_new_in_one_batch_and_keeps_the_order(own_cache, measured) -> None:
    meter = LatencyMeter(DeviceSpec())
    meter.measure("b", _write, [32])
    readings = meter.measure_many([("a", _write), ("b", _write), ("c", _write), ("a", _write)], [32])
    assert len(readings) == 4
    assert measured == [1, 2]


def test_two_lengths_are_two_readings_of_one_run(own_cache, measured) -> None:
    meter = LatencyMeter(DeviceSpec())
    short, long, again = meter.measure("key", _write, [16, 48, 16])
    assert (short.tokens, long.tokens, again) == (16, 48, short)
    assert meter.measure("key", _write, [48]) == (long,)
    assert measured == [2]


def test_what_was_measured_beside_a_failure_is_remembered(own_cache, emulator, model, monkeypatch) -> None:
    monkeypatch.setattr(latency, "find_installation", lambda: emulator)
    meter = LatencyMeter(DeviceSpec())
    architectures = [("bad", _write), ("good", lambda path: shutil.copy(model, path))]
    with pytest.raises(InputError, match=r"model-0\.onnx cannot be run on ARM"):
        meter.measure_many(architectures, [8])
    (reading,) = meter.measure("good", lambda path: pytest.fail("the reading was not remembered"), [8])
    assert reading.tokens == 8
    assert len(list((own_cache / "latency").iterdir())) == 1


@pytest.mark.parametrize("tokens", [[], [0], [16, -1]])
def test_lengths_must_make_sense(tokens, own_cache) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LatencyMeter(DeviceSpec()).measure("key", _write, tokens)


def test_a_study_names_its_lengths() -> None:
    assert DeviceSpec().lengths is None
    assert DeviceSpec(tokens=32).lengths == (32,)
    assert DeviceSpec.model_validate({"tokens": [16, 48]}).lengths == (16, 48)


def test_readings_of_other_devices_lengths_and_keys_are_kept_apart(own_cache, measured) -> None:
    for spec, length in ((DeviceSpec(), 32), (DeviceSpec(), 64), (DeviceSpec(profile="cortex-a76"), 32)):
        for key in ("one", "two"):
            LatencyMeter(spec).measure(key, _write, [length])
    assert measured == [1] * 6
    assert len(list((own_cache / "latency").iterdir())) == 6


def test_another_compiler_or_c_library_counts_anew(own_cache, measured, monkeypatch) -> None:
    for versions in ({"qemu": "7.2", "runner": "0a"}, {"qemu": "7.2", "runner": "0b"}, {"qemu": "7.2", "runner": "0a"}):
        monkeypatch.setattr(latency, "find_installation", lambda versions=versions: SimpleNamespace(versions=versions))
        LatencyMeter(DeviceSpec()).measure("key", _write, [32])
    assert measured == [1, 1]


def test_code_that_estimates_otherwise_estimates_anew(own_cache, model, monkeypatch) -> None:
    def known() -> int:
        LatencyMeter(DeviceSpec(latency="estimated")).measure("key", lambda path: shutil.copy(model, path), [16])
        return len(list((own_cache / "latency").iterdir()))

    assert (known(), known()) == (1, 1)
    monkeypatch.setattr(recorded, "_estimator", lambda: b"mended")
    assert (known(), known()) == (2, 2)
    monkeypatch.setattr(latency, "operators_version", lambda: "mended")
    assert known() == 3


def test_the_version_of_estimates_covers_the_code_that_they_come_from() -> None:
    for module in (estimate, traffic, work, operators):
        assert Path(module.__file__).read_bytes() in recorded._estimator()


def test_a_damaged_reading_is_measured_again(own_cache, measured) -> None:
    meter = LatencyMeter(DeviceSpec())
    meter.measure("key", _write, [32])
    (file,) = (own_cache / "latency").iterdir()
    file.write_text('{"milliseconds": ')
    assert meter.measure("key", _write, [32])[0].milliseconds == 1.5
    assert measured == [1, 1]


def test_a_reading_that_cannot_be_kept_is_still_one(own_cache, measured, caplog) -> None:
    own_cache.mkdir()
    (own_cache / "latency").write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO, "shoebox"):
        assert LatencyMeter(DeviceSpec()).measure("key", _write, [32])[0].milliseconds == 1.5
    assert "Cannot keep a latency reading" in caplog.text


def test_installs_the_emulator_at_first_use_with_a_message(own_cache, measured, monkeypatch, caplog) -> None:
    state: list[object] = []
    monkeypatch.setattr(latency, "find_installation", lambda: state[0] if state else None)
    monkeypatch.setattr(latency, "install", lambda report: state.append(INSTALLATION))
    with caplog.at_level(logging.INFO, "shoebox"):
        LatencyMeter(DeviceSpec()).measure("key", _write, [32])
        LatencyMeter(DeviceSpec()).measure("other", _write, [32])
    assert caplog.text.count("Setting up the ARM emulator") == 1


def test_says_how_to_go_on_where_it_cannot_be_installed(own_cache, monkeypatch) -> None:
    monkeypatch.setattr(latency, "find_installation", lambda: None)

    def refuse(report) -> None:
        raise InputError("No network.", "To go on without the emulator, use `--latency estimated`.")

    monkeypatch.setattr(latency, "install", refuse)
    with pytest.raises(InputError, match="--latency estimated"):
        LatencyMeter(DeviceSpec()).measure("key", _write, [32])


def test_emulated_end_to_end(emulator, model) -> None:
    (reading,) = LatencyMeter(DeviceSpec()).measure(
        f"test of {emulator.folder}", lambda path: shutil.copy(model, path), [16]
    )
    assert reading.backend == "emulated"
    assert reading.milliseconds > 0.05


def test_estimated_needs_no_emulator_and_is_labelled(own_cache, model, monkeypatch) -> None:
    monkeypatch.setattr(latency, "find_installation", lambda: pytest.fail("looked for the emulator"))
    meter = LatencyMeter(DeviceSpec(latency="estimated"))
    (reading,) = meter.measure("key", lambda path: shutil.copy(model, path), [16])
    assert reading.backend == "estimated"
    assert not reading.calibrated
    assert reading.milliseconds > 0


@pytest.mark.parametrize("device", ["cortex-a53", "cortex-a76"])
def test_estimates_follow_the_emulator(device, own_cache, emulator, tmp_path, monkeypatch) -> None:
    """On graphs that are not even those the costs were recorded with."""
    monkeypatch.setattr(latency, "find_installation", lambda: emulator)
    wide = replace(SMALL, hidden=192, heads=4, feed_forward=512, layers=3, embedding=64)
    shapes = [replace(wide, accuracy_level=4), replace(wide, bits=8, activation="Relu", accuracy_level=4)]
    models = [write_encoder(tmp_path / f"{index}.onnx", shape) for index, shape in enumerate(shapes)]
    architectures = [(str(m), lambda path, m=m: shutil.copy(m, path)) for m in models]
    pair = [
        LatencyMeter(DeviceSpec(profile=device, latency=backend)).measure_many(architectures, [32])
        for backend in ("emulated", "estimated")
    ]
    for (emulated,), (estimated,) in zip(*pair, strict=True):
        assert estimated.milliseconds == pytest.approx(emulated.milliseconds, rel=0.4)


def test_lists_the_operators_that_run(tmp_path) -> None:
    shape = replace(SMALL, layers=2, bits=8, accuracy_level=4, keep=0.5)
    calls = count_operators(write_encoder(tmp_path / "model.onnx", shape), 10)
    products = [call for call in calls if call.operator == "MatMulNBits"]
    assert len(products) == 1 + 6 + 6
    assert all(dict(call.attributes)["bits"] == 8 for call in products)
    assert [call.inputs[0] for call in calls if call.operator == "Gelu"] == [(1, 10, 128), (1, 5, 128)]


def test_models_that_cannot_be_counted_are_named(tmp_path) -> None:
    broken = tmp_path / "broken.onnx"
    with pytest.raises(InputError, match=r"Cannot read .*broken\.onnx"):
        count_operators(broken, 8)
    broken.write_bytes(b"\x08\xff nothing")
    with pytest.raises(InputError, match=r"broken\.onnx is not an ONNX file"):
        count_operators(broken, 8)
    write_encoder(broken, replace(SMALL, positions=4))
    with pytest.raises(InputError, match=r"broken\.onnx cannot be run"):
        count_operators(broken, 8)


@pytest.mark.parametrize(
    "section",
    [
        {"profil": "cortex-a53"},
        {"tokens": 0},
        {"tokens": "many"},
        {"tokens": [8]},
        {"tokens": [8, 0]},
        {"latency": "guessed"},
    ],
)
def test_wrong_device_sections_are_refused(section) -> None:
    with pytest.raises(ValidationError):
        DeviceSpec.model_validate(section)


def test_unknown_device_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="Unknown device 'pixel-99'"):
        LatencyMeter(DeviceSpec(profile="pixel-99"))
