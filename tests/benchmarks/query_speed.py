"""How long a query takes on a study of 10,000 trials.

    python tests/benchmarks/query_speed.py [--trials 10000] [--folder DIR] [--optuna]

Makes a study in a SQLite file of its own as a search would leave it (random configurations of SST-2's space, whole
records, one in twenty infeasible), then loads it and asks it. Processor time stands beside the time by the clock: it is
the one to read on a busy machine.
`--optuna` also times Optuna's own reading of the same file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from objectives.latency import LatencyReading
from objectives.limits import constraint_values
from runners.record import TrialRecord
from search import query
from search.states import BYTES, RECORD
from search.storage import create_study, open_storage
from search.study import OVERRIDES, SOURCE, STUDY_FILE, directions, load_study
from search.study_file import StudyFile, load_study_file
from space import JointSpace
from space.dimensions import Choices, Range, draw_from

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
    """Fill a storage. Rows are written in bulk: Optuna takes a transaction for each trial, minutes for all of them."""
    generator = np.random.default_rng(0)
    space = JointSpace(file.space)
    attributes = {STUDY_FILE: file.model_dump(mode="json"), OVERRIDES: {}, SOURCE: file.name}
    storage = open_storage(url)
    study = create_study(storage, file.name, directions(list(file.objectives)), attributes)._study_id
    distributions: dict[str, BaseDistribution] = {}
    draw = draw_from(generator)

    def choose(name: str, dimension: Choices | Range) -> Any:
        distributions.setdefault(name, distribution(dimension))
        return draw(name, dimension)

    trials, params, user, system, values = [], [], [], [], []
    for number in range(count):
        chosen = space.choose(choose)
        config, recipe = space.from_params(chosen)
        size = int(generator.integers(100_000, 2_200_000))
        milliseconds = size / 2e5 * float(generator.uniform(0.5, 2))
        quality = float(1 - np.exp(-size / 4e5) - generator.uniform(0, 0.2))
        constraints = constraint_values(file.limits, {"deployed_bytes": size, "latency_ms": milliseconds})
        infeasible = size > file.limits.deployed_bytes
        trials.append((number + 1, number, study, "PRUNED" if infeasible else "COMPLETE"))
        for name, value in chosen.items():
            found = distributions[name]
            params.append((number + 1, name, found.to_internal_repr(value), distribution_to_json(found)))
        user.append((number + 1, BYTES, str(size)))
        system += [(number + 1, f"constraints:{name}", repr(value)) for name, value in constraints.items()]
        if not infeasible:
            record = _record(file, number, config, recipe, size, milliseconds, quality)
            user.append((number + 1, RECORD, json.dumps(record)))
            values += [(number + 1, 0, quality, "FINITE"), (number + 1, 1, milliseconds, "FINITE")]
    tables: dict[str, list[Any]] = {
        "trials (trial_id, number, study_id, state)": trials,
        "trial_params (trial_id, param_name, param_value, distribution_json)": params,
        "trial_user_attributes (trial_id, key, value_json)": user,
        "trial_system_attributes (trial_id, key, value_json)": system,
        "trial_values (trial_id, objective, value, value_type)": values,
    }
    with storage.engine.begin() as connection:
        for table, rows in tables.items():
            places = ", ".join("?" * len(rows[0]))
            connection.exec_driver_sql(f"INSERT INTO {table} VALUES ({places})", rows)


def distribution(dimension: Choices | Range) -> BaseDistribution:
    """What Optuna stores of a dimension."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    kind = IntDistribution if dimension.whole else FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)  # type: ignore[arg-type]


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
        bundle=f"/shoebox/studies/{file.name}/trials/{number:05d}",
        versions=dict.fromkeys(("shoebox", "torch", "transformers", "onnx", "onnxruntime", "numpy", "python"), "1.0"),
    ).model_dump(mode="json")


def times_of(action: Callable[[], Any], repeats: int) -> str:
    """Median and worst time by the clock, and median processor time."""
    wall, processor = [], []
    for _ in range(repeats):
        begin, begin_processor = time.perf_counter(), time.process_time()
        action()
        wall.append(1e3 * (time.perf_counter() - begin))
        processor.append(1e3 * (time.process_time() - begin_processor))
    worst = f", worst {max(wall):,.0f}" if repeats > 1 else ""
    return f"{statistics.median(wall):,.0f} ms{worst}; processor {statistics.median(processor):,.0f} ms"


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
        print(f"load: {times_of(lambda: query.load(load_study('large', url)), 5)}")
        for name, ask in QUERIES.items():
            table = query.load("large", url)
            print(f"{name}: first {times_of(lambda table=table, ask=ask: ask(table), 1)}")  # type: ignore[misc]
            print(f"    again {times_of(lambda table=table, ask=ask: ask(table), 5)}")  # type: ignore[misc]
        if arguments.optuna:
            study = optuna.load_study(study_name="large", storage=open_storage(url))
            print(f"Optuna's own reading: {times_of(lambda: study.get_trials(deepcopy=False), 1)}")


if __name__ == "__main__":
    main()
