"""Warm against cold starts on invented tasks, over many seeds: `python tests/benchmarks/warm_start.py --seeds 10`.

Every seed draws a task, searches it (60 trials of known-cost), draws a second task that is related to it, unrelated or
its opposite, and searches that one cold and warm. Related tasks weigh what costs quality a little differently and have
their best learning rate elsewhere. Unrelated ones weigh it by factors of up to four, have the best learning rate half a
decade away, and want the reverse of half of the recipe. On the opposite task the worst student is the best.

Bytes are nearly those of the files, by a formula. Qualities that are told have the noise of one training; hypervolumes
are of the true ones. The similarity of the tasks is given as 0.5 for all of them: nothing tells the warm start which
kind it has before it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.trial import TrialState

from objectives.pareto import hypervolume
from search.bench import synthetic
from search.bench.synthetic import CEILING, CHANCE, TOKENS, WORDS, SyntheticProblem, latency
from search.samplers import PerTrialSampler, SamplerName, seeds
from search.samplers.known_cost import KnownCosts, OlderQualities, Prior
from search.warm_start.adapt import flat_values
from search.warm_start.agreement import withdraw
from search.warm_start.candidates import OldTrial
from search.warm_start.plan import WARM_START, WarmStart, choose_start, enqueue_missing
from space.config import Recipe, StudentConfig
from space.families.transformer import Layer, TransformerConfig
from space.families.transformer.config import PER_LAYER

KINDS = ("related", "unrelated", "opposite")
REFLECTED = {"label_weight": (0.0, 1.0), "logit_weight": (0.25, 2.0), "hidden_weight": (0.0, 4.0)}
SIMILARITY = 0.5
Curves: TypeAlias = dict[tuple[str, str], dict[str, list[float]]]


class Task(SyntheticProblem):
    """A synthetic problem with other weights.

    Args:
        spread: standard deviation of the logarithms of the weights.
        shift: standard deviation of the learning rate's optimum, in decades.
        reflected: how probable it is that a weight of the recipe wants the reverse.
        opposite: whether the worst is the best.
    """

    def __init__(self, seed: Sequence[int], spread: float, shift: float, reflected: float, opposite: bool) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        names = ("capacity", "bits", "words", "tokens", "recipe")
        self._weights = dict(zip(names, np.exp(spread * draw.standard_normal(len(names))), strict=True))
        self._faster = 10 ** float(shift * draw.standard_normal())
        self._reflected = [name for name in REFLECTED if draw.random() < reflected]
        self._other_start = draw.random() < reflected
        self._opposite = opposite

    def costs(self, params: Mapping[str, Any]) -> dict[str, float]:
        config = _built(params)
        return {"deployed_bytes": _about_bytes(config), "latency_ms": latency(config, TOKENS["latency_ms"])}

    def quality(self, params: Mapping[str, Any]) -> float:
        config, recipe = self.space.from_params(params)
        found = CHANCE + (CEILING - CHANCE) * math.exp(-self._loss(config, recipe) / (CEILING - CHANCE))
        return CHANCE + CEILING - found if self._opposite else found

    def _loss(self, config: Any, recipe: Recipe) -> float:
        changed: dict[str, Any] = {"learning_rate": min(1.0, recipe.learning_rate * self._faster)}
        for name in self._reflected:
            low, high = REFLECTED[name]
            changed[name] = low + high - getattr(recipe, name)
        if self._other_start:
            changed["initialization"] = "teacher" if recipe.initialization == "random" else "random"
        recipe, weights = recipe.model_copy(update=changed), self._weights
        loss = weights["capacity"] * synthetic._capacity_loss(config) + weights["bits"] * synthetic._bits_loss(config)
        loss += weights["words"] * 0.10 * math.exp(-config.vocabulary_keep / 0.09)
        for layer in config.layers:
            loss += weights["tokens"] * 0.03 * (1 - layer.token_keep) ** 2
        return loss + weights["recipe"] * 2 * synthetic._recipe_loss(recipe, config.width, len(config.layers))


def _built(params: Mapping[str, Any]) -> TransformerConfig:
    """The configuration, without the checks that would take most of the benchmark's time."""
    layers = tuple(
        Layer.model_construct(**{name: params[f"layer{index}.{name}"] for name in PER_LAYER})
        for index in range(params["depth"])
    )
    names = ("vocabulary_keep", "embedding_width", "embedding_bits", "block_size", "width", "heads", "activation")
    return TransformerConfig.model_construct(layers=layers, **{name: params[name] for name in names})


def _about_bytes(config: TransformerConfig) -> float:
    """Packed weights with a scale of 2 bytes a block, word pieces of 8 bytes, and the graph."""
    scales = 16 / config.block_size
    words, width = WORDS * config.vocabulary_keep, config.width
    bits = words * (config.embedding_width * (config.embedding_bits + scales) + 64)
    bits += config.embedding_width * width * (config.embedding_bits + scales)
    for layer in config.layers:
        bits += 4 * width * width * (layer.attention_bits + scales)
        bits += 2 * width * layer.ffn_width * (layer.ffn_bits + scales)
    return bits / 8 + 30_000 + 10_000 * len(config.layers)


def pair(kind: str, seed: int) -> tuple[Task, Task]:
    """An old task and a new one."""
    old = Task([seed, 0], 0.3, 0.15, 0.0, False)
    if kind == "related":
        return old, Task([seed, 1], 0.3, 0.15, 0.0, False)
    if kind == "unrelated":
        return old, Task([seed, 2], 0.7, 0.5, 0.5, False)
    return old, Task([seed, 0], 0.3, 0.15, 0.0, True)


def run(
    task: Task, sampler: SamplerName, seed: int, trials: int, start: WarmStart | None = None, prior: bool = True
) -> tuple[list[float], list[OldTrial]]:
    """One study: its hypervolume after each trained trial, and its trials."""
    known = None
    if sampler == "known-cost":
        older = [OlderQualities(SIMILARITY, k.params(), k.qualities) for k in start.knowledge] if start else []
        known = KnownCosts(
            task.space,
            task.costs,
            task.objectives,
            task.limits,
            task.reference,
            prior=Prior(older) if older and prior else None,
        )
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=PerTrialSampler(sampler, seed, known))
    if start:
        study.set_user_attr(WARM_START, start.model_dump(mode="json"))
        enqueue_missing(study)
    curve: list[float] = []
    points: list[list[float]] = []
    trained: list[OldTrial] = []
    worst = [task.reference[name] for name in task.objectives]
    while len(curve) < trials:
        trial = study.ask()
        drawn: tuple[StudentConfig, Recipe] = task.space.suggest(trial)
        costs = task.costs(trial.params)
        excess = costs["deployed_bytes"] / task.limits["deployed_bytes"] - 1
        trial.set_constraint("deployed_bytes", excess)
        if excess > 0:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        quality = task.evaluate(trial.params, seeds(seed, trial.number)[1])[-1]
        study.tell(trial, [quality, costs["latency_ms"]])
        withdraw(study)
        trained.append(OldTrial(trial.number, flat_values(*drawn), quality))
        points.append([task.quality(trial.params), costs["latency_ms"]])
        curve.append(hypervolume(points, worst, ["maximize", "minimize"]))
    return curve, trained


def one(job: tuple[int, int, list[SamplerName], list[str], bool]) -> Curves:
    """Curves of one seed by sampler and kind of task, cold and warm."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed, trials, samplers, kinds, without = job
    _, before = run(pair("related", seed)[0], "known-cost", 1000 + seed, 60)
    found: Curves = {}
    for kind in kinds:
        _, new = pair(kind, seed)
        olds: dict[str, tuple[float, Sequence[OldTrial]]] = {"old": (SIMILARITY, before)}
        start = choose_start(olds, new.space, new.costs, new.objectives, new.limits, trials)
        for sampler in samplers:
            curves = {
                "cold": run(new, sampler, seed, trials)[0],
                "warm": run(new, sampler, seed, trials, start)[0],
            }
            if sampler == "known-cost" and without:
                curves["warm, no prior"] = run(new, sampler, seed, trials, start, prior=False)[0]
            found[sampler, kind] = curves
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--samplers", default="known-cost,tpe")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--without-prior", action="store_true", help="known-cost also with the queue alone")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    rest = (options.trials, options.samplers.split(","), options.kinds.split(","), options.without_prior)
    results: list[Curves] = []
    jobs = [(seed, *rest) for seed in range(options.seeds)]
    with contextlib.ExitStack() as stack:
        if options.processes > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(options.processes))
        for found in pool.imap(one, jobs) if options.processes > 1 else map(one, jobs):
            results.append(found)
            show(results, options.trials)


def show(results: list[Curves], trials: int) -> None:
    """The table of the seeds so far."""
    counts = [count for count in (5, 10, 15, 20, 30, 40, 60, 100) if count <= trials]
    print(f"Hypervolume by trained trials, mean and standard error of {len(results)} seeds; in brackets that of the")
    print("difference to cold after as many trials.")
    for sampler, kind in results[0]:
        print(f"{sampler}, {kind}")
        studies = [found[sampler, kind] for found in results]
        for name in studies[0]:
            curves, cold = (np.array([found[which] for found in studies]) for which in (name, "cold"))
            print(f"  {name:15}", *(cell(curves, cold, count) for count in counts))
        warm, cold = (np.array([found[name] for found in studies]) for name in ("warm", "cold"))
        gap = warm[:, min(10, trials) - 1] - cold[:, -1]
        error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.nan
        print(f"  warm after 10 less cold after {trials}: {gap.mean():+.4f} ±{error:.4f}")
    print(flush=True)


def cell(curves: np.ndarray, cold: np.ndarray, count: int) -> str:
    values, gaps = curves[:, count - 1], (curves - cold)[:, count - 1]
    root = math.sqrt(len(values))
    error = values.std(ddof=1) / root if len(values) > 1 else math.nan
    text = f"{count}: {values.mean():.3f} ±{error:.3f}"
    if curves is not cold and np.any(gaps):
        text += f" ({gaps.mean():+.3f} ±{gaps.std(ddof=1) / root if len(values) > 1 else math.nan:.3f})"
    return f"{text:32}"


if __name__ == "__main__":
    main()
