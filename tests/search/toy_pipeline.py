"""A trial pipeline for tests of the engine: the real space and byte counts, an analytic quality, no training.

Its behaviour is steered by environment variables, which Ray's workers inherit:
SHOEBOX_TOY_SECONDS sleeps in every trial; SHOEBOX_TOY_FAIL, _NAN, _CRASH, _FULL name trials (by number, with
commas) that raise, answer NaN, kill their process, or find the disk full; SHOEBOX_TOY_MOST_MS
is a latency above which a trial is infeasible.
"""

from __future__ import annotations

import math
import os
import socket
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from objectives.latency import LatencyReading
from objectives.limits import broken, constraint_values
from runners.bundle import CONFIG, MODEL, VOCABULARY, BundleConfig
from runners.plan import TrialPlan
from runners.record import TrialRecord, costs
from runners.rungs import RungResult, Rungs
from runners.trial import InfeasibleTrial
from space import Recipe, StudentConfig, TaskShape, Vocabulary, deployed_bytes
from space.errors import OutputError
from space.vocabulary import SPECIAL_TOKENS

PIPELINE = "toy_pipeline"
WORDS = 8000
STEPS = 100  # of a training; each counts as 36 seconds


@dataclass(frozen=True)
class Prepared:
    shape: TaskShape
    vocabulary: Vocabulary


def prepare(plan: TrialPlan) -> Prepared:
    letters = list(string.ascii_lowercase + string.digits)
    tokens = [*SPECIAL_TOKENS, *letters, *("##" + letter for letter in letters)]
    tokens += [f"word{index}" for index in range(WORDS)]
    score = np.arange(len(tokens), 0, -1, dtype=float)
    return Prepared(TaskShape(outputs=2, segments=1, max_length=32), Vocabulary(tokens, score, score))


def latency(size: int) -> float:
    return size / 2e5


def cost_predictor(plan: TrialPlan, prepared: Prepared) -> Callable[[StudentConfig], dict[str, float]]:
    return lambda config: {"latency_ms": deployed_bytes(config, prepared.shape, prepared.vocabulary) / 2e5}


def run_trial(
    plan: TrialPlan,
    prepared: Prepared,
    number: int,
    config: StudentConfig,
    recipe: Recipe,
    seed: int,
    bundle: Path,
) -> TrialRecord:
    *_, record = run_in_rungs(plan, prepared, number, config, recipe, seed, bundle)
    return record


def run_in_rungs(
    plan: TrialPlan,
    prepared: Prepared,
    number: int,
    config: StudentConfig,
    recipe: Recipe,
    seed: int,
    bundle: Path,
    rungs: Rungs | None = None,
) -> Iterator[RungResult | TrialRecord]:
    """Sleeps its time in parts, and counts the parts in a checkpoint."""
    size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
    milliseconds = latency(size)
    most = float(os.environ.get("SHOEBOX_TOY_MOST_MS", "inf"))
    limit = plan.limits.latency_ms or most
    constraints = constraint_values(plan.limits, {"deployed_bytes": size, "latency_ms": milliseconds})
    if broken(constraints) or milliseconds > limit:
        raise InfeasibleTrial(constraints)
    reading = LatencyReading(
        milliseconds=milliseconds,
        backend="estimated",
        device=plan.device.profile,
        calibrated=False,
        tokens=(plan.device.lengths or (32,))[0],
        instructions=size,
    )
    quality = 1 - math.exp(-size / 4e5) - abs(math.log10(recipe.learning_rate) + 2.8) / 10
    seconds = float(os.environ.get("SHOEBOX_TOY_SECONDS", "0"))
    done = 0
    if rungs is not None and rungs.passed:
        done = int(Path(rungs.passed[-1].checkpoint).read_text())
    for rung, step in rungs.ahead(STEPS) if rungs is not None else ():
        time.sleep(seconds * (step - done) / STEPS)
        done = step
        rungs.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = rungs.folder / f"rung{rung}.txt"
        checkpoint.write_text(str(done))
        spent = {"train": 3600.0 * done / STEPS}
        so_far = quality * math.sqrt(done / STEPS)
        yield RungResult(
            rung=rung,
            share=done / STEPS,
            quality=float("nan") if number in numbers("SHOEBOX_TOY_NAN") else so_far,
            costs=costs(size, [reading]),
            seconds=spent,
            checkpoint=str(checkpoint),
        )
    time.sleep(seconds * (STEPS - done) / STEPS)
    if number in numbers("SHOEBOX_TOY_FAIL"):
        raise RuntimeError("the toy was told to fail")
    if number in numbers("SHOEBOX_TOY_FULL"):
        raise OutputError(f"Folder {bundle} cannot be written: the disk is full.")
    if number in numbers("SHOEBOX_TOY_CRASH"):
        os._exit(1)
    if number in numbers("SHOEBOX_TOY_NAN"):
        quality = float("nan")
    bundle.mkdir(parents=True)
    vocabulary = prepared.vocabulary.ranked_by(config.vocabulary_score)
    words = vocabulary.file_bytes(vocabulary.size(config.vocabulary_keep))
    # Of the right sizes, with holes for what nobody reads.
    (bundle / MODEL).write_bytes(b"toy")
    os.truncate(bundle / MODEL, size - words)
    (bundle / VOCABULARY).touch()
    os.truncate(bundle / VOCABULARY, words)
    described = BundleConfig(
        study="toy",
        teacher="toy",
        label_names=("worse", "better"),
        lower_case=True,
        shape=prepared.shape,
        student=config,
        recipe=recipe,
    )
    (bundle / CONFIG).write_text(described.model_dump_json(), encoding="utf-8")
    (bundle / "host").write_text(socket.gethostname())
    yield TrialRecord(
        trial=number,
        config=config,
        recipe=recipe,
        seed=seed,
        metric=plan.metric,
        quality=quality,
        metrics={},
        deployed_bytes=size,
        latency=reading,
        seconds={} if rungs is None else {"train": 3600.0},
        bundle=str(bundle),
        versions={},
    )


def numbers(variable: str) -> set[int]:
    return {int(part) for part in os.environ.get(variable, "").split(",") if part}
