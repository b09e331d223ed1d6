"""How far the latency model is off and how fast it is: a benchmark, not a test.

    python tests/benchmarks/latency_model.py --students 100

Measures fresh random students, which no shipped cost was fitted to, on every device at 16, 64 and 128 tokens, and
prints errors of the shipped costs by device, space and length. ``--keep FOLDER`` stores the raw counts there, and takes
what it finds there, so that a changed cost model can be judged again. ``--students 0`` only times predictions.

``--placements N`` shows how much of an error no model can foresee: it measures N students with vocabularies of
several sizes. That changes nothing in what is computed, only where things lie in memory. The runner places large blocks
as densely as they go (``runners/emulator/region.h``), so that little is left of it, with ONNX Runtime's memory arena or
without: of 8 students on a cortex-a72 and a cortex-a76 the median spread is 0.1 to 0.4 %, the largest 4.6 %.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import torch

from objectives.latency import cycles, known_profiles, load_profile, milliseconds
from objectives.latency.estimate import LatencyModel
from runners.emulator import find_installation, install
from runners.emulator.execution import EmulatedRun, run_each
from runners.measurements import load, save
from runners.record_estimates import measure_students
from runners.recorded_students import SPACES, draw_student
from space import TaskShape
from space.families import build_student, export_model

_LENGTHS = (16, 64, 128)
_FIRST_SEED = 900_000  # the recording takes its seeds below
_BATCH = 25
_TEACHER_VOCABULARY = 30_522  # of BERT
_MORE_WORDS = (0, 100, 777, 1500, -400)


def measure(folder: Path, students: int, spaces: list[str]) -> None:
    """Measure what a folder lacks."""
    installation = find_installation() or install(print)
    for space in spaces:
        for first in range(0, students, _BATCH):
            batch = [(space, _FIRST_SEED + number) for number in range(first, min(first + _BATCH, students))]
            for tokens in _LENGTHS:
                name = f"{space}-{first:04d}-{tokens}"
                if not (folder / f"{name}.json").exists():
                    save(measure_students(batch, tokens, known_profiles(), installation), folder, name)
                    print(f"measured {name}", flush=True)


def print_errors(folder: Path) -> None:
    """Errors of milliseconds, and the worst students."""
    models = {device: LatencyModel(load_profile(device)) for device in known_profiles()}
    errors = defaultdict(list)
    for measurement in load(folder):
        subject = measurement.subject
        config, shape, vocabulary_size = draw_student(subject["kind"], subject["seed"])
        for device, model in models.items():
            spent = cycles(measurement.counts(model.profile), model.profile)
            estimate = model.predict(config, shape, vocabulary_size, subject["tokens"])
            error = (estimate.compute_cycles + estimate.stall_cycles) / (spent.compute + spent.stall) - 1
            errors[device, subject["kind"], subject["tokens"]].append((abs(error), error, config.summary()))
    print("| device | space | tokens | students | median | maximum | worst student |\n|---|---|---|---|---|---|---|")
    for (device, space, tokens), found in sorted(errors.items()):
        middle, (_, worst, summary) = np.median([error for error, _, _ in found]), max(found)
        print(f"| {device} | {space} | {tokens} | {len(found)} | {middle:.1%} | {worst:+.1%} | {summary} |")


def print_placements(students: int, devices: list[str]) -> None:
    """Spread of emulated milliseconds over vocabularies of several sizes."""
    installation = find_installation() or install(print)
    print("| device | tokens | arena | students | spread, median | spread, largest | root mean square |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="shoebox-benchmark-") as name:
        paths: list[Path] = []
        for seed in range(_FIRST_SEED, _FIRST_SEED + students):
            config, shape, vocabulary_size = draw_student("transformer", seed)
            for more in _MORE_WORDS:
                torch.manual_seed(seed)
                model = build_student(config, shape, vocabulary_size + more)
                paths.append(Path(name) / f"student-{len(paths)}.onnx")
                exported = export_model(config, shape, vocabulary_size + more, model)
                paths[-1].write_bytes(exported.SerializeToString())
        for device in devices:
            profile = load_profile(device)
            for tokens, arena in product(_LENGTHS, (False, True)):
                runs = run_each([(path, tokens) for path in paths], profile, installation, arena=arena)
                counted = [milliseconds(run.counts, profile) for run in runs if isinstance(run, EmulatedRun)]
                times = np.array(counted).reshape(students, len(_MORE_WORDS))
                relative = times / times.mean(axis=1, keepdims=True) - 1
                spread, deviation = np.ptp(relative, axis=1), np.sqrt((relative**2).mean())
                figures = f"{np.median(spread):.1%} | {spread.max():.1%} | {deviation:.1%}"
                print(f"| {device} | {tokens} | {arena} | {students} | {figures} |", flush=True)


def print_speed(predictions: int) -> None:
    """Seconds of processor time for fresh candidates of one task, nothing remembered from before."""
    shape = TaskShape(outputs=2, segments=1, max_length=128)
    configs = [draw_student("transformer", seed)[0] for seed in range(predictions)]
    sizes = [round(config.vocabulary_keep * _TEACHER_VOCABULARY) for config in configs]
    model = LatencyModel(load_profile("cortex-a53"))
    gc.collect()
    gc.freeze()  # what the draws left behind is not ours to trace
    wall, processor = time.perf_counter(), time.process_time()
    for config, vocabulary_size in zip(configs, sizes, strict=True):
        model.predict(config, shape, vocabulary_size, 64)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    each = processor / predictions * 1e6
    print(f"{predictions} predictions: {processor:.2f} s of one core ({each:.0f} us each), {wall:.2f} s on the clock")


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Errors and speed of the latency model.")
    parser.add_argument("--students", type=int, default=100)
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--placements", type=int, default=0, help="students to measure with several vocabularies")
    parser.add_argument("--devices", nargs="+", choices=known_profiles(), default=known_profiles(), help="for those")
    parser.add_argument("--keep", type=Path, help="folder of raw counts")
    arguments = parser.parse_args()
    print_speed(arguments.predictions)
    with tempfile.TemporaryDirectory(prefix="shoebox-benchmark-") as name:
        folder = arguments.keep or Path(name)
        if arguments.students:
            measure(folder, arguments.students, arguments.spaces)
            print_errors(folder)
    if arguments.placements:
        print_placements(arguments.placements, arguments.devices)


if __name__ == "__main__":
    main()
