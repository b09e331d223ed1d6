"""A study on many simulated workers: how busy they are kept, and from where the driver holds them up.

The driver is real: it asks the sampler, writes to the storage and settles results, as `search.ledger` does, and its
time passes on a virtual clock on which trials only last. Ray is left out, and what workers write costs the driver
nothing. Trials last as long as a student of their size would: proportional to the latency that was proposed, times
what one training varies, around a median.

    python tests/benchmarks/cluster_simulation.py --workers 1000 --trials 3000 --samplers random tpe known-cost
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "search"), str(TESTS.parent), str(TESTS)]  # the conftest of the search's tests

SPREAD = 0.35  # standard deviation of the logarithm of how long equal trials last
MINUTES = (1, 5, 20, 60)


@dataclass
class Driver:
    """What the driver did: seconds of each kind of work in order, and when on the virtual clock."""

    ask: list[float] = field(default_factory=list)
    settle: list[float] = field(default_factory=list)
    handed: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    rejected: int = 0


def simulate(
    engine: Any, workers: int, median_seconds: float, clock: Callable[[], float], most_seconds: float
) -> Driver:
    """Run a study to its end, or until it has taken too long.

    Args:
        engine: `tests.search.conftest.Engine`: a ledger and a toy trial.
        workers: trials at a time.
        median_seconds: of a trial.
        clock: whose differences are the driver's time.
        most_seconds: of real time.
    """
    found = Driver()
    noise = np.random.default_rng(0)
    ending: list[tuple[float, int]] = []
    now = 0.0
    until = time.monotonic() + most_seconds
    while not engine.ledger.exhausted and time.monotonic() < until:
        if ending and ending[0][0] <= now:
            _, number = heapq.heappop(ending)
            start = clock()
            engine.ledger.settle(number)
            found.settle.append(clock() - start)
            now += found.settle[-1]
        elif len(ending) < workers and engine.ledger.has_room:
            start = clock()
            assignment = engine.ledger.next()
            found.ask.append(clock() - start)
            now += found.ask[-1]
            engine.work(assignment)
            size = engine.study._storage.get_trial(assignment.trial_id).user_attrs["deployed_bytes"]
            seconds = median_seconds * (size / 5e5) * float(np.exp(SPREAD * noise.standard_normal()))
            heapq.heappush(ending, (now + seconds, assignment.number))
            found.handed.append(now)
            found.spans.append((now, now + seconds))
        else:
            now = ending[0][0]
    found.rejected = engine.ledger.counts.infeasible
    return found


def utilisation(found: Driver, workers: int) -> tuple[float, float]:
    """Share of the workers' time spent in trials: over the whole study, and between filling up and the last start."""
    last = max(end for _, end in found.spans)
    whole = sum(end - start for start, end in found.spans) / (workers * last)
    begin, end = found.handed[min(workers, len(found.handed)) - 1], found.handed[-1]
    if end <= begin:
        return whole, float("nan")
    inside = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in found.spans)
    return whole, inside / (workers * (end - begin))


def report(sampler: str, found: Driver, workers: int, median_seconds: float) -> str:
    whole, steady = utilisation(found, workers)
    tail = slice(-max(1, len(found.ask) // 3), None)  # the last third: what a long study costs
    per_trial = float(np.mean(found.ask[tail]) + np.mean(found.settle[-len(found.ask[tail]) :] or [0.0]))
    ask, settle = np.quantile(found.ask, [0.5, 0.95]) * 1e3, np.quantile(found.settle or [0.0], [0.5, 0.95]) * 1e3
    lasted = np.median([end - start for start, end in found.spans])
    most = ", ".join(f"{minutes} min: {minutes * 60 / per_trial:,.0f}" for minutes in MINUTES)
    return (
        f"{sampler}: {len(found.ask)} trials on {workers} workers, {lasted:.0f} s each (median), "
        f"{found.rejected} proposals rejected\n"
        f"  utilisation {whole:.1%} of the whole study, {steady:.1%} once every worker had had a trial; "
        f"all were busy after {found.handed[min(workers, len(found.handed)) - 1]:.0f} s\n"
        f"  driver per trial: ask {ask[0]:.1f} ms (p50), {ask[1]:.1f} (p95); settle {settle[0]:.1f}, {settle[1]:.1f}; "
        f"both in the last third {per_trial * 1e3:.1f} ms (mean)\n"
        f"  workers that it can feed, by the length of a trial: {most}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "known-cost"])
    parser.add_argument("--seconds", type=float, default=300, help="median of a trial")
    parser.add_argument("--most-minutes", type=float, default=60, help="of real time for a sampler; then it reports")
    parser.add_argument("--storage", help="URL of an empty storage; a SQLite file by default")
    parser.add_argument(
        "--cpu-clock",
        action="store_true",
        help="count the driver's CPU time instead of the time of day: for a machine that others use",
    )
    options = parser.parse_args()
    clock = time.process_time if options.cpu_clock else time.perf_counter
    for sampler in options.samplers:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SHOEBOX_HOME"] = folder
            from conftest import HERE, Engine

            from search.study_file import load_study_file

            overrides = {"sampler": sampler, "trials": options.trials, "name": f"simulation-{sampler}"}
            file = load_study_file(HERE / "toy_study.yaml", overrides)
            limits = file.limits.model_copy(update={"deployed_bytes": 1_000_000})
            engine = Engine(file.model_copy(update={"limits": limits}), options.storage)
            found = simulate(engine, options.workers, options.seconds, clock, 60 * options.most_minutes)
            print(report(sampler, found, options.workers, options.seconds), flush=True)


if __name__ == "__main__":
    main()
