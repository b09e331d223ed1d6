"""Lessons of several sources, mixed and handed out in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runners.batches import Encoded, collate, shuffled_batches
from runners.distill.losses import without_labels
from runners.distill.words import NO_WORD, word_rows
from runners.lessons import Lessons
from runners.word_places import WordPlaces

_ORDER, _SAMPLE, _STREAM, _HELD_OUT = 0, 1, 2, 4  # what a random generator is for
MOST_HELD_OUT = 512


@dataclass(frozen=True, eq=False)
class Batch:
    """Some texts with all that is known of them.

    Attributes:
        inputs: of the student.
        hidden: float32 [batch, teacher width]; where words are labelled, [words, teacher width], and so on.
        logits: float32 [batch, outputs].
        labels: [batch], with `NO_LABEL` or NaN for none.
        picked: the labelled words, int64 [words] each: their rows in the batch, and the places of their first pieces;
            None where texts are labelled.
        words: int64 [batch, sequence], the word of each piece among all words of the pool, or `NO_WORD`; None where
            the pool has no word states.
        taught: inputs of the teacher; None where a source has none.
        weights: float32 [batch], how much the teacher's answers to each text count; None where all count alike.
    """

    inputs: dict[str, Tensor]
    hidden: Tensor
    logits: Tensor
    labels: Tensor
    words: Tensor | None
    taught: dict[str, Tensor] | None
    picked: tuple[Tensor, Tensor] | None = None
    weights: Tensor | None = None

    def answers(self, pooled: Tensor) -> Tensor:
        """What belongs to `hidden` of the student's answer: [batch, width] itself, or the words' of all states."""
        return pooled if self.picked is None else pooled[self.picked]


class LessonPool:
    """Batches from one or more sources of lessons.

    An epoch takes every text of the first source once (or of a sample of it), and of each other source so many texts
    that its share of the epoch is as asked; over the epochs all its texts get their turn. Which texts make up a
    batch depends on `seed` and the number of the batch alone, so that a training can be continued anywhere.

    Attributes:
        batches_per_epoch, examples_per_epoch: without what is held out.
        whole_batches: of an epoch if nothing were held out.

    Args:
        sources: the task's own lessons first.
        shares: of all texts of an epoch, those of each further source; each in [0, 1), their sum below 1.
        batch_size: texts per batch.
        sample: take so many texts of the first source; all by default.
        tokens: vocabulary of the student; needed where word states are wanted.
        regression: labels are real values.
        seed: of all choices.
        held_out: share of the texts of the first source that are in no batch but those of `held_out_batches`; one text
            at least and `MOST_HELD_OUT` at most, none for 0. Their copies in other sources are in no batch at all.
    """

    def __init__(
        self,
        sources: Sequence[Lessons],
        shares: Sequence[float],
        batch_size: int,
        sample: int | None,
        tokens: Sequence[str] | None,
        regression: bool,
        seed: int,
        held_out: float = 0.0,
    ) -> None:
        if len(shares) != len(sources) - 1 or not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise ValueError(f"{len(sources)} sources need {len(sources) - 1} shares with a sum below 1, not {shares}")
        self._sources, self.batch_size, self._seed = sources, batch_size, seed
        self._encoded = _joined([source.encoded for source in sources])
        self._lengths = self._encoded.lengths
        taught = [source.taught for source in sources if source.taught is not None]
        self._taught = _joined(taught) if len(taught) == len(sources) else None
        self._offsets = np.cumsum([0, *(len(source) for source in sources)])
        self._answer_offsets = np.cumsum([0, *(source.encoded.answers for source in sources)])
        self._labelled = _labelled_words(sources)
        taught_by = [np.arange(len(s)) if s.chosen is None else s.chosen for s in sources]  # texts with an answer
        if self._labelled is not None:
            known = np.concatenate(([0], np.cumsum(self._labelled.answered)))[self._labelled.starts]
            answered = np.diff(known) > 0
            taught_by = [rows[answered[rows + offset]] for rows, offset in zip(taught_by, self._offsets, strict=False)]
            shares = [share if len(rows) else 0.0 for share, rows in zip(shares, taught_by[1:], strict=True)]
        self._first, *self._further = taught_by
        if sample is not None and sample < len(self._first):
            self._first = np.sort(self._generator(_SAMPLE).choice(self._first, sample, replace=False))
        own = 1 - sum(shares)
        whole = len(self._first) + sum(round(len(self._first) * share / own) for share in shares)
        self.whole_batches = math.ceil(whole / batch_size)
        self._held_out = np.empty(0, np.int64)
        if held_out > 0 and len(self._first) > 1:
            count = min(MOST_HELD_OUT, max(1, round(held_out * len(self._first))))
            self._held_out = np.sort(self._generator(_HELD_OUT).choice(self._first, count, replace=False))
            self._first = np.setdiff1d(self._first, self._held_out)
            self._further = [
                rows if source.origins is None else rows[~np.isin(source.origins[rows], self._held_out)]
                for rows, source in zip(self._further, sources[1:], strict=True)
            ]
        self._counts = [
            round(len(self._first) * share / own) if len(rows) else 0
            for share, rows in zip(shares, self._further, strict=True)
        ]
        self._labels = np.concatenate(
            [
                source.labels if source.labels is not None else without_labels(source.encoded.answers, regression)
                for source in sources
            ]
        )
        self._weights = _joined_weights(sources)
        self._words: npt.NDArray[np.int32] | None = None
        self._word_offsets = np.zeros(1, np.int64)
        if tokens is not None:
            self._match_words(tokens)
        self.examples_per_epoch = len(self._first) + sum(self._counts)
        self.batches_per_epoch = math.ceil(self.examples_per_epoch / batch_size)
        self._epoch = -1
        self._order: list[npt.NDArray[np.int64]] = []

    def _match_words(self, tokens: Sequence[str]) -> None:
        found, totals = [], [0]
        for source in self._sources:
            if source.words is None:
                rows = np.full(len(source.encoded.ids), NO_WORD, np.int32)
                totals.append(0)
            else:
                rows = word_rows(source.encoded, tokens, source.words.starts, source.words.first)
                rows[rows != NO_WORD] += sum(totals)
                totals.append(int(source.words.starts[-1]))
            found.append(rows)
        self._words = np.concatenate(found)
        self._word_offsets = np.cumsum(totals)
        starts = [
            source.words.starts[:-1] + offset
            for source, offset in zip(self._sources, self._word_offsets, strict=False)
            if source.words is not None
        ]
        self._text_starts = np.concatenate(starts)
        # Of those texts alone.
        self._word_weights = _joined_weights([source for source in self._sources if source.words is not None])

    def batch(self, number: int, device: torch.device) -> Batch:
        """Batch `number` of the training, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffle(epoch)
        return self._collate(self._order[place], device)

    def held_out_batches(self, device: torch.device) -> Iterator[Batch]:
        """The texts held out, or, where there is too little text to hold any out, those that are learned from."""
        rows = self._held_out if len(self._held_out) else self._first
        for start in range(0, len(rows), self.batch_size):
            yield self._collate(rows[start : start + self.batch_size], device)

    def _collate(self, rows: npt.NDArray[np.int64], device: torch.device) -> Batch:
        picked = None if self._labelled is None else self._labelled.pick(rows)
        answers = rows if picked is None else picked.words
        source = np.searchsorted(self._answer_offsets, answers, side="right") - 1
        hidden = self._gather("hidden", answers, source)
        logits = self._gather("logits", answers, source)
        return Batch(
            inputs=collate(self._encoded, rows, device),
            hidden=torch.from_numpy(hidden).to(device),
            logits=torch.from_numpy(logits).to(device),
            labels=torch.from_numpy(self._labels[answers]).to(device),
            words=None if self._words is None else self._collate_words(rows, device),
            taught=None if self._taught is None else collate(self._taught, rows, device),
            picked=None
            if picked is None
            else (torch.from_numpy(picked.rows).to(device), torch.from_numpy(picked.places).to(device)),
            weights=None if self._weights is None else torch.from_numpy(self._weights[rows]).to(device),
        )

    def word_states(self, words: Tensor) -> Tensor:
        """The teacher's states float32 [m, layers, components] of words [m], which must rise."""
        wanted = words.cpu().numpy()
        known = next(source.words.values for source in self._sources if source.words is not None)
        parts = [np.empty((0, *known.shape[1:]), np.float32)]  # a batch of blank texts has no word
        for index, source in enumerate(self._sources):
            begin, end = np.searchsorted(wanted, self._word_offsets[index : index + 2])
            if source.words is not None and end > begin:
                rows = wanted[begin:end] - self._word_offsets[index]
                parts.append(source.words.values[rows].astype(np.float32) * source.words.scale)
        return torch.from_numpy(np.concatenate(parts)).to(words.device)

    def texts_of(self, words: Tensor) -> Tensor:
        """Numbers that are the same for words of the same text."""
        found = np.searchsorted(self._text_starts, words.cpu().numpy(), side="right")
        return torch.from_numpy(found).to(words.device)

    def weights_of(self, words: Tensor) -> Tensor | None:
        """How much the states of words [m] count, float32 [m]: as their texts do; None where all count alike."""
        if self._word_weights is None:
            return None
        found = self._word_weights[self.texts_of(words).cpu().numpy() - 1]
        return torch.from_numpy(found).to(words.device)

    def _collate_words(self, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        assert self._words is not None
        lengths = self._lengths[rows]
        places = np.arange(int(lengths.max()))[None, :]
        mask = places < lengths[:, None]
        flat = np.where(mask, self._encoded.starts[rows][:, None] + places, 0)
        return torch.from_numpy(np.where(mask, self._words[flat], NO_WORD).astype(np.int64)).to(device)

    def _gather(self, name: str, rows: npt.NDArray[np.int64], source: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        first = getattr(self._sources[0], name)
        found = np.empty((len(rows), first.shape[1]), np.float32)
        for index in np.unique(source):
            here = source == index
            found[here] = getattr(self._sources[index], name)[rows[here] - self._answer_offsets[index]]
        return found

    def _shuffle(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        rows = [self._first]
        for index, count in enumerate(self._counts, start=1):
            rows.append(self._offsets[index] + self._stream(index, epoch * count, count))
        chosen = np.concatenate(rows)
        batches = shuffled_batches(self._lengths[chosen], self.batch_size, self._generator(_ORDER, epoch))
        return [chosen[batch] for batch in batches]

    def _stream(self, index: int, start: int, count: int) -> npt.NDArray[np.int64]:
        """So many rows of an endless row of permutations of a source."""
        chosen = self._further[index - 1]
        size = len(chosen)
        if size == 0:
            return chosen
        first, last = start // size, (start + count) // size
        rounds = [self._generator(_STREAM, index, number).permutation(size) for number in range(first, last + 1)]
        found: npt.NDArray[np.int64] = chosen[np.concatenate(rounds)[start - first * size :][:count]]
        return found

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *purpose])


def _labelled_words(sources: Sequence[Lessons]) -> WordPlaces | None:
    """Places of the words that teacher and student both saw; None where texts are labelled."""
    places = [source.encoded.words for source in sources]
    words = [found for found in places if found is not None]
    if len(words) < len(places):
        if words:
            raise ValueError("labelled words cannot be mixed with texts that are answered as a whole")
        return None
    known = np.concatenate([~np.isnan(source.logits[:, 0]) for source in sources])
    first = np.concatenate([found.first for found in words])
    return WordPlaces(first, _joined_starts([found.starts for found in words])).only(known)


def _joined_weights(sources: Sequence[Lessons]) -> npt.NDArray[np.float32] | None:
    """Weights of all texts, 1 where a source has none; None where no source has any."""
    if all(source.weights is None for source in sources):
        return None
    ones = (np.ones(len(source), np.float32) for source in sources)
    return np.concatenate([one if s.weights is None else s.weights for s, one in zip(sources, ones, strict=True)])


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    segments = [part.segments for part in parts if part.segments is not None]
    if segments and len(segments) != len(parts):
        raise ValueError("pairs of texts cannot be mixed with single texts")
    return Encoded(
        ids=np.concatenate([part.ids for part in parts]),
        segments=np.concatenate(segments) if segments else None,
        starts=_joined_starts([part.starts for part in parts]),
        pad=parts[0].pad,
    )


def _joined_starts(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Where texts begin once the sources, each [n + 1] with its total at the end, stand one behind the other."""
    offsets = np.cumsum([0, *(int(starts[-1]) for starts in parts)])
    begins = [starts[:-1] + offset for starts, offset in zip(parts, offsets, strict=False)]
    return np.concatenate([*begins, offsets[-1:]])
