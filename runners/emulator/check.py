"""`shoebox emulator check`: what is installed, and one model timed with it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from objectives.latency import LatencyReading, load_profile
from runners.emulator.execution import measure
from runners.emulator.installation import find_installation, installation_folder
from space.errors import InputError


def check(report: Callable[[str], None]) -> LatencyReading:
    """Say what is installed and time a small model on each of two cores; returns the last reading.

    Raises:
        InputError: it is not installed, or does not work.
    """
    installation = find_installation()
    if installation is None:
        raise InputError(
            f"The emulator is not installed in {installation_folder()}.", "Run `shoebox emulator install`."
        )
    report(f"Installed in {installation.folder}")
    for name, number in installation.versions.items():
        report(f"  {name} {number}")
    with tempfile.TemporaryDirectory(prefix="shoebox-check-") as folder:
        model = _write_model(Path(folder) / "check.onnx")
        for device in ("cortex-a53", "cortex-a76"):
            start = time.perf_counter()
            reading = measure([model], 32, load_profile(device), installation)[0]
            seconds = time.perf_counter() - start
            report(
                f"{device}: {reading.instructions:,} instructions, {reading.milliseconds:.2f} ms emulated"
                f"{'' if reading.calibrated else ' (uncalibrated)'}, measured in {seconds:.1f} s"
            )
    return reading


def _write_model(path: Path) -> Path:
    """An embedding lookup and a matrix product."""
    random = np.random.default_rng(0)
    table = numpy_helper.from_array(random.standard_normal((100, 64)).astype(np.float32), "table")
    weights = numpy_helper.from_array(random.standard_normal((64, 64)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "weights"], ["output"]),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "sequence", 64])
    graph = helper.make_graph(nodes, "check", [ids], [output], [table, weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path
