"""How long a measurement in the emulator takes, with caches, at 32 tokens: alone and in a batch of 10.

    python tests/benchmarks/emulator_speed.py [--runs 5] [--jobs 2]

Targets: 2.5 s for a single model, 1.0 s per model in a batch of 10 (medians, 2 cores).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

from emulator_models import TOKENS, write_students

from objectives.latency import load_profile
from runners.cores import share_of_cores
from runners.emulator import install, run_each
from runners.emulator.execution import raised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=share_of_cores())
    parser.add_argument("--device", default="cortex-a53")
    options = parser.parse_args()
    installation, profile = install(print), load_profile(options.device)
    print(f"{options.device}, {TOKENS} tokens, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| models | at a time | s per model: median | least | most | CPU s per model (median) |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        models = write_students(Path(folder), 10)
        for count, jobs in [(1, 1), (10, 1), (10, options.jobs)]:
            wall, spent = [], []
            for _ in range(options.runs):
                before, start = _cpu_seconds(), time.perf_counter()
                for run in run_each([(path, TOKENS) for path in models[:count]], profile, installation, jobs=jobs):
                    raised(run)
                wall.append((time.perf_counter() - start) / count)
                spent.append((_cpu_seconds() - before) / count)
            figures = f"{statistics.median(wall):.2f} | {min(wall):.2f} | {max(wall):.2f}"
            print(f"| {count} | {jobs} | {figures} | {statistics.median(spent):.2f} |", flush=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
