"""What the engine itself costs: searches of trials that do nothing, and proposals after many finished trials.

    PYTHONPATH=.:tests/search python tests/benchmarks/engine_overhead.py [--trials 500] [--workers 1]
        [--sampler random] [--early-stopping] [--storage URL] [--ask 1000]

Prints the milliseconds between the ends of trials that follow each other (a worker each: the time of one whole turn of
suggest, hand out, run, write, settle), and how long a resume takes with all trials finished. With --ask N, the
milliseconds of one proposal after N finished trials in the storage, sampler by sampler.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SAMPLERS = ("random", "qmc", "tpe", "nsga2", "known-cost")


def study_file(folder: Path, trials: int, workers: int, sampler: str, early_stopping: bool) -> Path:
    text = (HERE.parent / "search" / "toy_study.yaml").read_text().replace("600000", "20000000")
    early = ", early_stopping: {}" if early_stopping else ""
    search = f"search: {{sampler: {sampler}, trials: {trials}, seed: 0, workers: {workers}{early}}}"
    lines = [search if line.startswith("search:") else line for line in text.splitlines()]
    file = folder / "toy.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file


def overhead(arguments: argparse.Namespace, folder: Path) -> None:
    """A whole search of no-op trials, and a resume of it."""
    from search.ledger import Ledger
    from search.run import run_study

    ends: list[float] = []
    settle = Ledger.settle

    def timed_settle(self: Ledger, *given: object, **named: object) -> object:
        found = settle(self, *given, **named)  # type: ignore[arg-type]
        ends.append(time.perf_counter())
        return found

    Ledger.settle = timed_settle  # type: ignore[method-assign, assignment]
    file = study_file(folder, arguments.trials, arguments.workers, arguments.sampler, arguments.early_stopping)
    begin = time.perf_counter()
    run_study(file, storage=arguments.storage, pipeline="toy_pipeline")
    whole = time.perf_counter() - begin
    Ledger.settle = settle  # type: ignore[method-assign]
    gaps = 1000 * np.array([b - a for a, b in pairwise(ends)])
    for name, part in (("all", gaps), ("the last 100", gaps[-100:])):
        middle, high = np.percentile(part, [50, 95])
        print(
            f"{arguments.trials} trials, {arguments.workers} workers, {arguments.sampler}: ms per trial of {name}: "
            f"p50 {middle:.0f}, p95 {high:.0f}"
        )
    print(f"the whole search took {whole:.1f} s")
    begin = time.perf_counter()
    run_study(file, storage=arguments.storage, resume=True, pipeline="toy_pipeline")
    print(f"a resume with {arguments.trials} finished trials took {time.perf_counter() - begin:.1f} s")


def ask(arguments: argparse.Namespace, folder: Path) -> None:
    """Proposals after many finished trials."""
    import optuna
    import toy_pipeline
    from conftest import Engine

    from search.study_file import load_study_file

    for sampler in SAMPLERS:
        file = load_study_file(study_file(folder, 10 * arguments.ask, 1, sampler, False), {"name": f"ask-{sampler}"})
        engine = Engine(file, arguments.storage)
        random = optuna.samplers.RandomSampler(seed=0)
        generator = np.random.default_rng(0)
        own, engine.study.sampler = engine.study.sampler, random
        reference = engine.study
        memory = optuna.create_study(directions=["maximize", "minimize"], sampler=random)
        for _ in range(arguments.ask):  # filled in one transaction each, without a worker
            trial = memory.ask()
            proposal = engine.ledger.propose(trial)
            size = proposal.deployed_bytes
            frozen = optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=[float(generator.random()), toy_pipeline.latency(size)],
            )
            reference.add_trial(frozen)
            memory.tell(trial, [0.0, 0.0])
        engine.study.sampler = own
        begin = time.perf_counter()
        engine = Engine(file, arguments.storage)
        loaded = time.perf_counter() - begin
        times = []
        for _ in range(arguments.asks):
            begin = time.perf_counter()
            assignment = engine.ledger.next()
            times.append(1000 * (time.perf_counter() - begin))
            engine.work(assignment)
            engine.ledger.settle(assignment.number)
        middle, high = np.percentile(times, [50, 95])
        print(
            f"{sampler}: ms of one proposal with {arguments.ask} finished trials: p50 {middle:.0f}, p95 {high:.0f} "
            f"(of {arguments.asks}; the ledger read them in {loaded:.1f} s)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--early-stopping", action="store_true")
    parser.add_argument("--storage")
    parser.add_argument("--ask", type=int, default=0)
    parser.add_argument("--asks", type=int, default=20)
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "search"))
    with tempfile.TemporaryDirectory() as name:
        os.environ["SHOEBOX_HOME"] = name
        (ask if arguments.ask else overhead)(arguments, Path(name))
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
