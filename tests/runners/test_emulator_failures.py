"""What can go wrong around the emulator: each gives one sentence, and leaves nothing broken behind."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.models import EncoderShape, write_encoder

from objectives.latency import DeviceProfile, load_profile
from runners import latency
from runners.emulator import Installation, measure, requests
from runners.emulator.execution import start_once
from runners.latency import DeviceSpec, LatencyMeter
from space.errors import InputError

SMALL = EncoderShape(layers=1, hidden=64, feed_forward=128, vocabulary=500, embedding=32)
TOKENS = 8


@pytest.fixture(scope="module")
def a53() -> DeviceProfile:
    return load_profile("cortex-a53")


@pytest.fixture
def model(tmp_path) -> Path:
    return write_encoder(tmp_path / "model.onnx", SMALL)


def _fake_qemu(folder: Path, installation: Installation, script: str) -> Installation:
    """The installation with a shell script in the place of qemu."""
    program = folder / "qemu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return replace(installation, qemu=(str(program),))


def test_an_emulator_that_crashes_at_its_start(tmp_path, emulator, a53, model) -> None:
    broken = _fake_qemu(tmp_path, emulator, "kill -SEGV $$")
    with pytest.raises(InputError, match=r"crashed \(SIGSEGV\) before it was through with .*model\.onnx.*estimated"):
        measure([model], TOKENS, a53, broken)


def test_an_emulator_that_dies_in_the_middle(tmp_path, emulator, a53, model, monkeypatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    broken = _fake_qemu(tmp_path, emulator, "echo '0 exit 0'; kill -KILL $$")
    monkeypatch.setattr(latency, "find_installation", lambda: broken)
    with pytest.raises(InputError, match=r"answer of the emulator about .*model-0\.onnx is not readable"):
        LatencyMeter(DeviceSpec()).measure("key", lambda path: path.write_bytes(model.read_bytes()), [TOKENS])
    assert not (tmp_path / "cache" / "latency").exists()


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        ("runner: cannot write the reply", r"model\.onnx; the temporary folder may be full\."),
        ("plugin: out of memory", r"model\.onnx\."),
    ],
)
def test_a_full_folder_is_supposed_where_something_could_not_be_written(
    words, ending, tmp_path, emulator, a53, model
) -> None:
    broken = _fake_qemu(tmp_path, emulator, f"echo '{words}' >&2; echo '0 exit 9'")
    with pytest.raises(InputError, match=rf"status 9 \({words}\) while it ran .*{ending} To go on"):
        measure([model], TOKENS, a53, broken)


def test_an_emulator_that_hangs_is_ended_with_all_its_processes(tmp_path, emulator, a53, model, monkeypatch) -> None:
    monkeypatch.setattr(requests, "_START_SECONDS", 0.5)
    monkeypatch.setattr("runners.emulator.execution.MODEL_SECONDS", 0.5)
    broken = _fake_qemu(tmp_path, emulator, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(InputError, match=r"did not finish within \d+ seconds"):
        start_once(broken)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[:1]:
            return  # dead, and only not yet collected
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("qemu: unknown option 'plugin'", "this build of qemu takes no plugins: .*unknown option 'plugin'"),
        (
            "plugin requires API version 1, but this QEMU supports only a minimum version of 2",
            "too new.*API version 1,",
        ),
        ("plugin requires API version 1, but this QEMU supports only up to version 0", "too old for.*API version 1,"),
        ("Could not load plugin ../plugin.so: Permission denied", "not work here: .*Permission denied"),
    ],
)
def test_a_qemu_that_cannot_use_the_plugin_says_why(words, message, tmp_path, emulator) -> None:
    broken = _fake_qemu(tmp_path, emulator, f'echo "{words}" >&2; exit 1')
    with pytest.raises(InputError, match=rf"{message}.*--latency estimated"):
        start_once(broken)


def test_a_folder_with_a_comma(tmp_path, emulator, a53, model) -> None:
    """qemu takes what follows it in the plugin's path for the plugin's next option."""
    plugin = tmp_path / "a,b" / "plugin.so"
    plugin.parent.mkdir()
    plugin.symlink_to(emulator.plugin)
    assert measure([model], TOKENS, a53, replace(emulator, plugin=plugin))[0].instructions


LIMITED = """
import json, resource, sys
from pathlib import Path
from objectives.latency import load_profile
from runners.emulator import find_installation, measure
from space.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    measure([Path(sys.argv[1])], 8, load_profile("cortex-a53"), find_installation())
except InputError as error:
    print(json.dumps(str(error)))
"""


def test_no_room_for_the_counts(emulator, model) -> None:
    """A limit on the size of files does what a full disk does; the file of counts is larger."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(model)],
        env={**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "The emulator" in json.loads(done.stdout)
    assert "model.onnx" in json.loads(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk that is full")
@pytest.mark.parametrize("room", ["4k", "40k"])
def test_a_full_disk(room, tmp_path, emulator, a53, model, monkeypatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk], capture_output=True).returncode:
        pytest.skip("this system does not let us mount")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(InputError, match=r"full|No space left"):
            measure([model], TOKENS, a53, emulator)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_limits_of_this_process_are_left_alone(emulator, a53, model) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    measure([model], TOKENS, a53, emulator)
    assert resource.getrlimit(resource.RLIMIT_CORE) == before
