"""Hard pruning of the vocabulary (EI-BERT): which entries of the teacher's vocabulary a student keeps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from space.config import VocabularyScore
from space.normalization import Normalization

# In this order they open every student's vocabulary, so that their ids are the same in every student.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_ID, UNKNOWN_ID, CLS_ID, SEP_ID = 0, 1, 2, 3


class Vocabulary:
    """A teacher's WordPiece vocabulary in the order in which a student keeps it.

    Special tokens come first, then the single ASCII characters (with and without `##`), so that any ASCII word
    can still be spelt; then all other entries by falling score (`ranked_by`). A pruned word falls back to its kept word
    pieces, else to `[UNK]` (Wang et al. 2025, arXiv 2507.04636, hard token pruning).

    Args:
        tokens: the teacher's vocabulary in the order of its ids; must hold the `SPECIAL_TOKENS`.
        attention: shape [V], the attention that the occurrences of an entry receive, in sum.
        count: shape [V], occurrences in the training text.
        normalization: of text before it is split.
        further_count: shape [V], occurrences in further text; with `count`, breaks ties of the score.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        attention: np.ndarray,
        count: np.ndarray,
        normalization: Normalization | None = None,
        further_count: np.ndarray | None = None,
    ) -> None:
        missing = [token for token in SPECIAL_TOKENS if token not in set(tokens)]
        if missing:
            raise ValueError(f"the vocabulary lacks {', '.join(missing)}: only WordPiece vocabularies will do")
        self.normalization = normalization or Normalization()
        self.teacher_tokens = tuple(tokens)
        self._attention, self._count = np.asarray(attention, np.float64), np.asarray(count)
        self._tie = self._count if further_count is None else self._count + further_count
        self._rankings: dict[VocabularyScore, Vocabulary] = {}
        self._rank("attention_sum")

    def ranked_by(self, score: VocabularyScore) -> Vocabulary:
        """The same vocabulary with its entries in the order of a score; `attention_sum` if nobody asks."""
        if score not in self._rankings:
            ranked = copy(self)
            ranked._rank(score)
        return self._rankings[score]

    def _rank(self, score: VocabularyScore) -> None:
        tokens = self.teacher_tokens
        scores = {
            "attention_sum": self._attention,
            "attention_mean": self._attention / np.where(self._count > 0, self._count, 1),
            "frequency": self._count,
        }
        index = {token: i for i, token in enumerate(tokens)}
        special = [index[token] for token in SPECIAL_TOKENS]
        taken = set(special)
        pieces = [i for i, token in enumerate(tokens) if i not in taken and _is_character(token)]
        taken.update(pieces)
        unused = np.array([token.startswith("[unused") for token in tokens])
        order = np.lexsort((np.arange(len(tokens)), unused, -self._tie, -scores[score]))
        rest = [int(i) for i in order if int(i) not in taken]
        self._ranked = np.array(special + pieces + rest)
        self._base = len(special) + len(pieces)
        lengths = np.array([len(tokens[i].encode()) + 1 for i in self._ranked])
        self._file_bytes = np.concatenate(([0], np.cumsum(lengths)))
        self.score = score
        self._rankings[score] = self

    def __len__(self) -> int:
        return len(self._ranked)

    def size(self, keep: float) -> int:
        """Number of entries that a keep-ratio leaves; never fewer than specials and characters."""
        return min(max(round(keep * len(self)), self._base), len(self))

    def file_bytes(self, size: int) -> int:
        """Bytes of `vocab.txt` with the first `size` ranked entries, one a line."""
        return int(self._file_bytes[size])

    def teacher_ids(self, size: int) -> np.ndarray:
        """The teacher's ids of the kept entries, int64 [size], in the order of the student's ids."""
        special = self._ranked[: len(SPECIAL_TOKENS)]
        return np.concatenate((special, np.sort(self._ranked[len(SPECIAL_TOKENS) : size])))

    def rows_of_teacher_ids(self) -> np.ndarray:
        """For each id of the teacher, that of a student which keeps all entries, int64 [V]."""
        ids = self.teacher_ids(len(self))
        rows = np.empty(len(ids), np.int64)
        rows[ids] = np.arange(len(ids))
        return rows

    def tokens(self, size: int) -> list[str]:
        """The kept entries in the order of the student's ids: specials, then as in the teacher's vocabulary."""
        return [self.teacher_tokens[i] for i in self.teacher_ids(size)]


def _is_character(token: str) -> bool:
    character = token.removeprefix("##")
    return len(character) == 1 and character.isascii() and (character == token or character.isalnum())
