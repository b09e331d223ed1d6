"""How long a query takes on a study of 10,000 trials.

    python tests/benchmarks/query_speed.py [--trials 10000] [--folder DIR] [--optuna]

Makes a study in a SQLite file of its own (through Optuna, as a search would leave it: random configurations of the
default space with four user attributes and two constraints each, one in eight infeasible), then loads it and asks it.
`--optuna` also times Optuna's own reading of the same file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from objectives.latency import LatencyReading
from objectives.limits import constraint_values
from runners.record import TrialRecord
from search import query
from search.ledger import BYTES, RECORD
from search.storage import create_study, open_storage
from search.study import OVERRIDES, SOURCE, STUDY_FILE, directions, load_study
from search.study_file import StudyFile, load_study_file
from space import JointSpace

QUERIES: dict[str, Callable[[query.TrialTable], Any]] = {
    "front": lambda table: query.select(table).front().records,
    "front of three objectives": lambda table: (
        query.select(table, objectives=["quality", "latency_ms", "deployed_bytes"]).front().records
    ),
    "where on measures": lambda table: (
        query.select(table, where="latency_ms < 5 and deployed_bytes < 1.5e6 and quality > 0.85").front().records
    ),
    "where on parameters": lambda table: (
        query.select(table, where="depth <= 2 and layer0.ffn_bits in (4, 8) and not recipe.temperature > 4")
        .front()
        .records
    ),
    "knee": lambda table: query.select(table).knee().records,
    "within 1%": lambda table: query.select(table).within("1%").records,
    "hypervolume": lambda table: query.select(table).hypervolume(),
}


def make_study(url: str, file: StudyFile, count: int) -> None:
    """Fill a storage."""
    generator = np.random.default_rng(0)
    space = JointSpace(file.space)
    attributes = {STUDY_FILE: file.model_dump(mode="json"), OVERRIDES: {}, SOURCE: file.name}
    study = create_study(open_storage(url), file.name, directions(list(file.objectives)), attributes)
    trials = []
    for number in range(count):
        config, recipe = space.draw(generator)
        params = space.to_params(config, recipe)
        size = int(generator.integers(100_000, 2_200_000))
        milliseconds = size / 2e5 * float(generator.uniform(0.5, 2))
        quality = float(1 - np.exp(-size / 4e5) - generator.uniform(0, 0.2))
        record = _record(file, number, config, recipe, size, milliseconds, quality)
        costs = {"deployed_bytes": size, "latency_ms": milliseconds}
        infeasible = size > file.limits.deployed_bytes
        trial = optuna.trial.create_trial(
            state=TrialState.PRUNED if infeasible else TrialState.COMPLETE,
            values=None if infeasible else [quality, milliseconds],
            params=params,
            distributions={name: CategoricalDistribution([value]) for name, value in params.items()},
            user_attrs={BYTES: size} | ({} if infeasible else {RECORD: record}),
            system_attrs={
                f"constraints:{name}": value for name, value in constraint_values(file.limits, costs).items()
            },
        )
        trials.append(trial)
    study.add_trials(trials)


def _record(
    file: StudyFile, number: int, config: Any, recipe: Any, size: int, milliseconds: float, quality: float
) -> Any:
    classes = dict.fromkeys(("load", "store", "simd", "integer", "branch", "other"), 100000 + number)
    reading = LatencyReading(
        milliseconds=milliseconds,
        backend="emulated",
        device="cortex-a53",
        calibrated=False,
        tokens=25,
        instructions=size,
        instruction_classes=classes,
        cache_misses={"l1d": 1000, "l1i": 100, "l2": 10},
        peak_heap_bytes=8_000_000 + size,
        versions={"qemu": "10.0", "onnxruntime": "1.31", "runner": "0123456789ab", "cost_model": "0123456789ab"},
    )
    steps = ("latency", "tokenize", "teacher", "pretrain", "train", "export", "evaluate")
    return TrialRecord(
        trial=number,
        config=config,
        recipe=recipe,
        seed=number,
        metric=file.metric,
        quality=quality,
        metrics={"teacher_quality": 0.9, "retention": quality / 0.009, "final_loss": 0.1, "examples_seen": 1e5},
        deployed_bytes=size,
        latency=reading,
        long_latency=reading.model_copy(update={"tokens": 52, "milliseconds": 2 * milliseconds}),
        seconds=dict.fromkeys(steps, 1.0),
        bundle=f"/home/user/.shoebox/studies/{file.name}/trials/{number:05d}",
        versions=dict.fromkeys(("shoebox", "torch", "transformers", "onnx", "onnxruntime", "numpy", "python"), "1.0"),
    ).model_dump(mode="json")


def seconds_of(action: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median and worst wall time."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times), max(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time queries of a large study.")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to make the study, or where it was made before")
    parser.add_argument("--optuna", action="store_true", help="time Optuna's own reading too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoebox-query-speed-") as temporary:
        database = (arguments.folder or Path(temporary)) / f"{arguments.trials}.db"
        url = f"sqlite:///{database}"
        file = load_study_file("sst2", {"name": "large"})
        if not database.exists():
            begin = time.perf_counter()
            make_study(url, file, arguments.trials)
            print(f"made in {time.perf_counter() - begin:.1f} s, {database.stat().st_size / 1e6:.0f} MB")
        print(f"{arguments.trials} trials; load average {os.getloadavg()[0]:.1f}")
        load, worst = seconds_of(lambda: query.load(load_study("large", url)), 5)
        print(f"load: {load:.2f} s, worst {worst:.2f} s")
        table = query.load("large", url)
        for name, ask in QUERIES.items():
            begin = time.perf_counter()
            ask(table)
            first = time.perf_counter() - begin
            median, worst = seconds_of(lambda ask=ask: ask(table), 5)  # type: ignore[misc]
            print(f"{name}: first {1e3 * first:.0f} ms, then median {1e3 * median:.0f} ms, worst {1e3 * worst:.0f} ms")
        if arguments.optuna:
            study = optuna.load_study(study_name="large", storage=open_storage(url))
            print(f"Optuna's own reading: {seconds_of(lambda: study.get_trials(deepcopy=False), 1)[0]:.1f} s")


if __name__ == "__main__":
    main()
