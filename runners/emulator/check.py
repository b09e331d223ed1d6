"""`shoebox emulator check`: what is installed, which backends this machine can use, and one model timed with them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from objectives.latency import LatencyReading, load_profile
from runners.emulator.execution import measure, raised
from runners.emulator.installation import find_installation, installation_folder
from runners.emulator.native import find_native, install_native, is_arm, measure_natively
from runners.emulator.warm_up import write_warm_up
from space.errors import InputError

_TOKENS = 32
_DEVICES = ("cortex-a53", "cortex-a76")


def check(report: Callable[[str], None]) -> LatencyReading:
    """As `check_all`; returns the last reading."""
    return check_all(report)[-1]


def check_all(report: Callable[[str], None]) -> list[LatencyReading]:
    """Say what is installed and time a small model on each of two emulated cores; returns the readings.

    On an ARM, or where the runner has been built for this machine, the model is timed by the clock too; on an ARM
    that is enough.

    Raises:
        InputError: the emulator is not installed (and this is no ARM), or does not work.
    """
    for line in backends():
        report(line)
    installation = find_installation()
    native = install_native(report) if is_arm() else find_native()
    if installation is None and not is_arm():
        raise InputError(
            f"The emulator is not installed in {installation_folder()}.", "Run `shoebox emulator install`."
        )
    readings: list[LatencyReading] = []
    with tempfile.TemporaryDirectory(prefix="shoebox-check-") as folder:
        model = write_warm_up(Path(folder) / "check.onnx")
        if native is not None:
            start = time.perf_counter()
            readings.append(raised(measure_natively([(model, _TOKENS)], native)[0]))
            _report(report, readings[-1], time.perf_counter() - start)
        if installation is not None:
            report(f"Installed in {installation.folder}")
            for name, number in installation.versions.items():
                report(f"  {name} {number}")
            for device in _DEVICES:
                start = time.perf_counter()
                readings.append(measure([model], _TOKENS, load_profile(device), installation)[0])
                _report(report, readings[-1], time.perf_counter() - start)
    return readings


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
