"""`shoebox emulator check`: what is installed, which backends this machine can use, and one model timed with them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from objectives.latency import LatencyReading, load_profile
from runners.emulator.execution import measure, raised
from runners.emulator.installation import find_installation, installation_folder
from runners.emulator.native import find_native, is_arm, measure_natively
from runners.emulator.warm_up import write_warm_up
from space.errors import InputError

_TOKENS = 32
_DEVICES = ("cortex-a53", "cortex-a76")


def check(report: Callable[[str], None]) -> LatencyReading:
    """Say what is installed and time a small model on each of two emulated cores; returns the last reading.

    Where the runner has been built for this machine, or this is an ARM, it is timed by the clock too.

    Raises:
        InputError: the emulator is not installed, or does not work.
    """
    for line in backends():
        report(line)
    installation = find_installation()
    if installation is None:
        raise InputError(
            f"The emulator is not installed in {installation_folder()}.", "Run `shoebox emulator install`."
        )
    report(f"Installed in {installation.folder}")
    for name, number in installation.versions.items():
        report(f"  {name} {number}")
    with tempfile.TemporaryDirectory(prefix="shoebox-check-") as folder:
        model = write_warm_up(Path(folder) / "check.onnx")
        for device in _DEVICES:
            start = time.perf_counter()
            reading = measure([model], _TOKENS, load_profile(device), installation)[0]
            _report(report, reading, time.perf_counter() - start)
        native = find_native()
        if native is not None:
            start = time.perf_counter()
            timed = raised(measure_natively([(model, _TOKENS)], native)[0])
            _report(report, timed, time.perf_counter() - start)
    return reading


def backends() -> Sequence[str]:
    """A line for each latency backend: whether this machine can use it."""
    installed = "ready" if find_installation() else "not installed (`shoebox emulator install`)"
    try:
        native = "ready" if find_native() else "compiled at first use"
    except InputError as error:
        native = f"not usable: {error}"
    return (
        f"emulated: {installed}",
        f"native: {native}{'' if is_arm() else '; this machine is no ARM, so that its times are not those of a phone'}",
        "estimated: ready, for the shipped devices",
    )


def _report(report: Callable[[str], None], reading: LatencyReading, seconds: float) -> None:
    counted = "" if reading.instructions is None else f"{reading.instructions:,} instructions, "
    interval = "" if reading.interval_ms is None else " ({:.3f} to {:.3f})".format(*reading.interval_ms)
    heap = "" if reading.peak_heap_bytes is None else f", {reading.peak_heap_bytes:,} bytes of heap"
    report(
        f"{reading.device}: {counted}{reading.milliseconds:.3f} ms {reading.backend}{interval}"
        f"{'' if reading.calibrated else ' (uncalibrated)'}{heap}, measured in {seconds:.1f} s"
    )
