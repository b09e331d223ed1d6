"""Warm against cold starts on real tasks: `SHOEBOX_HOME=... python tests/benchmarks/warm_start_real.py --data FOLDER`.

For every pair of an old and a new task and every seed: a study of the old task, a cold one of the new task, and a warm
one that starts from the old study. Trains little, with estimated latencies, so that a trial takes seconds. Studies are
kept in the storage: one that was interrupted goes on when the script is called again, and one that is done is not done
again. FOLDER holds a folder for each task, with train.* and validation.*.

Hypervolumes are in percent of what all studies of the new task together reach, against the worst quality and latency of
all of them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from objectives.pareto import Direction, hypervolume
from search.run import run_study
from search.study import Study, load_study
from search.study_file import StudyFile, load_study_file
from space.errors import InputError

PAIRS = "sst2:amazon_blitzer,mrpc:rte,banking77:stsb"
OF_ANOTHER = {"amazon_blitzer": "sst2"}  # tasks without a shipped study, and the one whose settings they have
COLUMNS = {"banking77": {"text": "sentence", "label": "intent"}}  # where they differ from the hub's
DIRECTIONS: list[Direction] = ["maximize", "minimize"]


def study_file(task: str, name: str, trials: int, seed: int, options: argparse.Namespace) -> StudyFile:
    file = load_study_file(
        OF_ANOTHER.get(task, task),
        {
            "name": name,
            "data": options.data / task,
            **COLUMNS.get(task, {}),
            "trials": trials,
            "workers": options.workers,
            "seed": seed,
            "sampler": options.sampler,
            "latency": "estimated",
        },
    )
    fidelity = file.fidelity.model_copy(update={"train_examples": options.examples, "epochs": options.epochs})
    return file.model_copy(update={"fidelity": fidelity})


def searched(file: StudyFile, warm_start: tuple[str, ...] = ()) -> Study:
    try:
        load_study(file.name)
    except InputError:
        return run_study(file, warm_start=warm_start)
    return run_study(file, resume=True, warm_start=warm_start)


def points(study: Study) -> list[list[float]]:
    """Qualities and latencies in the order of training."""
    return [study.values(record) for record in study.records()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--old-trials", type=int, default=20)
    parser.add_argument("--cold-trials", type=int, default=30)
    parser.add_argument("--warm-trials", type=int, default=10)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--sampler", default="known-cost")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for pair in options.pairs.split(","):
        old, new = pair.split(":")
        cold, warm = [], []
        for seed in range(options.seeds):
            before = study_file(old, f"{old}-old-{seed}", options.old_trials, 100 + seed, options)
            searched(before)
            cold.append(points(searched(study_file(new, f"{new}-cold-{seed}", options.cold_trials, seed, options))))
            after = study_file(new, f"{new}-from-{old}-{seed}", options.warm_trials, seed, options)
            warm.append(points(searched(after, (before.name,))))
            tell(f"{old} to {new}", cold, warm, options)


def tell(title: str, cold: list[list[list[float]]], warm: list[list[list[float]]], options: argparse.Namespace) -> None:
    """Mean and standard deviation over the seeds so far."""
    every = [point for study in (*cold, *warm) for point in study]
    worst = [min(point[0] for point in every), max(point[1] for point in every)]
    whole = hypervolume(every, worst, DIRECTIONS)
    print(f"{title}, {len(cold)} seeds; worst quality {worst[0]:.3f}, latency {worst[1]:.2f} ms")
    checkpoints = [("cold", cold, count) for count in (4, 10, 20, options.cold_trials)]
    checkpoints += [("warm", warm, count) for count in (4, options.warm_trials)]
    for name, studies, count in checkpoints:
        found = np.array([100 * hypervolume(study[:count], worst, DIRECTIONS) / whole for study in studies])
        best = np.array([max(point[0] for point in study[:count]) for study in studies])
        spread, wide = (values.std(ddof=1) if len(values) > 1 else math.nan for values in (found, best))
        shown = f"hypervolume {found.mean():5.1f} % ±{spread:.1f}, best quality {best.mean():.4f} ±{wide:.4f}"
        print(f"  {name} after {count:2}: {shown}", flush=True)


if __name__ == "__main__":
    main()
