"""A task in memory: two splits of texts and labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from objectives.quality import Metric, score, score_tags
from runners.task import columns, domains, tags
from runners.task.sources import Table, read_splits
from runners.task.spec import TaskSpec
from space.errors import InputError


@dataclass(frozen=True, eq=False)
class Examples:
    """One split.

    Attributes:
        texts: the (first) sentences; of tagged words, the words with spaces between.
        pairs: the second sentences, or None.
        labels: int64 [n] class indices, float32 [n] for a regression, or int64 [words] tags.
        words: of each sentence, where words are what is labelled; else None.
        domains: int64 [n], places of the texts' domains among `Task.domains`; None where they are not told.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    words: list[list[str]] | None = None
    domains: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where the labels of each text begin, int64 [n + 1]."""
        if self.words is None:
            return np.arange(len(self) + 1)
        return np.concatenate(([0], np.cumsum([len(words) for words in self.words]))).astype(np.int64)

    def take(self, rows: npt.NDArray[np.int64] | range) -> Examples:
        """Some of the texts with their labels."""
        starts = self.starts
        return Examples(
            texts=[self.texts[row] for row in rows],
            pairs=None if self.pairs is None else [self.pairs[row] for row in rows],
            labels=np.concatenate([self.labels[starts[row] : starts[row + 1]] for row in rows]),
            words=None if self.words is None else [self.words[row] for row in rows],
            domains=None if self.domains is None else self.domains[np.asarray(rows)],
        )

    def evenly(self, most: int) -> Examples:
        """So many of the texts at most, evenly spaced: those of a split that is sorted, too, are like all of it."""
        count = len(self)
        return self if count <= most else self.take(np.linspace(0, count - 1, most).round().astype(int))


@dataclass(frozen=True, eq=False)
class Target:
    """The domain that students are for.

    Attributes:
        domain: its place among `Task.domains`.
        validation: the validation split with all domains, which the teacher answers.
        rows: int64, those of `validation` that are of this domain.
    """

    domain: int
    validation: Examples
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its text.

    Attributes:
        train, validation: the splits; where students are for one domain, `validation` is that domain alone.
        label_names: names of the classes in index order; None for a regression.
        outputs: number of logits: classes, or 1 for a regression.
        segments: 1 for single sentences, 2 for pairs.
        regression: whether labels are real values.
        metric: the study's quality metric.
        max_length: longest input in word pieces.
        fingerprint: SHA-256 of texts, labels, number of outputs and, where they are told, domains, in hexadecimal: the
            same on every machine, wherever the text came from, whatever the classes are called and whichever of the
            domains students are for.
        per_token: whether every word has a label.
        domains: names of the domains of the train split, sorted; None where the study names no column of them.
        target: the domain that students are for, or None for all.
    """

    train: Examples
    validation: Examples
    label_names: tuple[str, ...] | None
    outputs: int
    segments: int
    regression: bool
    metric: Metric
    max_length: int
    fingerprint: str
    per_token: bool = False
    domains: tuple[str, ...] | None = None
    target: Target | None = None

    @property
    def taught_validation(self) -> Examples:
        """The validation split that the teacher answers: that of all domains."""
        return self.validation if self.target is None else self.target.validation

    def on_target(self, answers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of answers to `taught_validation`, those to `validation`."""
        if self.target is None:
            return answers
        if not self.per_token:
            return answers[self.target.rows]
        starts = self.target.validation.starts
        return np.concatenate([answers[starts[row] : starts[row + 1]] for row in self.target.rows])

    @property
    def learned(self) -> npt.NDArray[np.int64] | None:
        """Rows of the train split that students learn from, int64; None for all."""
        if self.target is None or self.train.domains is None:
            return None
        return np.flatnonzero(self.train.domains == self.target.domain)

    @property
    def learned_rows(self) -> npt.NDArray[np.int64]:
        """The same where all are meant: every row of the train split that students learn from, int64."""
        return np.arange(len(self.train)) if self.learned is None else self.learned

    @property
    def learned_train(self) -> Examples:
        """What of the train split students learn from."""
        return self.train if self.learned is None else self.train.take(self.learned)

    def quality(self, examples: Examples, logits: npt.NDArray[Any]) -> float:
        """The task's metric of logits on labelled examples: a row of logits for each label."""
        if self.per_token:
            assert self.label_names is not None
            return score_tags(self.metric, examples.labels, logits, examples.starts, self.label_names)
        return score(self.metric, examples.labels, logits, self.regression)


def load_task(spec: TaskSpec) -> Task:
    """Read and check the data of a task.

    Raises:
        InputError: one sentence with file, column and row for anything that is wrong with the data.
    """
    train_table, validation_table = (columns.select(table, spec.where) for table in read_splits(spec.data))
    if spec.domain is not None and spec.unseen is not None:
        train_table, validation_table = domains.apart(train_table, validation_table, spec.domain, spec.unseen)
    names: tuple[str, ...] | None = None
    if spec.per_token:
        train_table, validation_table = (tags.without_empty(t, spec.tokens) for t in (train_table, validation_table))
        names = tags.tag_names(train_table, spec.tags, spec.labels, spec.metric == "entity_f1")
    elif not spec.regression:
        names = columns.class_names(train_table, spec.label, spec.labels)
    if spec.metric == "f1" and names is not None and len(names) != 2:
        raise InputError(f"Metric f1 is for two labels, but {train_table.where} has {len(names)}.", "Use accuracy.")
    train, validation = (_examples(table, spec, names, train_table) for table in (train_table, validation_table))
    if not spec.per_token and np.ptp(train.labels) == 0:
        raise InputError(f"Column {spec.label!r} of {train_table.where} has the same label in every row.")
    known, target = None, None
    if spec.domain is not None:
        known, places = domains.numbered(train_table, spec.domain)
        train = replace(train, domains=places)
        if spec.target is not None:
            domains.rows_of(train_table, spec.domain, "target", spec.target)
            rows = domains.rows_of(validation_table, spec.domain, "target", spec.target)
            target = Target(known.index(str(spec.target)), validation, rows)
    return Task(
        train=train,
        validation=validation if target is None else validation.take(target.rows),
        label_names=names,
        outputs=1 if names is None else len(names),
        segments=1 if spec.per_token else len(spec.text_columns),
        regression=spec.regression,
        per_token=spec.per_token,
        metric=spec.metric,
        max_length=spec.max_length,
        fingerprint=fingerprint(train, validation, 1 if names is None else len(names)),
        domains=known,
        target=target,
    )


def _examples(table: Table, spec: TaskSpec, names: tuple[str, ...] | None, train: Table) -> Examples:
    listed = isinstance(spec.labels, tuple)
    if spec.per_token:
        assert names is not None
        words = tags.words(table, spec.tokens)
        found_tags = tags.tag_labels(table, spec.tokens, spec.tags, names, spec.metric == "entity_f1", train, listed)
        return Examples([" ".join(row) for row in words], None, found_tags, words)
    found = [columns.texts(table, column) for column in spec.text_columns]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    if names is None:
        labels = columns.real_labels(table, spec.label)
    else:
        labels = columns.class_labels(table, spec.label, names, train, listed)
    return Examples(texts=found[0], pairs=found[1] if len(found) > 1 else None, labels=labels)


def fingerprint(train: Examples, validation: Examples, outputs: int) -> str:
    """Of `Task`."""
    digest = hashlib.sha256(b"shoebox task 1" + outputs.to_bytes(8, "little"))
    for split in (train, validation):
        _add_texts(digest, split.texts)
        _add_texts(digest, split.pairs)
        if split.words is not None:
            _add_texts(digest, [word for words in split.words for word in words])
            digest.update(split.starts.astype("<i8").tobytes())
        little_endian = split.labels.astype(split.labels.dtype.newbyteorder("<"))
        digest.update(str(split.labels.dtype.kind).encode() + little_endian.tobytes())
    if train.domains is not None:
        digest.update(b"domains" + train.domains.astype("<i8").tobytes())
    return digest.hexdigest()


def _add_texts(digest: hashlib._Hash, found: list[str] | None) -> None:
    """Add each text with its length, so that moving a word between neighbours changes the digest."""
    digest.update((-1 if found is None else len(found)).to_bytes(8, "little", signed=True))
    for text in found or ():
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
