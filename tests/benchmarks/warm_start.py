"""Warm against cold starts over many seeds: `python tests/benchmarks/warm_start.py --problem recorded --seeds 10`.

Every seed searches an old task (60 trials of known-cost) and then a new one, cold and warm. Qualities that are told
have the noise of one training; hypervolumes are of the true ones. The similarity of the tasks is given as 0.5 for all
of them: nothing tells the warm start which kind it has before it.

Invented tasks: each seed draws an old one; related ones weigh what costs quality a little differently and have their
best learning rate elsewhere. Unrelated ones weigh it by factors of up to four, have the best learning rate half a
decade away, and want the reverse of half of the recipe. On the opposite task the worst student is the best. Bytes are
nearly those of the files, by a formula.

Recorded trials are of one task, SST-2, which is the new one. Before it comes a search of the same (`again`), of
students that were judged after a third of their training (`third`), under 400,000 bytes in place of 1,000,000
(`small`); of another task with the same space: the formula of `search.bench.synthetic` (`formula`), or the recorded one
with the worst student as the best (`reverse`).
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import optuna
from optuna.trial import TrialState
from warm_start_tasks import KINDS, RECORDED, pair

from objectives.pareto import hypervolume
from search.bench.problem import Problem
from search.bench.recorded import RecordedProblem
from search.samplers import PerTrialSampler, SamplerName, seeds
from search.samplers.known_cost import KnownCosts, OlderQualities, Prior
from search.warm_start.adapt import flat_values
from search.warm_start.agreement import withdraw
from search.warm_start.candidates import OldTrial
from search.warm_start.plan import WARM_START, WarmStart, choose_start, enqueue_missing
from space.config import Recipe, StudentConfig

SIMILARITY = 0.5
Curves: TypeAlias = dict[tuple[str, str], dict[str, list[float]]]


def run(
    task: Problem, sampler: SamplerName, seed: int, trials: int, start: WarmStart | None = None, prior: bool = True
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
    recorded = RecordedProblem("sst2") if set(kinds) & set(RECORDED) else None
    before: list[OldTrial] = []
    found: Curves = {}
    for kind in kinds:
        old, new = pair(kind, seed, recorded)
        if recorded is not None or not before:  # all invented pairs have one old task
            _, before = run(old, "known-cost", 1000 + seed, 60)
        olds: dict[str, tuple[float, Sequence[OldTrial]]] = {"old": (SIMILARITY, before)}
        start = choose_start(olds, new.space, new.costs, new.objectives, dict(new.limits), trials)
        for sampler in samplers:
            cold = found[sampler, kinds[0]]["cold"] if recorded is not None and kind != kinds[0] else None
            curves = {
                "cold": cold or run(new, sampler, seed, trials)[0],
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
    parser.add_argument("--problem", choices=KINDS, default="invented")
    parser.add_argument("--kinds", help="default: all of the problem")
    parser.add_argument("--without-prior", action="store_true", help="known-cost also with the queue alone")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    kinds = options.kinds.split(",") if options.kinds else list(KINDS[options.problem])
    if wrong := [kind for kind in kinds if kind not in KINDS[options.problem]]:
        parser.error(f"there is no kind {wrong[0]!r}: {', '.join(KINDS[options.problem])}")
    rest = (options.trials, options.samplers.split(","), kinds, options.without_prior)
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
        if len(gap) > 1:
            gaps = warm - cold
            means, errors = gaps.mean(axis=0), np.maximum(gaps.std(axis=0, ddof=1), 1e-12) / math.sqrt(len(gaps))
            for what, at in (("standard errors", np.argmin(means / errors)), ("hypervolume", np.argmin(means))):
                print(f"  warm less cold at worst in {what}, after {at + 1}: {means[at]:+.4f} ±{errors[at]:.4f}")
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
