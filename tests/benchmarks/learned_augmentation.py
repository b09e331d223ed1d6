"""Learned against random against no augmentation, with few labelled examples (L2A, arXiv 2101.08106).

Of MRPC and SST-2, so many labelled examples are drawn by each seed; teacher, augmented text and students know no
others. One student of each seed is trained with each kind of augmentation, in the same number of steps, and judged as a
file on the whole validation split. `masked` is what the selector of `learned` chooses from, taken as it comes: the
difference of the two is the selector's. Lines that FILE holds already are not measured again.

    python tests/benchmarks/learned_augmentation.py --data DIR -o FILE.jsonl [--labels 100 500] [--seeds 3]

DIR holds the folders `mrpc` and `sst2`, each with train.parquet and validation.parquet.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from runners.plan import TrialPlan
from runners.prepared import Prepared
from runners.trial import prepare, run_trial
from space.config import Recipe
from space.families.transformer import Layer, TransformerConfig

TASKS: dict[str, dict[str, Any]] = {
    "mrpc": {"text": ["sentence1", "sentence2"], "max_length": 96},
    "sst2": {"text": "sentence", "max_length": 64},
}
METHODS = ("none", "random", "masked", "learned")
SHARE = 0.75  # of what a student sees
LAYER = Layer(ffn_width=256, token_keep=1.0, attention_bits=4, ffn_bits=4)
CONFIG = TransformerConfig(
    vocabulary_keep=0.2, embedding_width=64, embedding_bits=4, block_size=32, accuracy_level=0, width=128, heads=4,
    activation="gelu", layers=(LAYER, LAYER),
)  # fmt: skip
RECIPE = Recipe(
    learning_rate=1e-3, label_weight=0.3, logit_weight=1.0, hidden_weight=1.0, temperature=2.0,
    teacher_learning_rate=0.0, initialization="layers", transfer_share=SHARE,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--labels", nargs="+", type=int, default=[100, 500])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1000, help="augmented texts of each method")
    parser.add_argument("--episodes", type=int, default=150, help="rewards of the selector")
    parser.add_argument("--examples", type=int, default=6000, help="that a student sees")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = _read(arguments.output)
    known = {(row["task"], row["labels"], row["seed"], row["augmentation"]) for row in rows}
    for seed in range(arguments.seeds):
        for labels in arguments.labels:
            for name in arguments.tasks:
                missing = [method for method in METHODS if (name, labels, seed, method) not in known]
                if missing:
                    rows += _measure(name, labels, seed, missing, arguments)
    print(table(rows))


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _measure(
    name: str, labels: int, seed: int, methods: list[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory(prefix="shoebox-augmentation-") as folder:
        begin = time.process_time()
        plan = _plan(name, labels, seed, Path(folder), arguments)
        prepared = prepare(plan)
        prepared_in = time.process_time() - begin
        for method in methods:
            row = _train(plan, prepared, method, labels, seed, Path(folder) / method, arguments.examples)
            row = {"task": name, "labels": labels, "seed": seed, "augmentation": method, **row}
            row["preparation_cpu"] = round(prepared_in, 1)
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def _plan(name: str, labels: int, seed: int, folder: Path, arguments: argparse.Namespace) -> TrialPlan:
    train = pq.read_table(arguments.data / name / "train.parquet")
    chosen = np.random.default_rng([seed, labels]).choice(len(train), labels, replace=False)
    data = folder / "data"
    data.mkdir()
    pq.write_table(train.take(np.sort(chosen)), data / "train.parquet")
    validation = pq.read_table(arguments.data / name / "validation.parquet")
    pq.write_table(validation, data / "validation.parquet")
    augment = {"count": arguments.copies, "methods": METHODS[1:], "episodes": arguments.episodes}
    sections = {
        "study": "learned-augmentation",
        "task": {"data": {"path": str(data)}, "label": "label", "metric": "accuracy", **TASKS[name]},
        "teacher": {"epochs": max(4, 2000 // labels), "batch_size": 16, "seed": seed},
        "device": {"tokens": 32, "latency": "estimated"},
        "limits": {},
        "fidelity": {},
        "transfer": {"augment": augment, "seed": seed},
    }
    return TrialPlan.model_validate(sections)


def _train(
    plan: TrialPlan, prepared: Prepared, method: str, labels: int, seed: int, folder: Path, examples: int
) -> dict[str, Any]:
    begin = time.process_time()
    seen = labels if method == "none" else labels / (1 - SHARE)  # in an epoch
    changed = plan.model_copy(
        update={"fidelity": plan.fidelity.model_copy(update={"epochs": examples / seen, "batch_size": 32})}
    )
    recipe = RECIPE.model_copy(update={"augmentation": method})
    record = run_trial(changed, prepared, 0, CONFIG, recipe, seed, folder)
    return {
        "quality": round(record.quality, 4),
        "teacher": round(record.metrics["teacher_quality"], 4),
        "bytes": record.deployed_bytes,
        "cpu": round(time.process_time() - begin, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: mean and standard deviation over the seeds."""
    lines = [
        f"| task | labels | seeds | teacher | {' | '.join(METHODS)} |",
        f"|---|---|---|---|{'---|' * len(METHODS)}",
    ]
    for name, labels in sorted({(row["task"], row["labels"]) for row in rows}):
        own = [row for row in rows if (row["task"], row["labels"]) == (name, labels)]
        by_method = {method: [row["quality"] for row in own if row["augmentation"] == method] for method in METHODS}
        teachers = list({row["seed"]: row["teacher"] for row in own}.values())
        cells = [_cell(teachers), *(_cell(by_method[method]) for method in METHODS)]
        lines.append(f"| {name} | {labels} | {len(teachers)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}" if values else ""


if __name__ == "__main__":
    main()
