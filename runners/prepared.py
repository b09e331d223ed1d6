"""What all trials of a study share: tasks, teachers' outputs, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from runners.batches import Encoded, encode
from runners.distill import Course
from runners.encodings import RecentEncodings
from runners.lessons import Lessons
from runners.plan import TaskPlan, TrialPlan
from runners.pretraining.corpus import check_corpus, prepare_corpus
from runners.supernet.prepare import Supernet, prepare_supernet
from runners.task import Examples, Task
from runners.task.matching import load_tasks
from runners.teacher import TeacherOutputs, load_teacher, prepare_teacher
from runners.teacher.model import find_model, load_tokenizer
from runners.teacher.origin import sum_of_equals
from runners.teacher.prototypes import domain_expertise, prepare_prototypes, with_mean_one
from runners.teacher.statistics import LayerStatistics, prepare_statistics
from runners.teacher.words import prepare_words, word_basis
from runners.transfer import TransferOutputs, check_transfer, prepare_transfer
from runners.wordpiece import encode_examples, wordpiece
from space.config import Recipe, TeacherKind, VocabularyScore
from space.errors import InputError
from space.shape import TaskShape
from space.vocabulary import Vocabulary

_MEASURED_TEXTS = 5000  # at most so many, evenly spaced, tell how long a task's texts are


@dataclass(frozen=True, eq=False)
class TaughtTask:
    """A task and what its teacher says.

    Attributes:
        task: its data.
        teacher: its fine-tuned teacher's outputs.
        transfer: further text with the teacher's outputs, or None.
        teacher_length: longest input of the teacher in word pieces.
        plan: that all this follows from.
    """

    task: Task
    teacher: TeacherOutputs
    transfer: TransferOutputs | None
    teacher_length: int
    plan: TaskPlan

    def taught_by(self, kind: TeacherKind) -> TaughtTask:
        """The same task with a teacher of another kind, from the cache or fine-tuned now; itself where it has that one.

        A task without domains keeps its teacher.

        Raises:
            InputError: the train split has one domain only; as of `prepare_teacher`.
            OutputError: as there.
        """
        if kind in ("study", self.plan.teacher.kind) or self.task.domains is None:
            return self
        plan = self.plan._replace(teacher=self.plan.teacher.model_copy(update={"kind": kind}))
        return _teach(plan, self.task)

    @property
    def shape(self) -> TaskShape:
        """What a student of this task alone looks like from outside."""
        task = self.task
        return TaskShape(
            outputs=task.outputs, segments=task.segments, max_length=task.max_length, per_token=task.per_token
        )

    @property
    def examples(self) -> int:
        """How many texts of the train split students learn from."""
        return len(self.task.learned_rows)

    def statistics(self) -> LayerStatistics:
        """Of the teacher on the train split."""
        return prepare_statistics(self.teacher, self.task, self.teacher_length)

    def expertise(self) -> npt.NDArray[np.float32] | None:
        """How much the teacher's answers to the texts of the train split count, float32 [n]; None without domains.

        The mean is 1 over the texts that students learn from.
        """
        if self.task.domains is None:
            return None
        weights = prepare_prototypes(self.teacher.model, self.task, self.teacher_length)
        labels = self.task.train.labels.astype(np.int64)
        return with_mean_one(domain_expertise(weights, self.teacher.train_logits, labels), self.task.learned)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What all trials of a study share.

    Attributes:
        tasks: by name, in the order of the student's logits; the only one of a study is called `runners.plan.ONLY`.
        shape: of a student of all tasks.
        vocabulary: one for all tasks.
        supernet: what students may inherit from; None where the study has none.
    """

    tasks: dict[str, TaughtTask]
    shape: TaskShape
    vocabulary: Vocabulary
    supernet: Supernet | None = None
    _encodings: RecentEncodings = field(default_factory=RecentEncodings, repr=False)
    _lengths: dict[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    _ranked: dict[str, Prepared] = field(default_factory=dict, repr=False)
    _taught: dict[str, Prepared] = field(default_factory=dict, repr=False)

    def ranked_by(self, score: VocabularyScore) -> Prepared:
        """The same with the vocabulary ranked by that score; made once per score."""
        self._ranked.setdefault(self.vocabulary.score, self)
        if score not in self._ranked:
            fresh: dict[str, Any] = {"_lengths": {}, "_taught": {}}
            self._ranked[score] = replace(self, vocabulary=self.vocabulary.ranked_by(score), **fresh)
        return self._ranked[score]

    def taught_by(self, kind: TeacherKind) -> Prepared:
        """The same tasks with teachers of another kind (`TaughtTask.taught_by`); made once per kind.

        Raises:
            InputError: as there.
        """
        if kind not in self._taught:
            tasks = {name: taught.taught_by(kind) for name, taught in self.tasks.items()}
            same = all(tasks[name] is taught for name, taught in self.tasks.items())
            fresh: dict[str, Any] = {"_ranked": {}, "_taught": {}}
            self._taught[kind] = self if same else replace(self, tasks=tasks, **fresh)
        return self._taught[kind]

    def tokenizer(self, name: str, size: int) -> tokenizers.Tokenizer:
        """WordPiece over the first `size` entries of the vocabulary, for inputs as long as the task's."""
        tokens = self.vocabulary.tokens(size)
        return wordpiece(tokens, self.vocabulary.normalization, self.tasks[name].task.max_length)

    def encode(self, name: str, size: int, examples: Examples) -> Encoded:
        """Examples of a task as a student with a vocabulary of that size reads them."""
        return encode_examples(self.tokenizer(name, size), examples).for_segments(self.shape.segments)

    def encoded_train(self, name: str, size: int) -> Encoded:
        """The train split of a task in the word pieces of a vocabulary of that size; see `RecentEncodings`."""
        return self._encodings.of(
            (self.vocabulary.score, size), name, lambda: self.encode(name, size, self.tasks[name].task.train)
        )

    def text_lengths(self, size: int) -> tuple[int, int]:
        """Median and 95th percentile of the length of the train texts, in word pieces of a vocabulary of that size.

        A smaller vocabulary splits words into more pieces: it pays for the bytes that it saves by longer inputs. Of
        several tasks it is the mean of theirs, rounded up: a phone may ask for any of them.
        """
        if size not in self._lengths:
            found = [self._task_lengths(name, size) for name in self.tasks]
            median, long = (math.ceil(value) for value in np.mean(found, axis=0))
            self._lengths[size] = median, long
        return self._lengths[size]

    def _task_lengths(self, name: str, size: int) -> tuple[int, int]:
        task = self.tasks[name].task
        rows = task.learned_rows
        encoded = self.encode(name, size, task.train.take(rows[:: -(-len(rows) // _MEASURED_TEXTS)]))
        median, long = np.quantile(encoded.lengths, [0.5, 0.95], method="higher")
        return int(median), int(long)

    def encoded_transfer(self, name: str, size: int) -> Encoded:
        """The transfer text of a task in the word pieces of a vocabulary of that size; see `RecentEncodings`."""
        task, transfer = self.tasks[name].task, self.tasks[name].transfer
        if transfer is None:
            raise ValueError("the task has no transfer text")

        def encode() -> Encoded:
            encoded = transfer.encoded(self.tokenizer(name, size), task.max_length)
            return encoded.for_segments(self.shape.segments)

        # Another kind of teacher may have other text.
        return self._encodings.of((self.vocabulary.score, size), (name, transfer.key), encode)

    def course(self, name: str, size: int, recipe: Recipe) -> Course:
        """Train split and, if the recipe has a share of it, transfer text of a task, with all that the recipe needs."""
        taught = self.tasks[name]
        task, teacher = taught.task, taught.teacher
        transfer = taught.transfer if recipe.transfer_share > 0 else None
        rows = None if transfer is None else transfer.rows_of(recipe.augmentation)
        if rows is not None and len(rows) == 0:
            transfer = None
        words = further = None
        if recipe.learns_words:
            basis, length = word_basis(taught.statistics()), taught.teacher_length
            words = prepare_words(teacher.folder, task.train, teacher, basis, length)
            if transfer is not None:
                further = prepare_words(transfer.folder, transfer.examples, teacher, basis, length)
        encoded = self.encoded_train(name, size)
        weights = taught.expertise() if recipe.example_weighting == "domain_expertise" else None
        own = Lessons(encoded, teacher.train_logits, teacher.train_hidden, task.train.labels, words)
        sources = [replace(own, weights=weights, chosen=task.learned)]
        if transfer is not None:
            sources.append(transfer.lessons(self.encoded_transfer(name, size), further, rows))
        shares = [recipe.transfer_share] * (len(sources) - 1)
        if not recipe.updates_encoder:
            return Course(sources, shares, teacher, task.regression)
        examples = [task.train] if transfer is None else [task.train, transfer.examples]
        tokenizer, _ = load_tokenizer(find_model(teacher.model), teacher.model)
        sources = [
            replace(lessons, taught=encode(tokenizer, texts, taught.teacher_length))
            for lessons, texts in zip(sources, examples, strict=True)
        ]
        return Course(sources, shares, teacher, task.regression, load_teacher(teacher))


def prepare(plan: TrialPlan) -> Prepared:
    """Load the data and the teachers' outputs; fine-tunes a teacher, and trains the supernet of a study that has one,
    if the cache does not hold them.

    Raises:
        InputError: wrong data; of several tasks, a teacher that has learnt nothing, of which nothing can be retained.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    plans = plan.task_plans
    loaded = load_tasks({name: task_plan.task for name, task_plan in plans.items()})
    _check_texts(plan, loaded)
    tasks = {name: _teach(task_plan, loaded[name]) for name, task_plan in plans.items()}
    for name, taught in tasks.items():
        if len(tasks) > 1 and taught.teacher.validation_quality <= 0:
            raise InputError(
                f"The teacher of task {name} has {taught.task.metric} {taught.teacher.validation_quality:.3f} on the "
                "validation split: there is no share of it to retain.",
                f"Change tasks.{name}.teacher, or leave the task out.",
            )
    teachers = [taught.teacher for taught in tasks.values()]
    # Entries are kept by their score on the train splits. Further text only orders those that the train splits lack:
    # they have no score, and it is better to keep what some text has than what none has. A score grows with the length
    # of a task's texts, so that those of several tasks are brought to the same total before they are added.
    scores = sum_of_equals([teacher.vocabulary_attention for teacher in teachers])
    counts = sum_of_equals([teacher.vocabulary_count for teacher in teachers])
    further = [taught.transfer.vocabulary_count for taught in tasks.values() if taught.transfer is not None]
    if plan.pretraining is not None:
        further.append(prepare_corpus(plan.pretraining, plan.teacher.model).count_of(teachers[0].vocabulary))
    vocabulary = Vocabulary(
        teachers[0].vocabulary, scores, counts, teachers[0].normalization, sum_of_equals(further) if further else None
    )
    found = Prepared(tasks, TaskShape.joint({name: taught.shape for name, taught in tasks.items()}), vocabulary)
    if plan.supernet is None:
        return found
    # Rankings made so far know of no supernet.
    return replace(found, supernet=prepare_supernet(plan.supernet, plan.space, found), _ranked={})


def _check_texts(plan: TrialPlan, tasks: dict[str, Task]) -> None:
    """Refuse further text that cannot be read now: a teacher takes minutes to an hour."""
    for name, task_plan in plan.task_plans.items():
        if task_plan.transfer is not None and task_plan.transfer.sources:
            check_transfer(task_plan.transfer, tasks[name], task_plan.teacher, find_model(task_plan.teacher.model))
    if plan.pretraining is not None:
        check_corpus(plan.pretraining, find_model(plan.pretraining.model or plan.teacher.model))


def _teach(plan: TaskPlan, task: Task) -> TaughtTask:
    teacher = prepare_teacher(plan.teacher, task)
    transfer = None
    if plan.transfer is not None:
        transfer = prepare_transfer(plan.transfer, task, teacher, plan.teacher.max_length)
    return TaughtTask(task, teacher, transfer, plan.teacher.max_length or task.max_length, plan)
