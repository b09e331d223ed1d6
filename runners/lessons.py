"""What a student learns from: texts in its word pieces, and what the teacher says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runners.batches import Encoded
from runners.byte_rows import ByteRows

NO_ORIGIN = -1  # of a text that is no copy of one of the train split


@dataclass(frozen=True, eq=False)
class WordStates:
    """The teacher's hidden states of the words of n texts, compressed; memory-mapped, read-only.

    A word is what stands between spaces and punctuation. Teacher and student split it into different word pieces,
    so that words are where their states can be compared: the state of a word is the mean over its pieces.

    Attributes:
        values: int8 [words in all, layers, components], principal components in units of `scale`.
        scale: float32 [layers, components].
        starts: int64 [n + 1], where the words of each text begin in `values`.
        first: int64 [n], words of the first text of a pair, or of the text where there is one.
        layers: which of the teacher's layers, counted from 1.
        depth: how many layers the teacher has.
    """

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    layers: tuple[int, ...]
    depth: int

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Texts of one source with the teacher's answers; row i of every array belongs to text i, or to word i where words
    are what is labelled.

    Attributes:
        encoded: the texts in the student's word pieces.
        logits: floats [n, outputs] of the teacher; NaN for a word that it did not see.
        hidden: floats [n, teacher width], the teacher's last hidden state, mean-pooled or of the word.
        labels: int64 [n], or float32 [n] for a regression; None for text without labels, which then takes no part
            in the loss on labels.
        words: the teacher's states of the words, or None where they were not kept.
        taught: the texts in the teacher's word pieces, where it is to learn too.
        weights: float32 [texts], how much the teacher's answers to each text count; None for 1.
        chosen: int64, the texts that are learned from; None for all.
        origins: int64 [texts], the text of the train split that each is a copy of, or `NO_ORIGIN`; None for none.

    Raises:
        ValueError: the arrays differ in length.
    """

    encoded: Encoded
    logits: npt.NDArray[Any]
    hidden: npt.NDArray[np.float16] | ByteRows
    labels: npt.NDArray[Any] | None = None
    words: WordStates | None = None
    taught: Encoded | None = None
    weights: npt.NDArray[np.float32] | None = None
    chosen: npt.NDArray[np.int64] | None = None
    origins: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "hidden", "labels", "words", "taught", "weights", "origins"):
            found = getattr(self, name)
            rows = len(self.encoded) if name in ("words", "weights", "origins") else self.encoded.answers
            if found is not None and len(found) != rows:
                raise ValueError(f"{name} has {len(found)} rows in place of {rows}")

    def __len__(self) -> int:
        return len(self.encoded)
