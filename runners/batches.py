"""Texts as word-piece ids, and batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runners.task import Examples
from runners.word_places import WordPlaces

_CHUNK = 1024  # texts per call of the tokenizer: bounds its memory
_POOL = 32  # batches that are sorted by length together: little padding, yet near-random order


@dataclass(frozen=True, eq=False)
class Encoded:
    """Word pieces of n texts, one after the other.

    Attributes:
        ids: int32 [total], special tokens included.
        segments: uint8 [total], 1 in the second text of a pair; None for single texts.
        starts: int64 [n + 1], where each text begins.
        pad: id of the padding token.
        words: where the words begin, where words are what is labelled; else None.
    """

    ids: npt.NDArray[np.int32]
    segments: npt.NDArray[np.uint8] | None
    starts: npt.NDArray[np.int64]
    pad: int
    words: WordPlaces | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Word pieces of each text, int64 [n]."""
        return np.diff(self.starts)

    @property
    def answers(self) -> int:
        """How many answers a model gives: one for each text, or one for each word."""
        return len(self) if self.words is None else len(self.words.first)

    def for_segments(self, count: int) -> Encoded:
        """The same texts for a model of so many segments: one that reads pairs takes a single text for a first one."""
        if count == 1 or self.segments is not None:
            return self
        return replace(self, segments=np.zeros(len(self.ids), np.uint8))


def encode(tokenizer: Any, examples: Examples, max_length: int) -> Encoded:
    """Tokenize a split; longer inputs are cut at `max_length` (of a pair, the longer text first).

    Names of special tokens in a text, as in "what does [SEP] do", are text here as they are for students.
    """
    ids: list[npt.NDArray[np.int32]] = []
    segments: list[npt.NDArray[np.uint8]] = []
    lengths: list[int] = []
    word_of_piece: list[list[int | None]] = []
    for start in range(0, len(examples), _CHUNK):
        part = slice(start, start + _CHUNK)
        found = tokenizer(
            examples.texts[part] if examples.words is None else examples.words[part],
            None if examples.pairs is None else examples.pairs[part],
            truncation=True,
            max_length=max_length,
            padding=False,
            return_token_type_ids=examples.pairs is not None,
            is_split_into_words=examples.words is not None,
            split_special_tokens=True,
        )
        lengths.extend(len(row) for row in found["input_ids"])
        ids.extend(np.array(row, dtype=np.int32) for row in found["input_ids"])
        if examples.pairs is not None:
            segments.extend(np.array(row, dtype=np.uint8) for row in found["token_type_ids"])
        if examples.words is not None:
            word_of_piece.extend(found.word_ids(row) for row in range(len(found["input_ids"])))
    return Encoded(
        ids=np.concatenate(ids),
        segments=np.concatenate(segments) if segments else None,
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        pad=int(tokenizer.pad_token_id or 0),
        words=None if examples.words is None else WordPlaces.of(word_of_piece, list(map(len, examples.words))),
    )


def collate(encoded: Encoded, rows: npt.NDArray[np.int64], device: torch.device) -> dict[str, Tensor]:
    """Model inputs [rows, longest of them], padded at the end."""
    lengths = encoded.lengths[rows]
    width = int(lengths.max())
    places = np.arange(width)[None, :]
    mask = places < lengths[:, None]
    flat = np.where(mask, encoded.starts[rows][:, None] + places, 0)
    batch = {
        "input_ids": np.where(mask, encoded.ids[flat], encoded.pad).astype(np.int64),
        "attention_mask": mask.astype(np.int64),
    }
    if encoded.segments is not None:
        batch["token_type_ids"] = np.where(mask, encoded.segments[flat], 0).astype(np.int64)
    return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}


def shuffled_batches(
    lengths: npt.NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """One epoch in random order, each batch of similar lengths."""
    order = generator.permutation(len(lengths))
    pool = batch_size * _POOL
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches.extend(part[first : first + batch_size] for first in range(0, len(part), batch_size))
    for index in generator.permutation(len(batches)):
        yield batches[index]


def sorted_batches(
    lengths: npt.NDArray[np.int64], max_tokens: int, max_squares: int
) -> Iterator[npt.NDArray[np.int64]]:
    """All rows, longest first, so many per batch that `rows * length` and `rows * length^2` stay bounded."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        count = max(1, min(max_tokens // longest, max_squares // longest**2))
        yield order[start : start + count]
        start += count
