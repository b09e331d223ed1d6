"""All transfer text of a study: read, split, cleaned, sampled, and recombined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from runners.lessons import NO_ORIGIN
from runners.spelling import text_tokenizer
from runners.task import Examples, Task
from runners.task.matching import match_key
from runners.teacher import TeacherOutputs
from runners.teacher.model import load_encoder, load_tokenizer
from runners.transfer.augment import Copies, augment, near_words
from runners.transfer.cleaning import Counts, Sieve, even_sample
from runners.transfer.neighbours import nearest_texts
from runners.transfer.pairs import pair_key, recombine
from runners.transfer.read import Rows, read_rows
from runners.transfer.sentences import fit, split_sentences
from runners.transfer.spec import Augmentation, AugmentSpec, FileSource, HubSource, TransferSpec
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.transfer")
_SPECIAL_TOKENS = 2  # [CLS] and [SEP] of a single text


@dataclass(frozen=True)
class Gathered:
    """Transfer text before the teacher sees it.

    Attributes:
        texts: the (first) texts.
        pairs: the second texts, or None.
        kinds: where each text comes from: a source, or how its pair was made.
        counts: by source, what was read and left out.
        augmented: by method, the first of the augmented texts and the one after the last.
        origins: of each text, the row of the train split that it is a copy of, or `runners.lessons.NO_ORIGIN`.
    """

    texts: list[str]
    pairs: list[str] | None
    kinds: list[str]
    counts: dict[str, dict[str, int]]
    augmented: dict[str, tuple[int, int]]
    origins: list[int]


def gather(
    spec: TransferSpec, task: Task, teacher: TeacherOutputs, tokenizer: Any, model: Path, max_length: int
) -> Gathered:
    """Texts, or pairs of texts, that a task can learn from beside its train split. Deterministic.

    Args:
        spec: of the study.
        task: its validation split is kept out; copies and new pairs are made of what students learn from.
        teacher: fine-tuned; says to a selector what it knows of augmented text.
        tokenizer: of the teacher.
        model: folder of the pretrained teacher, which finds near pairs.
        max_length: longest input in word pieces.

    Raises:
        InputError: a source cannot be read or leaves nothing to learn from; more pairs than can be made.
    """
    gatherer = _Gatherer(spec, task, text_tokenizer(tokenizer))
    for index, source in enumerate(spec.sources):
        gatherer.add(source, np.random.default_rng((spec.seed, index)))
    if spec.recombine:

        def nearest(left: Any, right: Any, count: int) -> Any:
            return nearest_texts(left, right, count, model, tokenizer, max_length)

        made = recombine(
            task.learned_train, gatherer.sentences, spec.recombine, spec.seed, gatherer.pair_sieve, nearest
        )
        gatherer.texts += made.texts
        gatherer.pairs += made.pairs
        gatherer.kinds += made.kinds
    augmented: dict[str, tuple[int, int]] = {}
    origins = [NO_ORIGIN] * len(gatherer.texts)
    if spec.augment is not None:
        found = len(gatherer.texts)
        sources = Examples(
            list(gatherer.texts), list(gatherer.pairs) if task.segments == 2 else None, np.zeros(found, np.int64)
        )
        make = _augmenter(spec, spec.augment, task, teacher, sources if found else None, tokenizer, model, max_length)
        rows = task.learned_rows.tolist()
        sieve = gatherer.text_sieve if task.segments == 1 else gatherer.pair_sieve
        for method in spec.augment.methods:
            copies = make(method, sieve)
            augmented[method] = (len(gatherer.texts), len(gatherer.texts) + len(copies.texts))
            gatherer.texts += copies.texts
            gatherer.pairs += copies.pairs or []
            gatherer.kinds += ["augmented" if method == "random" else method] * len(copies.texts)
            # Behind the rows of the train split come those of the sources.
            origins += [rows[place] if place < len(rows) else NO_ORIGIN for place in copies.origins]
    pairs = gatherer.pairs if task.segments == 2 else None
    return Gathered(gatherer.texts, pairs, gatherer.kinds, gatherer.counts, augmented, origins)


def _augmenter(
    spec: TransferSpec,
    augmentation: AugmentSpec,
    task: Task,
    teacher: TeacherOutputs,
    sources: Examples | None,
    tokenizer: Any,
    model: Path,
    max_length: int,
) -> Callable[[Augmentation, Sieve], Copies]:
    """Makes texts by a method, none of which a sieve knows."""

    def near(words: Iterable[str]) -> dict[str, list[str]]:
        table = load_encoder(model, str(model)).get_input_embeddings()  # type: ignore[operator]
        return near_words(words, load_tokenizer(model, str(model))[1].vocabulary, table.weight.detach().float())

    augmenter = None
    if augmentation.methods != ("random",):
        from runners.augmentation.make import Augmenter  # which takes sieves and edits from this package

        augmenter = Augmenter(augmentation, task, sources, model, max_length, spec.seed)

    def make(method: Augmentation, sieve: Sieve) -> Copies:
        if method == "random":
            return augment(task.learned_train, augmentation.count, spec.seed, sieve, near)
        assert augmenter is not None
        return augmenter.masked(sieve) if method == "masked" else augmenter.learned(sieve, tokenizer, teacher)

    return make


class _Gatherer:
    """Takes what is new from one source after the other."""

    def __init__(self, spec: TransferSpec, task: Task, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer, self._segments = tokenizer, task.segments
        self._room = task.max_length - _SPECIAL_TOKENS
        self.texts: list[str] = []
        self.pairs: list[str] = []
        self.kinds: list[str] = []
        self.sentences: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}
        self.text_sieve = self._text_sieve(task, any(source.sentences for source in spec.sources))
        self.pair_sieve = _pair_sieve(task)

    def _text_sieve(self, task: Task, split: bool) -> Sieve:
        judged = task.taught_validation
        validation = [*judged.texts, *(judged.pairs or ())]
        if split:  # a source may hold the same long texts as the validation split
            sentences = [sentence for text in validation for sentence in split_sentences(text)]
            validation += sentences
            validation += [part for parts in fit(sentences, self._tokenizer, self._room) for part in parts]
        # Texts of a pair task's train split may well stand in new pairs.
        train = task.learned_train.texts if task.segments == 1 else ()  # other domains' may be learned here
        return Sieve(map(match_key, validation), map(match_key, train))

    def add(self, source: FileSource | HubSource, generator: np.random.Generator) -> None:
        rows = read_rows(source)
        counts = Counts(read=len(rows.texts))
        if rows.pairs is None:
            self._add_texts(source, rows, counts, generator)
        else:
            self._add_pairs(source, rows, rows.pairs, counts, generator)
        self.counts[_free_name(rows.where, self.counts)] = asdict(counts)
        _log.info("%s", describe(rows.where, counts))
        if not counts.taken:
            raise InputError(f"Transfer source {rows.where} leaves no text to learn from: {_left_out(counts)}.")

    def _add_texts(
        self, source: FileSource | HubSource, rows: Rows, counts: Counts, generator: np.random.Generator
    ) -> None:
        texts = rows.texts
        if source.sentences:
            texts = [sentence for text in texts for sentence in split_sentences(text)]
        counts.pieces = len(texts)
        taken, keys = self._new(texts, counts, source.limit, generator)
        if source.sentences:  # after sampling: to count word pieces takes longer than all the rest
            parts = fit(taken, self._tokenizer, self._room)
            if any(len(pieces) > 1 for pieces in parts):
                texts = [part for pieces in parts for part in pieces]
                taken, keys = self._new(texts, Counts(), source.limit, generator)
        self.text_sieve.take(keys)
        counts.taken = len(taken)
        if self._segments == 2:
            self.sentences += taken
        else:
            self.texts += taken
            self.kinds += [Path(rows.where).name] * len(taken)

    def _new(
        self, texts: list[str], counts: Counts, limit: int | None, generator: np.random.Generator
    ) -> tuple[list[str], list[str]]:
        """A sample of the texts that are new, and their keys."""
        keys = [match_key(text) for text in texts]
        new = self.text_sieve.new(keys, counts)
        new = new[even_sample(len(new), limit, generator)]
        return [texts[place].strip() for place in new], [keys[place] for place in new]

    def _add_pairs(
        self,
        source: FileSource | HubSource,
        rows: Rows,
        seconds: list[str],
        counts: Counts,
        generator: np.random.Generator,
    ) -> None:
        counts.pieces = len(rows.texts)
        keys: list[Any] = [pair_key(*pair) for pair in zip(rows.texts, seconds, strict=True)]
        new = self.pair_sieve.new(["" if "" in key else key for key in keys], counts)
        new = new[even_sample(len(new), source.limit, generator)]
        self.pair_sieve.take(keys[place] for place in new)
        counts.taken = len(new)
        self.texts += [rows.texts[place].strip() for place in new]
        self.pairs += [seconds[place].strip() for place in new]
        self.kinds += [Path(rows.where).name] * len(new)


def _pair_sieve(task: Task) -> Sieve:
    """Knows the validation pairs in either order, and in theirs the train pairs that students learn from."""
    if task.segments == 1:
        return Sieve((), ())
    validation = [pair_key(*pair) for pair in _rows(task.taught_validation)]
    swapped = [(second, first) for first, second in validation]
    return Sieve([*validation, *swapped], [pair_key(*pair) for pair in _rows(task.learned_train)])


def _rows(examples: Examples) -> list[tuple[str, str]]:
    assert examples.pairs is not None
    return list(zip(examples.texts, examples.pairs, strict=True))


def _free_name(name: str, taken: dict[str, Any]) -> str:
    number = 2
    found = name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def describe(where: str, counts: Counts) -> str:
    """A line about a source."""
    pieces = "" if counts.pieces == counts.read else f" ({counts.pieces:,} sentences)"
    return f"Transfer text of {where}: {counts.taken:,} of {counts.read:,} rows{pieces} taken; {_left_out(counts)}"


def _left_out(counts: Counts) -> str:
    return (
        f"left out {counts.validation:,} that stand in the validation split, {counts.train:,} in the train split, "
        f"{counts.repeated:,} repeated, {counts.blank:,} blank"
    )
