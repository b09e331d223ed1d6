"""Pre-training text in word pieces of vocabularies of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runners.batches import Encoded
from runners.pretraining.corpus import Corpus
from runners.wordpiece import wordpiece
from space.vocabulary import PAD_ID, Vocabulary

# Shares of the vocabulary: students of tasks keep few entries, and spell the other words in pieces that text in the
# whole vocabulary hardly ever holds.
KEPT = (1.0, 0.3, 0.1)


def mixed_spellings(corpus: Corpus, part: str, vocabulary: Vocabulary, max_length: int, seed: int) -> Encoded:
    """Each text of a part in the pieces of one of the vocabularies `KEPT`, drawn evenly; ids of the whole vocabulary.

    Args:
        corpus: of the texts.
        part: of the corpus.
        vocabulary: in the order in which entries are kept.
        max_length: ids per input.
        seed: of the draw.
    """
    rows = vocabulary.rows_of_teacher_ids()
    found = []
    for keep in KEPT:
        size = vocabulary.size(keep)
        tokenizer = wordpiece(vocabulary.tokens(size), vocabulary.normalization, max_length)
        encoded = corpus.encoded(part, tokenizer, max_length)
        found.append(
            Encoded(
                rows[vocabulary.teacher_ids(size)][encoded.ids].astype(np.int32),
                encoded.segments,
                encoded.starts,
                PAD_ID,
            )
        )
    return choose_rows(found, np.random.default_rng(seed).integers(len(KEPT), size=len(found[0])))


def choose_rows(spellings: Sequence[Encoded], choice: npt.NDArray[np.int64]) -> Encoded:
    """Text i as `spellings[choice[i]]` has it.

    Args:
        spellings: of the same n pairs of texts, or texts with segments.
        choice: int64 [n].
    """
    lengths = np.choose(choice, [encoded.lengths for encoded in spellings])
    starts = np.concatenate(([0], np.cumsum(lengths)))
    ids, segments = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.uint8)
    owner = np.repeat(choice, lengths)
    for number, encoded in enumerate(spellings):
        assert encoded.segments is not None
        taken = np.repeat(choice == number, encoded.lengths)
        ids[owner == number], segments[owner == number] = encoded.ids[taken], encoded.segments[taken]
    return Encoded(ids, segments, starts, spellings[0].pad)
