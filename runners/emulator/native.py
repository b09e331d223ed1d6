"""Latency by the clock of this machine, with the same runner as under emulation.

Meant for AArch64 machines: a board, a phone's Linux, a cloud instance. Elsewhere it works the same, and readings say
that they are not of an ARM core.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache as remember
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from objectives.latency import LatencyReading
from runners.emulator.install import compile_runner
from runners.emulator.installation import HEADERS, RUNNER_SOURCES, source
from runners.emulator.parts import Compilers
from runners.emulator.requests import Answer, Request, Runner, send
from space.errors import InputError
from space.paths import cache

ROUNDS = 12  # over all models, so that a slow minute of the machine meets all of them
RUNS = 20  # of a model in each round
_KEPT = 0.75  # of the rounds, the fastest: what disturbs a clock only ever makes it later
_RESAMPLES = 2000
_MODEL_SECONDS = 60.0


@remember
def native_version() -> str:
    """Changes with the runner."""
    digest = hashlib.sha256(b"native")
    for name in (*RUNNER_SOURCES, *HEADERS):
        digest.update(source(name))
    return digest.hexdigest()[:8]


@remember
def host_name() -> str:
    """The CPU of this machine and its architecture, with a note where that is not ARM."""
    machine = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    part = f"CPU {fields['CPU implementer']} {fields['CPU part']}" if "CPU part" in fields else "unknown CPU"
    return f"{fields.get('model name', part)} ({machine}{'' if is_arm() else ', not ARM'})"


def is_arm() -> bool:
    """Whether this machine is a 64-bit ARM."""
    return platform.machine() in ("aarch64", "arm64")


def find_native() -> Runner | None:
    """The runner for this machine, or None where it has not been built."""
    program = _program()
    return _runner(program) if program.exists() else None


def install_native(report: Callable[[str], None]) -> Runner:
    """The runner for this machine, compiled first where it is not (seconds).

    Raises:
        InputError: there is no compiler and none can be had, or no library of ONNX Runtime.
    """
    program = _program()
    runner = _runner(program)
    if program.exists():
        return runner
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(program.parent / "install.lock"):
            if program.exists():
                return runner
            report("Compiling the runner for this machine.")
            work = Path(tempfile.mkdtemp(prefix=".building-", dir=program.parent))
            try:
                compile_runner(Compilers(work), work / "runner", guest=False)
                _start_once(_runner(work / "runner"))
                os.replace(work / "runner", program)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot build the native runner in {program.parent}: {reason}.") from None
    return runner


def _program() -> Path:
    return cache() / "native" / f"runner-{platform.machine()}-{native_version()}"


def _runner(program: Path) -> Runner:
    found = find_spec("onnxruntime")
    folders = list(found.submodule_search_locations or []) if found else []
    libraries = sorted(path for folder in folders for path in Path(folder).glob("capi/libonnxruntime.so*"))
    if not libraries:
        raise InputError(
            "The installed onnxruntime package holds no libonnxruntime.so, which native latency needs.",
            "Install its wheel from the Python index, or use `--latency estimated`.",
        )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return Runner(
        what="The native runner",
        where="on this machine",
        command=(),
        program=program,
        library=libraries[0],
        warm_up=None,
        core=cores[-1],  # the first one is where systems like to put their own work
    )


def _start_once(runner: Runner) -> None:
    with tempfile.TemporaryDirectory(prefix="shoebox-native-") as folder:
        send(runner, [], Path(folder), _MODEL_SECONDS)


def measure_natively(
    requests: Sequence[tuple[Path, int]],
    runner: Runner,
    *,
    rounds: int = ROUNDS,
    runs: int = RUNS,
    seed: int = 0,
    model_seconds: float = _MODEL_SECONDS,
) -> list[LatencyReading | InputError]:
    """Time models by the clock, each at a number of tokens; one thread, bound to one core.

    All models are timed in turns: in each of ``rounds`` rounds each of them gets a process of its own, a warm-up
    run and ``runs`` timed ones. See `typical` for how they become one figure.

    Args:
        requests: model and number of tokens.
        runner: of `install_native`.
        rounds, runs: as above.
        seed: of the bootstrap.
        model_seconds: time limit of one model in one round.
    """
    found: list[LatencyReading | InputError | None] = [None] * len(requests)
    valid: dict[int, Request] = {}
    for index, (path, tokens) in enumerate(requests):
        try:
            valid[index] = Request.measure(path, tokens, runs)
        except InputError as error:
            found[index] = error
    if valid:
        lock = cache() / "native" / "clock.lock"  # two that time on one core at once would disturb each other
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), tempfile.TemporaryDirectory(prefix="shoebox-native-") as folder:
            answers = send(runner, list(valid.values()) * rounds, Path(folder), model_seconds)
        for place, index in enumerate(valid):
            own = answers[place :: len(valid)]
            errors = [answer for answer in own if isinstance(answer, InputError)]
            good = [answer for answer in own if isinstance(answer, Answer)]
            found[index] = errors[0] if errors else _reading(good, requests[index][1], seed)
    return [reading for reading in found if reading is not None]


def _reading(answers: Sequence[Answer], tokens: int, seed: int) -> LatencyReading:
    times = np.array([answer.nanoseconds for answer in answers], np.float64) / 1e6
    milliseconds, interval = typical(times, seed)
    return LatencyReading(
        milliseconds=milliseconds,
        backend="native",
        device=host_name(),
        calibrated=is_arm(),
        tokens=tokens,
        peak_heap_bytes=max(answer.peak_heap_bytes for answer in answers),
        interval_ms=interval,
        repeats=times.size,
        versions={"onnxruntime": version("onnxruntime"), "runner": native_version()},
    )


def typical(times: npt.NDArray[np.float64], seed: int) -> tuple[float, tuple[float, float]]:
    """One figure of repeated times, and its 95 % bootstrap interval.

    The median of each round, the slowest quarter of the rounds left out, the median of the rest. The interval
    redraws whole rounds: runs within one are not independent.

    Args:
        times: [rounds, runs].
        seed: of the redrawing.
    """
    medians = np.median(times, axis=1)
    draws = np.random.default_rng(seed).integers(0, len(medians), (_RESAMPLES, len(medians)))
    low, high = np.quantile(_trimmed(medians[draws]), (0.025, 0.975))
    return float(_trimmed(medians)), (float(low), float(high))


def _trimmed(medians: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    kept = max(1, round(_KEPT * medians.shape[-1]))
    result: npt.NDArray[np.float64] = np.median(np.sort(medians, axis=-1)[..., :kept], axis=-1)
    return result
