"""One trial, from a configuration to a bundle."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
import torch

from objectives.latency import LatencyModel, LatencyReading, load_profile
from objectives.limits import broken, constraint_values
from objectives.quality import score
from runners.batches import Encoded
from runners.bundle import MODEL, BundleConfig, new_folder, write_model, write_results
from runners.distill import TrainingLog, distil
from runners.evaluate import open_session, run_model
from runners.initialization import start_from_embeddings, start_from_layers
from runners.latency import LatencyMeter
from runners.lessons import Lessons, WordStates
from runners.plan import TrialPlan
from runners.precision import training_device
from runners.pretraining.corpus import prepare_corpus
from runners.pretraining.encoder import Encoder, prepare_encoder, start_from_encoder
from runners.record import LATENCIES, TrialRecord, costs, library_versions
from runners.task import Task, load_task
from runners.teacher import TeacherOutputs, load_teacher, prepare_teacher
from runners.teacher.statistics import prepare_statistics
from runners.teacher.words import prepare_words, word_basis
from runners.transfer import TransferOutputs, prepare_transfer
from runners.wordpiece import encode_texts, wordpiece
from space.config import Recipe, StudentConfig
from space.errors import InputError
from space.families import Student, architecture_key, build_student, deployed_bytes, export_model
from space.shape import TaskShape
from space.vocabulary import Vocabulary

logger = logging.getLogger("shoebox.runners.trial")

_MEASURED_TEXTS = 5000  # at most so many, evenly spaced, tell how long the task's texts are


@dataclass(frozen=True, eq=False)
class Prepared:
    """What all trials of a study share: the task, the teacher's outputs, and what follows from them."""

    task: Task
    teacher: TeacherOutputs
    shape: TaskShape
    vocabulary: Vocabulary
    transfer: TransferOutputs | None = None
    _encoded: dict[int, Encoded] = field(default_factory=dict, repr=False)
    _lengths: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    _encoded_transfer: dict[int, Encoded] = field(default_factory=dict, repr=False)

    def tokenizer(self, size: int) -> tokenizers.Tokenizer:
        """WordPiece over the first `size` entries of the vocabulary."""
        return wordpiece(self.vocabulary.tokens(size), self.vocabulary.lower_case, self.shape.max_length)

    def encoded_train(self, size: int) -> Encoded:
        """The train split in the word pieces of a vocabulary of that size; made once per size."""
        if size not in self._encoded:
            examples = self.task.train
            self._encoded[size] = encode_texts(self.tokenizer(size), examples.texts, examples.pairs)
        return self._encoded[size]

    def text_lengths(self, size: int) -> tuple[int, int]:
        """Median and 95th percentile of the length of the train texts, in word pieces of a vocabulary of that size.

        A smaller vocabulary splits words into more pieces: it pays for the bytes that it saves by longer inputs.
        """
        if size not in self._lengths:
            examples = self.task.train
            rows = range(0, len(examples), -(-len(examples) // _MEASURED_TEXTS))
            pairs = None if examples.pairs is None else [examples.pairs[row] for row in rows]
            encoded = encode_texts(self.tokenizer(size), [examples.texts[row] for row in rows], pairs)
            median, long = np.quantile(encoded.lengths, [0.5, 0.95], method="higher")
            self._lengths[size] = int(median), int(long)
        return self._lengths[size]

    def transfer_lessons(self, size: int, words: WordStates | None = None) -> Lessons:
        """The transfer text in the word pieces of a vocabulary of that size; made once per size.

        Args:
            size: of the vocabulary.
            words: the teacher's states of the words of the text, where they are wanted.
        """
        if self.transfer is None:
            raise ValueError("the study has no transfer text")
        if size not in self._encoded_transfer:
            self._encoded_transfer[size] = self.transfer.encoded(self.tokenizer(size), self.shape.max_length)
        return self.transfer.lessons(self._encoded_transfer[size], words)


class InfeasibleTrial(Exception):
    """A limit is broken that only a measurement could tell; the trial was not trained.

    Attributes:
        constraints: relative excess over every limit of the study.
    """

    def __init__(self, constraints: dict[str, float]) -> None:
        self.constraints = constraints
        super().__init__(f"breaks {', '.join(broken(constraints))}")


def prepare(plan: TrialPlan) -> Prepared:
    """Load the data and the teacher's outputs; fine-tunes the teacher if the cache does not hold it."""
    task = load_task(plan.task)
    teacher = prepare_teacher(plan.teacher, task)
    shape = TaskShape(outputs=task.outputs, segments=task.segments, max_length=task.max_length)
    transfer, count = None, teacher.vocabulary_count
    if plan.transfer is not None:
        transfer = prepare_transfer(plan.transfer, task, teacher, plan.teacher.max_length)
        # Entries are kept by their score on the train split. Transfer text only orders those that the train split
        # lacks: they have no score, and it is better to keep what some text has than what none has.
        count = count + transfer.vocabulary_count
    if plan.pretraining is not None:  # likewise
        count = count + prepare_corpus(plan.pretraining, plan.teacher.model).count_of(teacher.vocabulary)
    vocabulary = Vocabulary(teacher.vocabulary, teacher.vocabulary_attention, count, teacher.lower_case)
    return Prepared(task, teacher, shape, vocabulary, transfer)


def timed_lengths(plan: TrialPlan, prepared: Prepared, config: StudentConfig) -> tuple[int, ...]:
    """Token lengths at which a configuration is timed: the study's, or those of the task's own text."""
    lengths = plan.device.lengths
    return prepared.text_lengths(prepared.vocabulary.size(config.vocabulary_keep)) if lengths is None else lengths


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
    """
    task, teacher = prepared.task, prepared.teacher
    clock = _Clock()
    with clock("latency"):
        readings = measure_latency(plan, prepared, config)
    size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
    constraints = constraint_values(plan.limits, costs(size, readings))
    if broken(constraints):
        raise InfeasibleTrial(constraints)
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    bundle_config = BundleConfig(
        study=plan.study,
        teacher=plan.teacher.model,
        label_names=task.label_names,
        lower_case=prepared.vocabulary.lower_case,
        shape=prepared.shape,
        student=config,
        recipe=recipe,
    )
    # Opened before training, so that a folder which cannot be written is found before minutes are spent.
    with new_folder(bundle) as folder:
        with clock("tokenize"):
            prepared.encoded_train(entries)
        with clock("teacher"):
            sources = gather_lessons(plan, prepared, entries, recipe)
        with clock("pretrain"):
            encoder = None
            if recipe.initialization == "pretrained":
                encoder = _pretrained_encoder(plan, config)
        with clock("train"):
            torch.manual_seed(seed)
            student = build_student(config, prepared.shape, entries)
            if encoder is None:
                _initialise(student, prepared, plan, config, recipe)
            else:
                start_from_encoder(student, encoder, prepared.vocabulary, config.vocabulary_keep)
            tokens, device = prepared.vocabulary.tokens(entries), training_device()
            shares = [recipe.transfer_share] * (len(sources) - 1)
            log = distil(
                student, sources, shares, teacher, recipe, plan.fidelity, task.regression, tokens, seed, device
            )
        with clock("export"):
            written = write_model(folder, student, bundle_config, prepared.vocabulary.tokens(entries))
        if written != size:
            raise AssertionError(f"the bundle takes {written} bytes, {size} were predicted")
        with clock("evaluate"):
            validation = task.validation
            inputs = encode_texts(prepared.tokenizer(entries), validation.texts, validation.pairs)
            logits = run_model(open_session(folder / MODEL), inputs)
            quality = score(task.metric, validation.labels, logits, task.regression)
        record = TrialRecord(
            trial=number,
            config=config,
            recipe=recipe,
            seed=seed,
            metric=task.metric,
            quality=quality,
            metrics=_further_metrics(quality, teacher, log),
            deployed_bytes=written,
            latency=readings[0],
            long_latency=readings[1] if len(readings) > 1 else None,
            seconds=clock.seconds,
            bundle=str(bundle),
            versions=library_versions(),
        )
        write_results(folder, bundle_config, record)
    return record


def _further_metrics(quality: float, teacher: TeacherOutputs, log: TrainingLog) -> dict[str, float]:
    found = {
        "teacher_quality": teacher.validation_quality,
        "final_loss": log.losses[-1],
        "examples_seen": float(log.examples),
    }
    if teacher.validation_quality > 0:
        found["retention"] = 100 * quality / teacher.validation_quality
    return found


def gather_lessons(plan: TrialPlan, prepared: Prepared, entries: int, recipe: Recipe) -> list[Lessons]:
    """The train split, and the transfer text if the recipe has a share of it, with all that the recipe needs."""
    task, teacher, transfer = prepared.task, prepared.teacher, prepared.transfer
    own = further = None
    if recipe.learns_words:
        length = _teacher_length(plan, prepared)
        basis = word_basis(prepare_statistics(teacher, task, length))
        own = prepare_words(teacher.folder, task.train, teacher, basis, length)
        if transfer is not None and recipe.transfer_share > 0:
            further = prepare_words(transfer.folder, transfer.examples, teacher, basis, length)
    encoded = prepared.encoded_train(entries)
    found = [Lessons(encoded, teacher.train_logits, teacher.train_hidden, task.train.labels, own)]
    if recipe.transfer_share > 0:
        found.append(prepared.transfer_lessons(entries, further))
    return found


def _teacher_length(plan: TrialPlan, prepared: Prepared) -> int:
    """Longest input of the teacher in word pieces."""
    return plan.teacher.max_length or prepared.task.max_length


def _pretrained_encoder(plan: TrialPlan, config: StudentConfig) -> Encoder:
    """The encoder of the study for a configuration's shape; trained first if the cache does not hold it."""
    if plan.pretraining is None:
        raise ValueError("the study has no section pretraining")
    return prepare_encoder(plan.pretraining, plan.teacher.model, config)


def _initialise(student: Student, prepared: Prepared, plan: TrialPlan, config: StudentConfig, recipe: Recipe) -> None:
    """Start from what the recipe says."""
    if recipe.initialization == "random":
        return
    teacher, vocabulary, keep = prepared.teacher, prepared.vocabulary, config.vocabulary_keep
    start_from_embeddings(student, teacher, vocabulary, keep)
    if recipe.initialization == "layers":
        statistics = prepare_statistics(teacher, prepared.task, _teacher_length(plan, prepared))
        start_from_layers(student, teacher, load_teacher(teacher).encoder, statistics, vocabulary, keep)


class _Clock:
    """Wall time by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - begin, 3)
