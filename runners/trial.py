"""One trial, from a configuration to a bundle."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from objectives.latency import LatencyModel, LatencyReading, load_profile
from objectives.limits import broken, constraint_values
from runners.batches import Encoded
from runners.bundle import MODEL, BundleConfig, LabelNames, new_folder, write_model, write_results
from runners.distill import Distillation
from runners.evaluate import open_session, run_model, run_student
from runners.head_bias import balance_bias, with_balanced_bias
from runners.initialization import start_from_embeddings, start_from_layers
from runners.judging import BEFORE, judge, overall, quality_fields
from runners.latency import LatencyMeter
from runners.origin import origin_of
from runners.plan import TrialPlan
from runners.precision import training_device
from runners.prepared import Prepared, prepare
from runners.pretraining.encoder import Encoder, prepare_encoder, start_from_encoder
from runners.record import LATENCIES, TaskQuality, TrialRecord, costs, library_versions
from runners.rungs import RungResult, Rungs, restored
from runners.supernet.prepare import Supernet, start_from_supernet
from runners.task import Examples
from runners.teacher.origin import Origin, mean_statistics
from space.config import Recipe, StudentConfig
from space.errors import InputError
from space.families import Student, architecture_key, build_student, deployed_bytes, export_model, get_family

__all__ = [
    "InfeasibleTrial",
    "Prepared",
    "cost_predictor",
    "measure_latency",
    "prepare",
    "run_in_rungs",
    "run_trial",
    "timed_lengths",
]

logger = logging.getLogger("shoebox.runners.trial")


class InfeasibleTrial(Exception):
    """A limit is broken that only a measurement could tell; the trial was not trained.

    Attributes:
        constraints: relative excess over every limit of the study.
    """

    def __init__(self, constraints: dict[str, float]) -> None:
        self.constraints = constraints
        super().__init__(f"breaks {', '.join(broken(constraints))}")


def timed_lengths(plan: TrialPlan, prepared: Prepared, config: StudentConfig) -> tuple[int, ...]:
    """Token lengths at which a configuration is timed: the study's, or those of the task's own text."""
    lengths = plan.device.lengths
    if lengths is not None:
        return lengths
    return prepared.ranked_by(config.vocabulary_score).text_lengths(prepared.vocabulary.size(config.vocabulary_keep))


def measure_latency(plan: TrialPlan, prepared: Prepared, config: StudentConfig) -> tuple[LatencyReading, ...]:
    """Latency of a configuration on the study's device at each of its `timed_lengths`: cached, or measured on a file
    with random weights.
    """
    size = prepared.vocabulary.size(config.vocabulary_keep)

    def write(path: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = build_student(config, prepared.shape, size)
        path.write_bytes(export_model(config, prepared.shape, size, student).SerializeToString())

    key = architecture_key(config, prepared.shape, size)
    return LatencyMeter(plan.device).measure(key, write, timed_lengths(plan, prepared, config))


def cost_predictor(plan: TrialPlan, prepared: Prepared) -> Callable[[StudentConfig], dict[str, float]]:
    """Predicts the latencies of configurations at their `timed_lengths`, for proposing them, in half a millisecond.

    Lengths of the task's own text are those of a vocabulary that differs by at most 9 % in size, so that a range of
    sizes needs no more than some ten of them. What it answers knows nothing where no costs of the device are recorded,
    or where this machine is the device.
    """
    if plan.device.latency == "native":
        return lambda config: {}
    try:
        model = LatencyModel(load_profile(plan.device.profile))
    except InputError:  # a profile of the user's own
        return lambda config: {}

    def predict(config: StudentConfig) -> dict[str, float]:
        size = prepared.vocabulary.size(config.vocabulary_keep)
        near = min(1.0, 2 ** (round(4 * math.log2(config.vocabulary_keep)) / 4))
        lengths = timed_lengths(plan, prepared, config.model_copy(update={"vocabulary_keep": near}))
        found = [model.predict(config, prepared.shape, size, tokens).milliseconds for tokens in lengths]
        return dict(zip(LATENCIES, found, strict=False))

    return predict


def run_trial(
    plan: TrialPlan,
    prepared: Prepared,
    number: int,
    config: StudentConfig,
    recipe: Recipe,
    seed: int,
    bundle: Path,
) -> TrialRecord:
    """Time, distil, export and judge one student; leaves a complete bundle or nothing.

    Args:
        number: of the trial.
        seed: of initial weights and of the order of examples.
        bundle: folder to make.

    Raises:
        InfeasibleTrial: a limit on latency or heap is broken; nothing was trained.
        DivergedError: training diverged.
        OutputError: the disk is full, or the bundle or what belongs into the cache cannot be written.
    """
    *_, record = run_in_rungs(plan, prepared, number, config, recipe, seed, bundle)
    assert isinstance(record, TrialRecord)
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
    """The same, in parts: yields how the student stands at each rung, and the record in the end.

    A checkpoint is on disk before its rung is told. Who does not want the trial to go on closes the iterator; to go on
    later, he calls again with the rungs that were passed. The student is the same, bit for bit, as one trained at once.
    Where the last checkpoint is of no use, the training begins anew, and the first rung is told again.

    Args:
        rungs: where to judge; nowhere by default.
    """
    prepared = prepared.ranked_by(config.vocabulary_score)
    passed = rungs.passed if rungs is not None else ()
    clock = _Clock(passed[-1].seconds if passed else {})
    with clock("latency"):
        readings = measure_latency(plan, prepared, config)
    size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
    constraints = constraint_values(plan.limits, costs(size, readings))
    if broken(constraints):
        raise InfeasibleTrial(constraints)
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    balanced = recipe.head_bias == "balanced"
    bundle_config = BundleConfig(
        study=plan.study,
        teacher=plan.teacher.model,
        label_names=_label_names(prepared),
        **prepared.vocabulary.normalization.record(),
        shape=prepared.shape,
        student=config,
        recipe=recipe,
        origin=origin_of(plan),
    )
    # Opened before training, so that a folder which cannot be written is found before minutes are spent.
    with new_folder(bundle) as folder:
        with clock("tokenize"):
            for name in prepared.tasks:
                prepared.encoded_train(name, entries)
        with clock("teacher"):
            teaching = prepared.taught_by(recipe.teacher_kind)
            courses = [teaching.course(name, entries, recipe) for name in prepared.tasks]
        with clock("pretrain"):
            encoder = _pretrained_encoder(plan, config, recipe)
            supernet = _supernet(prepared, recipe)
        with clock("train"):
            student = _started(teaching, config, recipe, encoder, supernet, seed)
            tokens, device = prepared.vocabulary.tokens(entries), training_device()
            training = Distillation(student, courses, recipe, plan.fidelity, tokens, seed, device)
            if supernet is not None:
                training.load_projection(*supernet.projection_of(student.width))
            rungs = None if rungs is None else restored(training, rungs)
        for rung, step in rungs.ahead(training.steps) if rungs is not None else ():
            assert rungs is not None
            with clock("train"):
                training.run(until=step)
            with clock("rungs"):
                rungs.folder.mkdir(parents=True, exist_ok=True)
                checkpoint = rungs.folder / f"rung{rung}.safetensors"
                training.save(checkpoint)
                now = _rounded(student) if recipe.quantization == "post_training" else student
                now = with_balanced_bias(now, prepared, entries) if balanced else now
                quality = overall(_judge(partial(run_student, now), prepared, entries, rungs.examples))
            yield RungResult(
                rung=rung,
                share=step / training.steps,
                quality=quality,
                costs=costs(size, readings),
                seconds=dict(clock.seconds),
                checkpoint=str(checkpoint),
            )
        with clock("train"):
            log = training.run()
        further = {"final_loss": log.losses[-1], "examples_seen": float(log.examples)}
        if recipe.quantization == "post_training":
            with clock("quantize"):
                full = with_balanced_bias(student, prepared, entries) if balanced else student
                further[BEFORE] = overall(_judge(partial(run_student, full), prepared, entries))
                student.search_clipping()
                student.set_rounding(True)
        if balanced:
            with clock("calibrate"):
                balance_bias(student, prepared, entries)
        with clock("export"):
            written = write_model(folder, student, bundle_config, prepared.vocabulary.tokens(entries))
        if written != size:
            raise AssertionError(f"the bundle takes {written} bytes, {size} were predicted")
        with clock("evaluate"):
            judged = _judge(partial(run_model, open_session(folder / MODEL)), prepared, entries)
        record = TrialRecord(
            trial=number,
            config=config,
            recipe=recipe,
            seed=seed,
            **quality_fields(judged, further),
            deployed_bytes=written,
            latency=readings[0],
            long_latency=readings[1] if len(readings) > 1 else None,
            seconds=clock.seconds,
            losses=log.losses,
            validation_examples={name: len(taught.task.validation) for name, taught in prepared.tasks.items()},
            bundle=str(bundle),
            versions=library_versions(),
        )
        write_results(folder, bundle_config, record)
    yield record


def _label_names(prepared: Prepared) -> LabelNames | dict[str, LabelNames]:
    found = {name: taught.task.label_names for name, taught in prepared.tasks.items()}
    return found if len(found) > 1 else next(iter(found.values()))


def _rounded(student: Student) -> Student:
    """A copy of a student in full precision that computes as its file would if it were written now."""
    found = copy.deepcopy(student)
    found.search_clipping()
    found.set_rounding(True)
    return found


def _judge(
    answer: Callable[[Encoded], np.ndarray], prepared: Prepared, entries: int, most: int | None = None
) -> dict[str, TaskQuality]:
    tasks = {name: taught.task for name, taught in prepared.tasks.items()}
    teachers = {name: taught.teacher.validation_quality for name, taught in prepared.tasks.items()}

    def encode(name: str, examples: Examples) -> Encoded:
        return prepared.encode(name, entries, examples)

    return judge(answer, encode, prepared.shape, tasks, teachers, most)


def initial_student(plan: TrialPlan, prepared: Prepared, config: StudentConfig, recipe: Recipe, seed: int) -> Student:
    """A student as its training begins; sets torch's global generator."""
    teaching, encoder = prepared.taught_by(recipe.teacher_kind), _pretrained_encoder(plan, config, recipe)
    return _started(teaching, config, recipe, encoder, _supernet(prepared, recipe), seed)


def _started(
    prepared: Prepared,
    config: StudentConfig,
    recipe: Recipe,
    encoder: Encoder | None,
    supernet: Supernet | None,
    seed: int,
) -> Student:
    torch.manual_seed(seed)
    student = build_student(config, prepared.shape, prepared.vocabulary.size(config.vocabulary_keep))
    if supernet is not None:
        start_from_supernet(student, supernet, config, prepared.vocabulary)
    elif encoder is None:
        _initialise(student, prepared, config, recipe)
    else:
        start_from_encoder(student, encoder, prepared.vocabulary, config.vocabulary_keep)
    return student


def _pretrained_encoder(plan: TrialPlan, config: StudentConfig, recipe: Recipe) -> Encoder | None:
    """The encoder that the student starts from, if it starts from one; trained first if the cache does not hold it."""
    if recipe.initialization != "pretrained":
        return None
    if plan.pretraining is None:
        raise ValueError("the study has no section pretraining")
    return prepare_encoder(plan.pretraining, plan.teacher.model, config)


def _supernet(prepared: Prepared, recipe: Recipe) -> Supernet | None:
    """The supernet that the student starts from, if it starts from one."""
    if recipe.initialization != "supernet":
        return None
    if prepared.supernet is None:
        raise ValueError("the study has no section supernet")
    return prepared.supernet


def _initialise(student: Student, prepared: Prepared, config: StudentConfig, recipe: Recipe) -> None:
    """Start from what the recipe says."""
    if recipe.initialization == "random":
        return
    taught, vocabulary, keep = prepared.tasks.values(), prepared.vocabulary, config.vocabulary_keep
    origin = Origin.of([each.teacher for each in taught])
    start_from_embeddings(student, origin, vocabulary, keep)
    if recipe.initialization == "layers" and "layers" in get_family(config.family).initializations:
        statistics = mean_statistics([each.statistics() for each in taught])
        start_from_layers(student, origin, origin.encoder(), statistics, vocabulary, keep)


class _Clock:
    """Wall time by step, added to what was spent before."""

    def __init__(self, before: Mapping[str, float]) -> None:
        self.seconds = dict(before)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - begin, 3)
