"""Running models in the emulator and reading what its plugin counted."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from objectives.latency import (
    DeviceProfile,
    ExecutionCounts,
    LatencyReading,
    load_profile,
    read_counts,
    reading_from_counts,
)
from runners.emulator.installation import Installation
from runners.emulator.parts import GO_ON
from space.errors import InputError

_START_SECONDS = 60.0
_MODEL_SECONDS = 60.0  # a 2 MB student takes one; hours would mean a hang


@dataclass(frozen=True)
class EmulatedRun:
    """What one model did: its counts, and the first (at most 64) values of its first output."""

    counts: ExecutionCounts
    outputs: list[float | None]


def measure(
    models: Sequence[Path], tokens: int, profile: DeviceProfile, installation: Installation
) -> list[LatencyReading]:
    """Latency of models on a device, batch 1, ``tokens`` tokens each, in one emulator process.

    Raises:
        InputError: a model cannot be loaded or run, or the emulator crashes or hangs; names the model.
    """
    runs = run_models(models, tokens, profile, installation)
    versions = installation.versions
    return [reading_from_counts(run.counts, profile, tokens, versions) for run in runs]


def run_models(
    models: Sequence[Path],
    tokens: int,
    profile: DeviceProfile,
    installation: Installation,
    *,
    model_seconds: float = _MODEL_SECONDS,
) -> list[EmulatedRun]:
    """Run each model once to warm up and once counted. Raises as `measure`."""
    if tokens < 1:
        raise InputError(f"A model cannot be timed at {tokens} tokens.", "Give at least 1.")
    requests = "".join(f"{tokens}\t{vocabulary_size(path)}\t{path.resolve()}\n" for path in models)
    with tempfile.TemporaryDirectory(prefix="shoebox-emulator-") as name:
        folder = Path(name)
        limit = _START_SECONDS + model_seconds * len(models)
        done = _emulate(installation, profile, folder, requests, limit)
        replies = _replies(done.stdout)
        runs = []
        for index, path in enumerate(models):
            if index >= len(replies):
                raise InputError(f"The emulator {done.ending} while it ran {path}.", GO_ON)
            reply = replies[index]
            if not reply["ok"]:
                raise InputError(f"{path} cannot be run on ARM: {reply['error']}.")
            try:
                counts = read_counts((folder / f"counts-{reply['run']}").read_bytes())
            except (OSError, ValueError) as error:
                reason = f"the counts of {path} are not readable ({error})"
                raise InputError(f"The emulator {done.ending} and {reason}.", GO_ON) from None
            runs.append(EmulatedRun(counts, reply["outputs"]))
        return runs


def start_once(installation: Installation) -> None:
    """Start the emulator without a model: loads the plugin and ONNX Runtime. Raises InputError."""
    with tempfile.TemporaryDirectory(prefix="shoebox-emulator-") as name:
        done = _emulate(installation, load_profile("cortex-a53"), Path(name), "", _START_SECONDS)
    if done.returncode:
        plugins = "plugin" in done.stderr and "out of memory" not in done.stderr
        reason = "this build of qemu takes no plugins" if plugins else f"it {done.ending}"
        raise InputError(f"The emulator of this system does not work here: {reason}.", GO_ON)


def vocabulary_size(model: Path) -> int:
    """Rows of the table that a model looks its ``input_ids`` up in, 1 where none is found.

    Raises:
        InputError: there is no such file or it is not ONNX.
    """
    try:
        graph = onnx.load(str(model)).graph
    except (DecodeError, ValueError):
        raise InputError(f"{model} is not an ONNX file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {model}: {error.strerror or error}.") from None
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        looks_up = node.op_type in ("Gather", "GatherBlockQuantized")
        if looks_up and len(node.input) > 1 and node.input[1] == "input_ids" and node.input[0] in sizes:
            return int(sizes[node.input[0]][0])
    return 1


@dataclass(frozen=True)
class _Done:
    returncode: int | None  # None where the time limit ended it
    stdout: str
    stderr: str
    limit: float

    @property
    def ending(self) -> str:
        """How it ended, as the rest of a sentence."""
        if self.returncode is None:
            return f"did not finish within {self.limit:.0f} seconds"
        if self.returncode < 0:
            return f"crashed ({signal.Signals(-self.returncode).name})"
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return f"stopped with status {self.returncode}" + (f" ({lines[-1].strip()})" if lines else "")


def _emulate(installation: Installation, profile: DeviceProfile, folder: Path, requests: str, limit: float) -> _Done:
    memory = profile.memory
    caches = [f"l1d={memory.l1d.value.option()}", f"l1i={memory.l1i.value.option()}"]
    options = ",".join([str(installation.plugin), f"out={folder}/counts", *caches, f"l2={memory.l2.value.option()}"])
    command = [*installation.qemu, "-seed", "1", "-L", str(_system_root(installation, profile, folder))]
    command += ["-cpu", profile.emulation.qemu_cpu, "-plugin", options]
    command += [str(installation.runner), str(installation.library)]
    # Nothing else of our environment: it lies on the emulated stack, and its size would move the counts.
    environment = {"ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            command,
            input=requests.encode(),
            capture_output=True,
            cwd=folder,
            env=environment,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _Done(None, (error.stdout or b"").decode(errors="replace"), "", limit)
    except OSError as error:
        raise InputError(f"Cannot start the emulator: {error.strerror or error}.", GO_ON) from None
    return _Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), limit)


def _system_root(installation: Installation, profile: DeviceProfile, folder: Path) -> Path:
    """What the emulated program sees as ``/``: the libraries, and the CPU that ONNX Runtime asks about.

    Without an ARM-style ``/proc/cpuinfo`` it would read that of this machine, and crash on it.
    """
    root = folder / "root"
    (root / "proc").mkdir(parents=True)
    (root / "lib").symlink_to(installation.system_libraries)
    emulation = profile.emulation
    lines = [
        "processor\t: 0",
        "BogoMIPS\t: 38.40",
        f"Features\t: {emulation.features}",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        f"CPU part\t: {emulation.part}",
        "CPU revision\t: 4",
    ]
    (root / "proc" / "cpuinfo").write_text("\n".join(lines) + "\n\n", encoding="ascii")
    return root


def _replies(text: str) -> list[dict[str, Any]]:
    replies = []
    for line in text.splitlines():
        try:
            replies.append(json.loads(line))
        except ValueError:
            break  # a line cut short by a crash: what it was about did not finish
    return replies
