"""How well measurements in the emulator repeat: idle and beside busy loops, alone and in shuffled batches.

    python tests/benchmarks/emulator_repeatability.py [--repeats 10] [--models 5] [--loops 4]

Spread is (most - least) / median. Targets: 5e-5 of instructions, 1e-3 of modelled milliseconds.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emulator_models import TOKENS, write_students

from objectives.latency import load_profile, milliseconds
from runners.emulator import EmulatedRun, install, run_each
from runners.emulator.execution import raised

# Ends by itself where this script is killed.
LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--device", default="cortex-a53")
    options = parser.parse_args()
    installation, profile = install(print), load_profile(options.device)
    order = random.Random(0)
    print(f"{options.device}, {TOKENS} tokens, {options.repeats} measurements, load {os.getloadavg()[0]:.1f} at start")
    print("| machine | batch | model | instructions | spread | ms | spread | L1D misses, spread | peak heap, spread |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        models = write_students(Path(folder), options.models)

        def together(paths: Sequence[Path]) -> list[EmulatedRun]:
            return [raised(run) for run in run_each([(path, TOKENS) for path in paths], profile, installation)]

        everything: dict[Path, list[EmulatedRun]] = {path: [] for path in models}
        for machine, loops in [("idle", 0), (f"{options.loops} busy loops", options.loops)]:
            for batch in ("alone", "shuffled"):
                found: dict[Path, list[EmulatedRun]] = {path: [] for path in models}
                with busy_loops(loops):
                    for _ in range(options.repeats):
                        shuffled = order.sample(models, len(models))
                        runs = together(shuffled) if batch == "shuffled" else [together([p])[0] for p in shuffled]
                        for path, run in zip(shuffled, runs, strict=True):
                            found[path].append(run)
                for path, runs in found.items():
                    everything[path] += runs
                    print(_row(machine, batch, path, runs, profile), flush=True)
        for path, runs in everything.items():
            print(_row("all", "all", path, runs, profile))


def _row(machine: str, batch: str, path: Path, runs: Sequence[EmulatedRun], profile: object) -> str:
    instructions = [run.counts.instructions for run in runs]
    times = [milliseconds(run.counts, profile) for run in runs]  # type: ignore[arg-type]
    misses = [run.counts.caches.l1d_misses for run in runs]
    heaps = [run.peak_heap_bytes for run in runs]
    return (
        f"| {machine} | {batch} | {path.stem} | {statistics.median(instructions):,.0f} | {spread(instructions):.1e} | "
        f"{statistics.median(times):.3f} | {spread(times):.1e} | {spread(misses):.1e} | {spread(heaps):.1e} |"
    )


if __name__ == "__main__":
    main()
