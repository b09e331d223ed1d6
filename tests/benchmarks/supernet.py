"""What a supernet is worth: `python tests/benchmarks/supernet.py FILE --data DIR [--configurations 20]`.

Trains a supernet for the space of the recorded benchmark (`search/bench/sst2.yaml`, with fewer vocabularies) on a
sample of SST-2, and then random configurations three ways: alone (from the teacher's layers, all epochs), inherited and
fine-tuned for a share of them, and inherited as they are. DIR holds `train.*` and `validation.*` of SST-2. Each result
is a line of FILE as soon as it is there; the same command goes on where it was stopped, and prints what there is.

Costs are process seconds of this process: what other processes do to the machine is not in them. Hypervolumes are those
of quality against estimated latency, in percent of what all trainings together reach, against the worst quality and
latency of all; the order of configurations is drawn 500 times.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from scipy.stats import kendalltau, spearmanr

from objectives.pareto import hypervolume
from runners.distill import Distillation
from runners.evaluate import run_student
from runners.initialization import start_from_embeddings, start_from_layers
from runners.plan import ONLY, FidelitySpec
from runners.prepared import Prepared, prepare
from runners.supernet.prepare import start_from_supernet
from runners.teacher.origin import Origin
from runners.trial import cost_predictor
from search.bench.record import TRAIN_EXAMPLES
from search.bench.sample import with_sample
from search.bench.table import study_path
from search.study_file import StudyFile, load_study_file
from space.config import Recipe
from space.families import Student, build_student
from space.joint import JointSpace

KEEPS = [0.05, 0.1, 0.2]
RECIPE: dict[str, Any] = {
    "learning_rate": 2e-3,
    "label_weight": 0.25,
    "logit_weight": 1.0,
    "hidden_weight": 1.0,
    "temperature": 2.0,
    "teacher_learning_rate": 0.0,
}
WAYS = ("alone", "tuned", "inherited")
SHARES = (50, 80, 90, 95, 100)


class Bench:
    """The study, its supernet, and the three ways to a student.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        data = load_study_file(study_path("sst2"), {"data": options.data}).model_dump(mode="json")
        data["space"]["vocabulary_keep"] = KEEPS
        data["space"]["recipe"]["initialization"] = ["layers", "supernet"]
        data["device"]["latency"] = "estimated"
        data["fidelity"] |= {"epochs": options.epochs, "train_examples": options.examples}
        data["supernet"] = {
            "epochs": options.supernet_epochs,
            "train_examples": options.examples,
            "random_samples": options.random_samples,
        }
        self.file = with_sample(StudyFile.model_validate(data), options.file.with_suffix(".data"), TRAIN_EXAMPLES)
        self._plan = self.file.plan()
        self.prepared: Prepared = prepare(self._plan)
        self._latency = cost_predictor(self._plan, self.prepared)
        (self._taught,) = self.prepared.tasks.values()
        self._origin = Origin.of([self._taught.teacher])
        self._encoder, self._statistics = self._origin.encoder(), self._taught.statistics()

    def train(self, number: int, way: str) -> dict[str, Any]:
        """One configuration one way: its quality, what it costs to train, and its latency."""
        config, _ = JointSpace(self.file.space).draw(np.random.default_rng([7, number]))
        own = self.prepared.ranked_by(config.vocabulary_score)
        vocabulary, size = own.vocabulary, own.vocabulary.size(config.vocabulary_keep)
        supernet = self.prepared.supernet
        assert supernet is not None
        recipe = Recipe(**RECIPE, initialization="layers" if way == "alone" else "supernet", clipping="auto")
        course = own.course(ONLY, size, recipe)
        begin = time.process_time()
        torch.manual_seed(number)
        student: Student = build_student(config, own.shape, size)
        if way == "alone":
            start_from_embeddings(student, self._origin, vocabulary, config.vocabulary_keep)
            start_from_layers(
                student, self._origin, self._encoder, self._statistics, vocabulary, config.vocabulary_keep
            )
        else:
            start_from_supernet(student, supernet, config, vocabulary)
        if way == "inherited":
            student.use_clipping("auto")
            student.set_pruning(1.0)
        else:
            epochs = self._options.epochs * (1 if way == "alone" else self._options.tuned)
            fidelity = FidelitySpec(
                epochs=epochs, batch_size=self.file.fidelity.batch_size, train_examples=self._options.examples
            )
            training = Distillation(
                student, [course], recipe, fidelity, vocabulary.tokens(size), number, torch.device("cpu")
            )
            if way == "tuned":
                training.load_projection(*supernet.projection_of(student.width))
            training.run()
        seconds = time.process_time() - begin
        task = self._taught.task
        logits = run_student(student, own.encode(ONLY, size, task.validation))
        judging = time.process_time() - begin - seconds
        taught = log_softmax(self._taught.teacher.validation_logits, -1)
        divergence = float((np.exp(taught) * (taught - log_softmax(logits, -1))).sum(-1).mean())
        return {
            "number": number,
            "way": way,
            "quality": float(task.quality(task.validation, logits)),
            "divergence": divergence,
            "seconds": round(seconds, 2),
            "judging": round(judging, 2),
            "latency_ms": self._latency(config)["latency_ms"],
            "config": config.summary(),
        }


def report(rows: list[dict[str, Any]], supernet: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what is known so far."""
    by_way = {way: {row["number"]: row for row in rows if row["way"] == way} for way in WAYS}
    numbers = sorted(set.intersection(*(set(found) for found in by_way.values())))
    print(f"{len(numbers)} configurations, {options.examples} sentences; supernet: {supernet['steps']} steps")
    print(f"supernet: {supernet['process_seconds']:.0f} process seconds")
    if len(numbers) < 3:
        return
    columns = {
        name: {way: np.array([by_way[way][number][name] for number in numbers]) for way in WAYS}
        for name in ("quality", "divergence", "seconds", "latency_ms", "judging")
    }
    for way in WAYS:
        quality, seconds = columns["quality"][way], columns["seconds"][way]
        line = f"{way:9}: accuracy {quality.mean():.3f} ±{quality.std(ddof=1):.3f} (best {quality.max():.3f})"
        line += f", divergence {columns['divergence'][way].mean():.3f}, {seconds.mean():.2f} process seconds each"
        if way != "alone":
            for name in ("quality", "divergence"):
                pair = columns[name][way], columns[name]["alone"]
                line += (
                    f"; {name}: Spearman {spearmanr(*pair).statistic:.2f}, Kendall {kendalltau(*pair).statistic:.2f}"
                )
        print(line)
    _report_costs(columns, float(supernet["process_seconds"]))


def _report_costs(columns: dict[str, dict[str, np.ndarray]], supernet: float) -> None:
    """Costs to shares of the hypervolume of all trainings alone, over orders of configurations."""
    latency = columns["latency_ms"]["alone"]
    every = np.concatenate([np.stack([columns["quality"][way], latency], 1) for way in WAYS])
    worst = [float(every[:, 0].min()), float(every[:, 1].max())]

    def volume(points: np.ndarray) -> float:
        return hypervolume(points, worst, ["maximize", "minimize"]) if len(points) else 0.0

    points = {way: np.stack([columns["quality"][way], latency], 1) for way in WAYS}
    seconds = {way: columns["seconds"][way] + columns["judging"][way] for way in WAYS}
    goal, whole = volume(points["alone"]), volume(every)
    shown = ", ".join(f"{way} {100 * volume(points[way]) / whole:.1f} %" for way in WAYS)
    print(f"hypervolume of all configurations: {shown}")

    def alone(order: np.ndarray) -> list[float]:
        return _costs_to(points["alone"][order], seconds["alone"][order], 0.0, goal, volume)

    def tuned(order: np.ndarray) -> list[float]:
        return _costs_to(points["tuned"][order], seconds["tuned"][order], supernet, goal, volume)

    def screened(order: np.ndarray) -> list[float]:
        best = _by_gain(points["inherited"], order, volume)
        return _costs_to(
            points["alone"][best], seconds["alone"][best], supernet + seconds["inherited"].sum(), goal, volume
        )

    generator = np.random.default_rng(0)
    orders = [generator.permutation(len(latency)) for _ in range(500)]
    ways: dict[str, Callable[[np.ndarray], list[float]]] = {
        "alone": alone,
        "supernet, then each tuned": tuned,
        "supernet, then the best by it alone": screened,
    }
    print(f"process seconds to {', '.join(f'{share} %' for share in SHARES)} of the hypervolume of all alone (mean)")
    for name, way in ways.items():
        found = np.array(
            [way(order) for order in (orders if name != "supernet, then the best by it alone" else orders[:20])]
        )
        print(f"  {name}: " + ", ".join("never" if math.isinf(value) else f"{value:.0f}" for value in found.mean(0)))


def _costs_to(
    points: np.ndarray, seconds: np.ndarray, before: float, goal: float, volume: Callable[[np.ndarray], float]
) -> list[float]:
    """The cost after which each of `SHARES` of a hypervolume is reached, infinite where it never is."""
    spent = before + np.cumsum(seconds)
    reached = np.array([volume(points[: count + 1]) for count in range(len(points))])
    found = []
    for share in SHARES:
        enough = np.flatnonzero(reached >= goal * share / 100 - 1e-12)
        found.append(float(spent[enough[0]]) if len(enough) else math.inf)
    return found


def _by_gain(points: np.ndarray, order: np.ndarray, volume: Callable[[np.ndarray], float]) -> np.ndarray:
    """An order in which each next configuration adds most to the hypervolume of what a proxy says of those before."""
    left, taken = list(order), list[int]()
    while left:
        gains = [volume(points[[*taken, number]]) for number in left]
        taken.append(left.pop(int(np.argmax(gains))))
    return np.array(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="results, a JSON object per line")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--epochs", type=float, default=1.0, help="of a training alone")
    parser.add_argument("--tuned", type=float, default=0.25, help="share of them that an inherited student gets")
    parser.add_argument("--supernet-epochs", type=float, default=2.0)
    parser.add_argument("--random-samples", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {key: value for key, value in vars(options).items() if key not in ("file", "data", "configurations")}
    lines = options.file.read_text(encoding="utf-8").splitlines() if options.file.exists() else []
    if lines and json.loads(lines[0]) != settings:
        raise SystemExit(f"{options.file} is of other settings: {lines[0]}")
    rows = [json.loads(line) for line in lines[1:]]
    bench = Bench(options)
    assert bench.prepared.supernet is not None
    done = {(row["number"], row["way"]) for row in rows}
    with options.file.open("a", encoding="utf-8") as file:
        if not lines:
            file.write(json.dumps(settings) + "\n")
        for number in range(options.configurations):
            for way in WAYS:
                if (number, way) not in done:
                    rows.append(bench.train(number, way))
                    file.write(json.dumps(rows[-1]) + "\n")
                    file.flush()
    report(rows, bench.prepared.supernet.record, options)


if __name__ == "__main__":
    main()
