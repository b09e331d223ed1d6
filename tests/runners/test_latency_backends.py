"""One suite that every latency backend must pass."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
import torch
from helpers.models import EncoderShape, write_encoder

from objectives.latency import LatencyReading, load_profile
from runners import latency
from runners.emulator import run_each
from runners.emulator.native import is_arm
from runners.latency import DeviceSpec, LatencyMeter
from space import TaskShape
from space.errors import InputError
from space.families import architecture_key, build_student, export_model, parse_config

SMALL = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32, accuracy_level=4)
LARGE = replace(SMALL, layers=4, hidden=256, heads=4, feed_forward=1024)


@dataclass(frozen=True)
class Backend:
    """A backend and what it promises.

    Attributes:
        name: as in a study file.
        tolerance: largest relative difference of two measurements of one model. Zero for those that count; a clock
            on cores that others use moves as it likes.
        versions: tools that a reading must name.
    """

    name: str
    tolerance: float
    versions: frozenset[str]


BACKENDS = [
    Backend("emulated", 0.0, frozenset({"qemu", "onnxruntime", "sources", "cost_model"})),
    Backend("native", 1.0, frozenset({"onnxruntime", "runner"})),
    Backend("estimated", 0.0, frozenset({"onnxruntime", "estimates"})),
]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request, emulator, tmp_path, monkeypatch) -> Backend:
    """A backend with no reading in its cache; the emulator is that of the user's cache."""
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "find_installation", lambda: emulator)
    return request.param


def _meter(backend: Backend) -> LatencyMeter:
    return LatencyMeter(DeviceSpec(latency=backend.name))


def _writer(source: Path):
    return lambda path: shutil.copy(source, path)


def _measure(backend: Backend, model: Path, tokens: int = 16, key: str = "key") -> LatencyReading:
    return _meter(backend).measure(key, _writer(model), [tokens])[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("small") / "small.onnx", SMALL)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("large") / "large.onnx", LARGE)


def test_a_reading_says_where_it_comes_from(backend, small) -> None:
    reading = _measure(backend, small)
    assert reading.milliseconds > 0
    assert (reading.backend, reading.tokens) == (backend.name, 16)
    assert backend.versions <= reading.versions.keys()
    if backend.name == "native":
        assert reading.calibrated == is_arm() == ("not ARM" not in reading.device)
        assert reading.instructions is None
        assert reading.interval_ms[0] <= reading.milliseconds <= reading.interval_ms[1]
        assert reading.repeats >= 100
    else:
        assert (reading.device, reading.calibrated) == ("cortex-a53", False)
        assert reading.instructions > 10_000
        assert reading.interval_ms is None
    assert (reading.peak_heap_bytes is None) == (backend.name == "estimated")


def test_larger_models_and_longer_texts_are_slower(backend, small, large) -> None:
    architectures = [("small", _writer(small)), ("large", _writer(large))]
    (short, long), (large_short, large_long) = _meter(backend).measure_many(architectures, [8, 96])
    assert short.milliseconds < long.milliseconds < large_long.milliseconds
    assert short.milliseconds < large_short.milliseconds < large_long.milliseconds
    if short.peak_heap_bytes is not None:
        assert short.peak_heap_bytes < large_short.peak_heap_bytes


def test_repeats_within_its_tolerance(backend, small) -> None:
    first, second = (_measure(backend, small, key=key) for key in ("one", "two"))
    assert second.milliseconds == pytest.approx(first.milliseconds, rel=backend.tolerance)
    assert second.instructions == first.instructions
    if backend.name == "emulated":
        assert second == first


def test_a_remembered_reading_is_the_same(backend, small) -> None:
    first = _measure(backend, small)
    again = _meter(backend).measure("key", lambda path: pytest.fail("was not remembered"), [16])
    assert again == (first,)


def test_no_architectures_no_readings(backend) -> None:
    assert _meter(backend).measure_many([], [16]) == []


@pytest.mark.parametrize("tokens", [[], [0], [-4, 8]])
def test_lengths_are_checked(tokens, backend, small) -> None:
    with pytest.raises(InputError, match="at least 1"):
        _meter(backend).measure("key", _writer(small), tokens)


def _unsupported(path: Path) -> None:
    model = onnx.load(write_encoder(path, SMALL))
    model.graph.node[-1].op_type = "Teleport"
    onnx.save(model, path)


def _cut_short(path: Path) -> None:
    write_encoder(path, SMALL)
    path.write_bytes(path.read_bytes()[:2000])


BAD_MODELS = {
    "unsupported operator": (_unsupported, "cannot be run.*Teleport"),
    "not ONNX": (lambda path: path.write_bytes(b"\x08\xff no protobuf"), r"model-0\.onnx is not an ONNX file"),
    "cut short": (_cut_short, r"model-0\.onnx"),
    "missing": (lambda path: None, r"Cannot read .*model-0\.onnx: No such file"),
    "too few positions": (
        lambda path: write_encoder(path, replace(SMALL, positions=4)),
        r"model-0\.onnx cannot be run",
    ),
}


@pytest.mark.parametrize(("write", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models_are_named_and_nothing_is_remembered(write, message, backend, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        _meter(backend).measure("key", write, [16])
    assert not (tmp_path / "cache" / "latency").exists()


# ---- the key that readings are remembered by

CONFIGURATIONS = [
    {"depth": 2, "attention_bits": 4, "ffn_bits": 4, "keep": 1.0, "level": 0},
    {"depth": 1, "attention_bits": 2, "ffn_bits": 8, "keep": 1.0, "level": 4},
    {"depth": 3, "attention_bits": 8, "ffn_bits": 4, "keep": 0.5, "level": 4},
]
SHAPE = TaskShape(outputs=2, segments=1, max_length=32)


def _config(choice):
    layer = {
        "ffn_width": 128,
        "attention_bits": choice["attention_bits"],
        "ffn_bits": choice["ffn_bits"],
    }
    layers = [{**layer, "token_keep": choice["keep"] if index == 0 else 1.0} for index in range(choice["depth"])]
    return parse_config(
        {
            "family": "transformer",
            "vocabulary_keep": 1.0,
            "embedding_width": 64,
            "embedding_bits": 4,
            "width": 128,
            "heads": 2,
            "activation": "gelu",
            "block_size": 32,
            "accuracy_level": choice["level"],
            "layers": layers,
        }
    )


@pytest.mark.parametrize("choice", CONFIGURATIONS, ids=["4 bits", "2 and 8 bits", "pruned"])
def test_weights_do_not_change_the_counts(choice, emulator, tmp_path) -> None:
    """Which is why readings are remembered by shapes and bits."""
    config, requests, keys = _config(choice), [], set()
    for seed in range(3):
        torch.manual_seed(seed)
        student = build_student(config, SHAPE, 600)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(export_model(config, SHAPE, 600, student).SerializeToString())
        requests.append((path, 32))
        keys.add(architecture_key(config, SHAPE, 600))
    assert len(keys) == 1
    first, *others = run_each(requests, load_profile("cortex-a53"), emulator)
    for run in others:
        assert run.counts.instructions == pytest.approx(first.counts.instructions, rel=1e-4)
