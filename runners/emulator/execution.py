"""Running models in the emulator and reading what its plugin counted.

ONNX Runtime runs without its memory arena and memory pattern. With them -> without, students at 32 tokens:

    file bytes    ms on a cortex-a53    ms on a cortex-a76    peak heap, MB (a53)
       431,975        5.23 ->  5.22          0.55 -> 0.54        9.29 ->  8.31
       741,773       16.70 -> 16.23          1.19 -> 1.18        9.99 ->  8.97
       619,126       33.51 -> 33.09          3.81 -> 3.80       10.01 ->  9.02
     1,361,942       49.79 -> 49.65          3.09 -> 3.10       11.03 -> 10.22
     2,068,622       64.35 -> 63.67          2.64 -> 2.63       11.80 -> 11.64

They save up to 0.5 % of the instructions and no time, since the runner places large blocks as densely without them
(``region.h``). They cost up to 1.0 MB, too much where a model has 2.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from objectives.latency import (
    DeviceProfile,
    ExecutionCounts,
    LatencyReading,
    load_profile,
    read_counts,
    reading_from_counts,
)
from runners.cores import share_of_cores
from runners.emulator.installation import Installation
from runners.emulator.machine import LIBRARIES, RUNTIME, write_machine
from runners.emulator.parts import GO_ON
from runners.emulator.requests import Answer, Request, Runner, send
from space.errors import InputError

_Found = TypeVar("_Found")
_PLUGIN = "plugin.so"
MODEL_SECONDS = 60.0  # a 2 MB student takes one; hours would mean a hang


@dataclass(frozen=True)
class EmulatedRun:
    """What one model did.

    Attributes:
        counts: of the second run, with warm caches.
        outputs: the first (at most 64) values of its first output.
        peak_heap_bytes: see `objectives.latency.LatencyReading`.
    """

    counts: ExecutionCounts
    outputs: list[float | None]
    peak_heap_bytes: int


def measure(
    models: Sequence[Path], tokens: int, profile: DeviceProfile, installation: Installation
) -> list[LatencyReading]:
    """Latency of models on a device, batch 1, ``tokens`` tokens each, in one emulator process.

    Raises:
        InputError: a model cannot be loaded or run, or the emulator crashes or hangs; names the model.
    """
    found = measure_each([(path, tokens) for path in models], profile, installation)
    return [raised(reading) for reading in found]


def measure_each(
    requests: Sequence[tuple[Path, int]], profile: DeviceProfile, installation: Installation, jobs: int | None = None
) -> list[LatencyReading | InputError]:
    """Latency of models, each at a number of tokens; what goes wrong with one takes the place of its reading.

    Args:
        requests: model and number of tokens.
        profile: device.
        installation: emulator.
        jobs: models at a time, default as many as there are cores for this process. No figure depends on it.
    """
    return [
        run if isinstance(run, InputError) else _reading(run, profile, tokens, installation)
        for run, (_, tokens) in zip(run_each(requests, profile, installation, jobs=jobs), requests, strict=True)
    ]


def _reading(run: EmulatedRun, profile: DeviceProfile, tokens: int, installation: Installation) -> LatencyReading:
    reading = reading_from_counts(run.counts, profile, tokens, installation.versions)
    return reading.model_copy(update={"peak_heap_bytes": run.peak_heap_bytes})


def run_models(
    models: Sequence[Path],
    tokens: int,
    profile: DeviceProfile,
    installation: Installation,
    *,
    model_seconds: float = MODEL_SECONDS,
) -> list[EmulatedRun]:
    """Run each model once to warm up and once counted. Raises as `measure`."""
    requests = [(path, tokens) for path in models]
    return [raised(run) for run in run_each(requests, profile, installation, model_seconds=model_seconds)]


def run_each(
    requests: Sequence[tuple[Path, int]],
    profile: DeviceProfile,
    installation: Installation,
    *,
    jobs: int | None = None,
    model_seconds: float = MODEL_SECONDS,
    arena: bool = False,
) -> list[EmulatedRun | InputError]:
    """As `measure_each`, but for the counts.

    A count depends on model, length, device and tools alone. It is the same to the last instruction in any batch:
    each model runs in a process of its own, and all of these start from one and the same memory.

    Args:
        requests, profile, installation, jobs: as for `measure_each`.
        model_seconds: time limit of each model.
        arena: ONNX Runtime's memory arena and pattern, see ``model.h``.
    """
    found: list[EmulatedRun | InputError | None] = [None] * len(requests)
    sent: dict[int, Request] = {}
    for index, (path, tokens) in enumerate(requests):
        try:
            sent[index] = Request.measure(path, tokens, runs=0)
        except InputError as error:
            found[index] = error
    if sent:
        with work_folder(installation, profile) as name:
            folder = Path(name)
            runner = emulated_runner(installation, profile, folder, plugin=True, jobs=jobs, arena=arena)
            answers = send(runner, list(sent.values()), folder / "work", model_seconds)
            for number, (index, answer) in enumerate(zip(sent, answers, strict=True)):
                found[index] = _counted(answer, sent[index].model, folder / "work" / f"counts-{number:05}")
    return [run for run in found if run is not None]


def start_once(installation: Installation) -> None:
    """Start the emulator without a model: loads the plugin and ONNX Runtime. Raises InputError."""
    profile = load_profile("cortex-a53")
    with work_folder(installation, profile) as name:
        folder = Path(name)
        try:
            send(emulated_runner(installation, profile, folder, plugin=True), [], folder / "work", MODEL_SECONDS)
        except InputError as error:
            message = f"The emulator of this system does not work here: {_reason(error.message.rstrip('.'))}."
            raise InputError(message, GO_ON) from None


def _reason(message: str) -> str:
    """What qemu said, with what it means where that is about plugins as such."""
    meanings = {
        r"unknown option.*plugin": "this build of qemu takes no plugins",
        r"requires API version.*only a minimum version": "this qemu is too new for the plugin",
        r"requires API version.*only up to version": "this qemu is too old for the plugin",
    }
    meaning = next((text for pattern, text in meanings.items() if re.search(pattern, message)), None)
    return f"{meaning}: {message}" if meaning else message


def emulated_runner(
    installation: Installation,
    profile: DeviceProfile,
    folder: Path,
    *,
    plugin: bool,
    jobs: int | None = None,
    arena: bool = False,
) -> Runner:
    """The runner on an emulated core of a device, with or without counting, in a `work_folder`."""
    command = [*installation.qemu, "-seed", "1", "-L", str(folder / "root"), "-cpu", profile.emulation.qemu_cpu]
    command += ["-E", f"LD_LIBRARY_PATH={LIBRARIES}"]  # so that no library of this machine is looked for
    if plugin:
        caches = [f"{name}={size.option()}" for name, size in profile.memory.caches().items()]
        # A link, since a comma in its own path would end the option.
        command += ["-plugin", ",".join([f"../{_PLUGIN}", "out=counts", *caches])]
    return Runner(
        what="The emulator",
        where="on ARM",
        command=tuple(command),
        program=installation.runner,
        library=RUNTIME,
        warm_up=installation.warm_up,
        jobs=max(1, min(jobs or share_of_cores(), 64)),
        arena=arena,
    )


def work_folder(installation: Installation, profile: DeviceProfile) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with an empty ``work`` and ``root``, what the emulated program sees as ``/``.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix="shoebox-emulator-")
        write_machine(Path(made.name) / "root", installation, profile)
        (Path(made.name) / "work").mkdir()
        (Path(made.name) / _PLUGIN).symlink_to(installation.plugin)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot write to the folder of temporary files, {tempfile.gettempdir()}: {reason}.") from None
    return made


def _counted(answer: Answer | InputError, path: Path, file: Path) -> EmulatedRun | InputError:
    if isinstance(answer, InputError):
        return answer
    try:
        return EmulatedRun(read_counts(file.read_bytes()), answer.outputs, answer.peak_heap_bytes)
    except (OSError, ValueError) as error:
        return InputError(f"The emulator's counts of {path} are not readable ({error}).", GO_ON)


def raised(found: _Found | InputError) -> _Found:
    """What was found; raises what went wrong instead."""
    if isinstance(found, InputError):
        raise found
    return found
