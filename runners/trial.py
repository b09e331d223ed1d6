"""One trial, from a configuration to a bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers
import torch

from objectives.latency import LatencyReading
from objectives.limits import broken, constraint_values
from objectives.quality import score
from runners.batches import Encoded
from runners.bundle import MODEL, BundleConfig, new_folder, write_model, write_results
from runners.distill import TrainingLog, distil
from runners.evaluate import open_session, run_model
from runners.latency import LatencyMeter
from runners.lessons import Lessons, WordStates
from runners.plan import TrialPlan
from runners.precision import training_device
from runners.record import TrialRecord, library_versions
from runners.task import Task, load_task
from runners.teacher import TeacherOutputs, prepare_teacher
from runners.transfer import TransferOutputs, prepare_transfer
from runners.wordpiece import encode_texts, wordpiece
from space.config import Recipe, StudentConfig
from space.families import Student, architecture_key, build_student, deployed_bytes, export_model
from space.shape import TaskShape
from space.vocabulary import Vocabulary

logger = logging.getLogger("shoebox.runners.trial")

# Deviation of embeddings that start from the teacher. The step of AdamW does not grow with a weight, so that larger
# entries keep more of what the teacher knows: on SST-2 the divergence from the teacher after one epoch falls from 0.259
# at 0.02 (that of random embeddings) to 0.246 at 0.2; on little text 0.2 learns new meanings too slowly.
TEACHER_DEVIATION = 0.1


@dataclass(frozen=True, eq=False)
class Prepared:
    """What all trials of a study share: the task, the teacher's outputs, and what follows from them."""

    task: Task
    teacher: TeacherOutputs
    shape: TaskShape
    vocabulary: Vocabulary
    transfer: TransferOutputs | None = None
    _encoded: dict[int, Encoded] = field(default_factory=dict, repr=False)
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
    vocabulary = Vocabulary(teacher.vocabulary, teacher.vocabulary_attention, count, teacher.lower_case)
    return Prepared(task, teacher, shape, vocabulary, transfer)


def measure_latency(plan: TrialPlan, prepared: Prepared, config: StudentConfig) -> LatencyReading:
    """Latency of a configuration on the study's device: measured on a file with random weights, or cached."""
    size = prepared.vocabulary.size(config.vocabulary_keep)

    def write(path: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            student = build_student(config, prepared.shape, size)
        path.write_bytes(export_model(config, prepared.shape, size, student).SerializeToString())

    return LatencyMeter(plan.device).measure(architecture_key(config, prepared.shape, size), write)


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
        InfeasibleTrial: the latency limit is broken; nothing was trained.
        DivergedError: training diverged.
    """
    task, teacher = prepared.task, prepared.teacher
    clock = _Clock()
    with clock("latency"):
        latency = measure_latency(plan, prepared, config)
    size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
    constraints = constraint_values(plan.limits, size, latency.milliseconds)
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
            encoded = prepared.encoded_train(entries)
        with clock("train"):
            torch.manual_seed(seed)
            student = build_student(config, prepared.shape, entries)
            if recipe.initialization == "teacher":
                _start_from_teacher(student, prepared, config)
            labels, device = task.train.labels, training_device()
            log = distil(student, encoded, labels, teacher, recipe, plan.fidelity, task.regression, seed, device)
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
            latency=latency,
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


def _start_from_teacher(student: Student, prepared: Prepared, config: StudentConfig) -> None:
    """Embeddings from the teacher: the principal components of its kept word embeddings (XtremeDistil).

    Positions are projected onto the same components. Directions are kept as they are (no whitening) and scaled
    as a whole to a deviation of `TEACHER_DEVIATION`.
    """
    teacher = prepared.teacher
    ids = prepared.vocabulary.teacher_ids(prepared.vocabulary.size(config.vocabulary_keep))
    words = torch.from_numpy(np.array(teacher.word_embeddings[ids], np.float32))
    mean = words.mean(0)
    centred = words - mean
    _, components = torch.linalg.eigh(centred.T @ centred)  # by rising variance
    basis = components.flip(1)[:, : config.embedding_width]
    projected = centred @ basis
    scale = TEACHER_DEVIATION / projected.std()
    table = torch.zeros(len(words), config.embedding_width)
    table[:, : projected.shape[1]] = projected * scale
    positions = None
    if teacher.position_embeddings is not None:
        rows = torch.from_numpy(np.array(teacher.position_embeddings, np.float32))
        positions = torch.zeros(len(rows), config.embedding_width)
        positions[:, : basis.shape[1]] = (rows - rows.mean(0)) @ basis * scale
    student.load_embeddings(table, positions)


class _Clock:
    """Wall time by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - begin, 3)
