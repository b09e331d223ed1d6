"""Where words stand among the word pieces of their texts: what labels words of a text meets the model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NO_PIECE = -1


class Picked(NamedTuple):
    """Words of a batch that have a piece.

    Attributes:
        words: int64 [m], their numbers among the words of all texts.
        rows: int64 [m], of the batch.
        places: int64 [m], of their first pieces in the row.
    """

    words: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WordPlaces:
    """Of the words of n texts, the first pieces; these carry the answers (Devlin et al. 2019, section 5.3).

    Attributes:
        first: int32 [words], place of each word's first piece in its text, or `NO_PIECE` where there is none: the text
            was cut before it, or the tokenizer leaves nothing of it (a control character).
        starts: int64 [n + 1], where the words of each text begin in `first`.
    """

    first: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, word_of_piece: Iterable[Sequence[int | None]], counts: Sequence[int]) -> WordPlaces:
        """From the word of each piece of each text, None for special tokens, and how many words each text has."""
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        first = np.full(int(starts[-1]), NO_PIECE, np.int32)
        for begin, words in zip(starts.tolist(), word_of_piece, strict=False):
            before = None
            for place, word in enumerate(words):
                if word is not None and word != before:
                    first[begin + word] = place
                before = word
        return cls(first, starts)

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """Which words have a piece."""
        return self.first != NO_PIECE

    def only(self, known: npt.NDArray[np.bool_]) -> WordPlaces:
        """The same, as if only the known words [words] had pieces."""
        return WordPlaces(np.where(known, self.first, np.int32(NO_PIECE)), self.starts)

    def pick(self, rows: npt.NDArray[np.int64]) -> Picked:
        """The words of a batch of these texts."""
        counts = self.starts[rows + 1] - self.starts[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        before = np.concatenate(([0], np.cumsum(counts)[:-1]))
        words = self.starts[rows][row] + np.arange(len(row)) - before[row]
        places = self.first[words]
        known = places != NO_PIECE
        return Picked(words[known], row[known], places[known].astype(np.int64))
