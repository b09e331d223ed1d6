from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.models import EncoderShape, GraphBuilder, write_encoder, write_lookup

from objectives.latency import DeviceProfile, load_profile, milliseconds
from runners.emulator import check, measure, run_each, run_models
from runners.emulator.machine import RUNTIME, write_machine
from runners.emulator.native import is_arm
from runners.emulator.requests import vocabulary_size
from space import TaskShape
from space.errors import InputError
from space.families import build_student, export_model, parse_config

SMALL = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)
TOKENS = 16


@pytest.fixture(scope="module")
def a53() -> DeviceProfile:
    return load_profile("cortex-a53")


@pytest.fixture(scope="module")
def a76() -> DeviceProfile:
    return load_profile("cortex-a76")


def _on_this_machine(model: Path, tokens: int) -> np.ndarray:
    session = onnxruntime.InferenceSession(model)
    ids = (np.arange(tokens) * 7919 + 13)[None] % vocabulary_size(model)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": (np.arange(tokens) >= (tokens + 1) // 2).astype(np.int64)[None],
    }
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        replace(SMALL, bits=2, embedding_bits=2),
        replace(SMALL, bits=8, embedding_bits=8, segments=2, activation="Relu"),
        replace(SMALL, layers=2, keep=0.5),
        replace(SMALL, bits=32, embedding_bits=32),
    ],
    ids=["4 bits", "2 bits", "8 bits, pairs", "pruned", "fp32"],
)
def test_emulated_arm_computes_what_this_machine_computes(shape, tmp_path, emulator, a76) -> None:
    model = write_encoder(tmp_path / "model.onnx", shape)
    run = run_models([model], TOKENS, a76, emulator)[0]
    np.testing.assert_allclose(run.outputs, _on_this_machine(model, TOKENS)[0], atol=1e-3)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_lookup_reads_its_table_back_on_arm(bits, tmp_path, emulator, a53) -> None:
    table = write_lookup(tmp_path / "lookup.onnx", bits)
    run = run_models([tmp_path / "lookup.onnx"], TOKENS, a53, emulator)[0]
    np.testing.assert_allclose(run.outputs, table[13][:64], rtol=1e-6)


def test_places_in_memory_do_not_move_figures(tmp_path, emulator) -> None:
    """Where the C library placed workspaces, the size of the vocabulary moved this student by 2.6 % (region.h)."""
    layer = {"ffn_width": 512, "token_keep": 0.5, "attention_bits": 8, "ffn_bits": 2}
    config = parse_config(
        {"family": "transformer", "embedding_width": 96, "embedding_bits": 4, "block_size": 32, "accuracy_level": 4}
        | {"vocabulary_keep": 0.4, "width": 128, "heads": 4, "activation": "gelu", "layers": [layer]}
    )
    shape, paths = TaskShape(outputs=2, segments=1, max_length=128), []
    for size in (3964, 4364, 5141, 5864):
        paths.append(tmp_path / f"{size}.onnx")
        model = export_model(config, shape, size, build_student(config, shape, size))
        paths[-1].write_bytes(model.SerializeToString())
    profile = load_profile("cortex-a72")
    times = [milliseconds(run.counts, profile) for run in run_models(paths, 16, profile, emulator)]
    assert max(times) < 1.015 * min(times)


def test_a_reading_says_where_it_comes_from(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    reading = measure([model], TOKENS, a53, emulator)[0]
    assert reading.backend == "emulated"
    assert (reading.device, reading.tokens, reading.calibrated) == ("cortex-a53", TOKENS, False)
    assert 0.05 < reading.milliseconds < 20
    assert sum(reading.instruction_classes.values()) == reading.instructions > 100_000
    assert reading.cache_misses["l1d"] > 0
    assert {"qemu", "onnxruntime", "sources", "cost_model"} <= reading.versions.keys()


def test_cores_run_the_kernels_that_they_have(tmp_path, emulator, a53, a76) -> None:
    model = write_encoder(tmp_path / "model.onnx", replace(SMALL, accuracy_level=4))
    old, new = (run_models([model], TOKENS, p, emulator)[0].counts.instruction_classes() for p in (a53, a76))
    assert "vector_dot" not in old
    assert new["vector_dot"] > 0
    assert sum(new.values()) < sum(old.values())


def test_the_third_level_keeps_what_the_second_cannot(tmp_path, emulator, a53, a76) -> None:
    """After its warm-up a model of a megabyte fits the third level of this core but for a few lines, not the second."""
    large = write_encoder(tmp_path / "model.onnx", EncoderShape(layers=2, hidden=192, feed_forward=768, bits=8))
    two_levels, three_levels = (run_models([large], TOKENS, device, emulator)[0].counts.caches for device in (a53, a76))
    assert two_levels.memory_data == two_levels.l2_data_misses > 0
    assert two_levels.memory_instructions == two_levels.l2_instruction_misses
    assert three_levels.memory_data < 0.1 * three_levels.l2_data_misses
    no_third = a76.memory.model_copy(update={"l3": None, "l3_cycles": None})
    without = run_models([large], TOKENS, a76.model_copy(update={"memory": no_third}), emulator)[0].counts.caches
    assert without.l2_data_misses == three_levels.l2_data_misses == without.memory_data


def test_counts_are_the_same_alone_and_anywhere_in_a_batch(tmp_path, emulator, a53) -> None:
    """To the last cache miss, whatever runs before or beside a model."""
    shapes = [SMALL, replace(SMALL, bits=2, layers=2), replace(SMALL, bits=8, accuracy_level=4), SMALL]
    models = [write_encoder(tmp_path / f"{index}.onnx", shape) for index, shape in enumerate(shapes)]
    requests = [(path, tokens) for path in models for tokens in (8, TOKENS)]
    batch = run_each(requests, a53, emulator, jobs=1)
    backwards = run_each(requests[::-1], a53, emulator, jobs=2)[::-1]
    alone = [run_each([request], a53, emulator)[0] for request in requests[:3]]
    assert batch == backwards
    assert batch[:3] == alone
    assert batch[:2] == batch[6:]


def test_counts_do_not_depend_on_the_temporary_folder(tmp_path, emulator, a53, monkeypatch) -> None:
    """The loader writes the folder of ONNX Runtime onto the heap: its length moved milliseconds by up to 1.8 %."""
    model, folder = write_encoder(tmp_path / "model.onnx", SMALL), tmp_path / ("long" * 50)
    folder.mkdir()
    first = run_models([model], TOKENS, a53, emulator)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert run_models([model], TOKENS, a53, emulator) == first


def test_an_emulated_program_sees_no_file_of_this_machine(tmp_path, emulator, a53) -> None:
    """Its CPUs, caches and PCI devices, which the runtime notes on its heap, moved milliseconds by up to 1.8 %."""
    model, calls = write_encoder(tmp_path / "model.onnx", SMALL), tmp_path / "calls"
    run_models([model], TOKENS, a53, replace(emulator, qemu=(*emulator.qemu, "-strace", "-D", str(calls))))
    asked = set(re.findall(r'(?:open|stat|access)\w*\([^"\n]*"(/[^"]*)"', calls.read_text(errors="replace")))
    assert {"/proc/cpuinfo", "/sys/devices/system/cpu/possible", str(RUNTIME)} <= asked
    write_machine(tmp_path / "root", emulator, a53)
    assert [path for path in asked if Path(path).exists() and not (tmp_path / "root" / path[1:]).exists()] == []


def test_one_bad_model_does_not_disturb_the_others(tmp_path, emulator, a53) -> None:
    good = write_encoder(tmp_path / "good.onnx", SMALL)
    short = write_encoder(tmp_path / "short.onnx", replace(SMALL, positions=8))
    (tmp_path / "corrupt.onnx").write_bytes(b"no model")
    requests = [(good, TOKENS), (short, TOKENS), (tmp_path / "corrupt.onnx", TOKENS), (good, 0), (good, TOKENS)]
    first, failed, corrupt, none, last = run_each(requests, a53, emulator)
    assert first == last
    assert "short.onnx cannot be run on ARM" in str(failed)
    assert "corrupt.onnx is not an ONNX file" in str(corrupt)
    assert "at 0 tokens" in str(none)


def test_more_tokens_take_longer(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    short, long = (measure([model], tokens, a53, emulator)[0] for tokens in (8, 64))
    assert long.milliseconds > 2 * short.milliseconds


def test_check_reports_what_is_installed(emulator) -> None:
    lines: list[str] = []
    assert check(lines.append).milliseconds > 0
    assert any("qemu" in line for line in lines)
    assert any("cortex-a53" in line and "uncalibrated" in line for line in lines)
    assert [line.split(":")[0] for line in lines[:3]] == ["emulated", "native", "estimated"]


@pytest.mark.skipif(is_arm(), reason="an ARM needs no emulator")
def test_check_says_how_to_get_what_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path))
    lines: list[str] = []
    with pytest.raises(InputError, match=r"not installed.*shoebox emulator install"):
        check(lines.append)
    assert "not installed" in lines[0]


# ---- bad input


def test_a_corrupt_model_is_named(tmp_path, emulator, a53) -> None:
    model = tmp_path / "corrupt.onnx"
    model.write_bytes(b"\x08\xff not a protobuf")
    with pytest.raises(InputError, match=r"corrupt\.onnx is not an ONNX file"):
        measure([model], TOKENS, a53, emulator)
    write_encoder(model, SMALL)
    model.write_bytes(model.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"corrupt\.onnx"):
        measure([model], TOKENS, a53, emulator)


def test_a_missing_model_is_named(tmp_path, emulator, a53) -> None:
    with pytest.raises(InputError, match=r"Cannot read .*gone\.onnx: No such file"):
        measure([tmp_path / "gone.onnx"], TOKENS, a53, emulator)


def test_an_unsupported_operator_is_named(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    proto = onnx.load(model)
    proto.graph.node[-1].op_type = "Teleport"
    onnx.save(proto, model)
    with pytest.raises(InputError, match=r"cannot be run on ARM: .*Teleport"):
        measure([model], TOKENS, a53, emulator)


def test_an_input_that_nobody_can_fill(tmp_path, emulator, a53) -> None:
    build = GraphBuilder(0)
    build.node("Cast", ["pixels"], to=onnx.TensorProto.FLOAT)
    build.save(tmp_path / "image.onnx", ["pixels"], "n0_0", ["batch", "sequence"])
    with pytest.raises(InputError, match="an input other than input_ids"):
        measure([tmp_path / "image.onnx"], TOKENS, a53, emulator)


def test_a_model_that_fails_while_it_runs(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "short.onnx", replace(SMALL, positions=8))
    with pytest.raises(InputError, match=r"short\.onnx cannot be run on ARM"):
        measure([model], TOKENS, a53, emulator)


@pytest.mark.parametrize("tokens", [0, -3])
def test_no_tokens_no_time(tokens, tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    with pytest.raises(InputError, match="at least 1"):
        measure([model], tokens, a53, emulator)


def test_a_crash_is_a_sentence(tmp_path, emulator, a53, a76) -> None:
    # ONNX Runtime is told that the core has dot products, and the core has none: illegal instruction.
    emulation = a76.emulation.model_copy(update={"qemu_cpu": "cortex-a53"})
    liar = a53.model_copy(update={"emulation": emulation})
    plain = replace(emulator, warm_up=write_encoder(tmp_path / "warm-up.onnx", replace(SMALL, bits=32)))
    dot = write_encoder(tmp_path / "dot.onnx", replace(SMALL, accuracy_level=4))
    good = write_encoder(tmp_path / "good.onnx", replace(SMALL, bits=32))
    first, crashed, last = run_each([(good, TOKENS), (dot, TOKENS), (good, TOKENS)], liar, plain)
    assert first == last
    assert re.fullmatch(r"The emulator crashed \(SIGILL\) while it ran .*dot\.onnx\..*estimated.*", str(crashed))
    with pytest.raises(InputError, match=r"crashed \(SIGILL\) before it was through with .*good\.onnx"):
        measure([good], TOKENS, liar, emulator)


def test_a_hang_ends(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    with pytest.raises(InputError, match=r"did not finish .*model\.onnx within 0\.05 seconds"):
        run_models([model], TOKENS, a53, emulator, model_seconds=0.05)


def test_an_emulator_that_cannot_start(tmp_path, emulator, a53) -> None:
    model = write_encoder(tmp_path / "model.onnx", SMALL)
    with pytest.raises(InputError, match="Cannot start the emulator: No such file"):
        measure([model], TOKENS, a53, replace(emulator, qemu=("/nowhere/qemu",)))
    with pytest.raises(InputError, match="stopped with status"):
        measure([model], TOKENS, a53, replace(emulator, library=tmp_path / "gone.so"))
