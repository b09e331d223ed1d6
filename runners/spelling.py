"""Texts as words, so that each distinct word is split into word pieces once for every vocabulary.

A trial's vocabulary is its own, but the words of the text are the same in all trials: WordPiece splits every word
by itself. A text of 150,000 sentences has millions of words, few of them distinct.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from runners.batches import Encoded
from runners.word_places import NO_PIECE, WordPlaces

_CHUNK = 4096  # texts per call of the tokenizer: bounds its memory
_ROWS = 65_536  # texts that are put together at a time: bounds memory
_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Words:
    """n texts, or pairs of texts, as places in a list of words.

    Attributes:
        words: the distinct words.
        places: int32 [words in all], in `words`.
        starts: int64 [n + 1], where the words of each text begin in `places`.
        first: int64 [n], words of the first text of a pair; None for single texts.
    """

    words: list[str]
    places: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class SpecialIds:
    """Ids that a vocabulary has for `[CLS]`, `[SEP]` and `[PAD]`."""

    cls: int
    sep: int
    pad: int


def text_tokenizer(tokenizer: Any) -> tokenizers.Tokenizer:
    """The word pieces of a Hugging Face tokenizer, without truncation, and without special tokens in the text."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description.update(added_tokens=[], truncation=None, padding=None)
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def split_words(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None) -> Words:
    """The words of texts, or of pairs of texts.

    Args:
        tokenizer: WordPiece, from `text_tokenizer`; its normalisation and its idea of a word count, hardly its
            vocabulary.
    """
    unknown = tokenizer.token_to_id(json.loads(tokenizer.to_str())["model"]["unk_token"])
    pieces = {index: token for token, index in tokenizer.get_vocab().items()}
    continues = np.zeros(max(pieces) + 1, bool)
    for index, token in pieces.items():
        continues[index] = token.startswith("##")
    rows = texts if pairs is None else [text for pair in zip(texts, pairs, strict=True) for text in pair]
    # A word of one piece goes by the id of its piece, any other by a number above all ids.
    numbers: dict[str, int] = {}
    codes: list[_Ids] = []
    for start in range(0, len(rows), _CHUNK):
        part = list(rows[start : start + _CHUNK])
        for text, encoding in zip(part, tokenizer.encode_batch_fast(part, add_special_tokens=False), strict=True):
            ids = np.array(encoding.ids, np.int64)
            begins = np.flatnonzero(~continues[ids])
            found: _Ids = ids[begins]
            ends: _Ids = np.append(begins[1:], len(ids))
            for place in np.flatnonzero(ends - begins > 1):
                word = "".join(pieces[int(index)].removeprefix("##") for index in ids[begins[place] : ends[place]])
                found[place] = numbers.setdefault(word, len(continues) + len(numbers))
            if (found == unknown).any():
                for number, word in _unknown_words(tokenizer, text, unknown, continues):
                    found[number] = numbers.setdefault(word, len(continues) + len(numbers))
            codes.append(found)
    distinct, places = np.unique(np.concatenate(codes) if codes else np.zeros(0, np.int64), return_inverse=True)
    spelled = list(numbers)
    words = [pieces[code] if code < len(continues) else spelled[code - len(continues)] for code in distinct.tolist()]
    counts = np.array([len(row) for row in codes], np.int64)
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    if pairs is None:
        return Words(words, places.astype(np.int32), starts, None)
    return Words(words, places.astype(np.int32), starts[::2], counts[::2])


def _unknown_words(
    tokenizer: tokenizers.Tokenizer, text: str, unknown: int | None, continues: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, str]]:
    """Which words of a text the vocabulary cannot spell: their number in the text, and what they are.

    A smaller vocabulary may spell them all the same, in shorter pieces.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    place = -1
    for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        place += int(not continues[index])
        if index == unknown:
            yield place, text[start:end]


def spell(
    words: Words, tokenizer: tokenizers.Tokenizer, special: SpecialIds, max_length: int, per_token: bool = False
) -> Encoded:
    """Word pieces of texts: what the tokenizer would make of each of them, in a fraction of the time.

    Args:
        words: from `split_words`.
        tokenizer: WordPiece with a vocabulary of its own, normalising as the one that the words come from.
        special: its special ids.
        max_length: ids per input, special tokens included; the longer text of a pair is cut first.
        per_token: whether words are what is labelled; then of single texts alone.
    """
    flat: list[int] = []
    lengths: list[int] = []
    for start in range(0, len(words.words), _CHUNK):
        for encoding in tokenizer.encode_batch_fast(words.words[start : start + _CHUNK], add_special_tokens=False):
            flat += encoding.ids
            lengths.append(len(encoding.ids))
    spelling = _Spelling(np.array(flat, np.int32), np.array(lengths, np.int64), special, max_length)
    parts = [spelling.rows(words, first, min(first + _ROWS, len(words))) for first in range(0, len(words), _ROWS)]
    counts = np.concatenate([np.zeros(1, np.int64), *(part[2] for part in parts)])
    return Encoded(
        ids=np.concatenate([np.zeros(0, np.int32), *(part[0] for part in parts)]),
        segments=None if words.first is None else np.concatenate([np.zeros(0, np.uint8), *(p[1] for p in parts)]),
        starts=np.cumsum(counts),
        pad=special.pad,
        words=_places(words, np.array(lengths, np.int64), max_length) if per_token else None,
    )


def _places(words: Words, lengths: _Ids, max_length: int) -> WordPlaces:
    """Where the words of single texts begin, from how many pieces each distinct word has."""
    per_word = lengths[words.places]
    before = np.cumsum(per_word) - per_word
    in_text = before - np.repeat(np.append(before, 0)[words.starts[:-1]], np.diff(words.starts))
    first = np.where((in_text < max_length - 2) & (per_word > 0), in_text + 1, NO_PIECE)
    return WordPlaces(first.astype(np.int32), np.asarray(words.starts))


class _Spelling:
    """Puts inputs together from the pieces of words."""

    def __init__(self, flat: npt.NDArray[np.int32], lengths: _Ids, special: SpecialIds, max_length: int) -> None:
        self._flat, self._lengths, self._special, self._max_length = flat, lengths, special, max_length
        self._begins = np.cumsum(lengths) - lengths

    def rows(self, words: Words, first: int, last: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], _Ids]:
        """Ids, segments and lengths of the inputs `first` to `last`."""
        bounds = words.starts[first : last + 1]
        places = words.places[bounds[0] : bounds[-1]]
        per_word = self._lengths[places]
        before = np.concatenate(([0], np.cumsum(per_word)))  # pieces before each word
        inside = np.arange(before[-1]) - np.repeat(before[:-1], per_word)
        pieces = self._flat[np.repeat(self._begins[places], per_word) + inside]
        bounds = bounds - bounds[0]
        if words.first is None:
            edges = before[bounds]
            kept = np.minimum(np.diff(edges), self._max_length - 2)
            counts = kept + 2
            targets = np.cumsum(counts) - counts + 1
        else:
            middles = bounds[:-1] + words.first[first:last]
            edges = before[np.append(np.stack([bounds[:-1], middles], 1).ravel(), bounds[-1])]
            pair = _cut_longest_first(np.diff(edges).reshape(-1, 2), self._max_length - 3)
            counts = pair.sum(1) + 3
            begins = np.cumsum(counts) - counts + 1
            targets = np.stack([begins, begins + pair[:, 0] + 1], 1).ravel()
            kept = pair.ravel()
        spans = np.diff(edges)
        order = np.arange(len(pieces)) - np.repeat(edges[:-1], spans)
        taken = order < np.repeat(kept, spans)
        ids = np.full(int(counts.sum()), self._special.sep, np.int32)
        ids[np.cumsum(counts) - counts] = self._special.cls
        ids[(np.repeat(targets, spans) + order)[taken]] = pieces[taken]
        segments = np.zeros(len(ids), np.uint8)
        if words.first is not None:
            second = targets[1::2]
            spread = np.repeat(second, counts)
            segments[:] = np.arange(len(ids)) >= spread
        return ids, segments, counts


def _cut_longest_first(lengths: _Ids, room: int) -> _Ids:
    """Lengths [n, 2] cut so that each pair fits into `room`, as the `tokenizers` library cuts them."""
    short = lengths.min(1)
    fits_short = np.minimum(short, room // 2)
    cut = np.where(lengths <= lengths[:, ::-1], fits_short[:, None], (room - fits_short)[:, None])
    # Of two equally long texts that must both be cut, the second keeps the odd piece.
    equal = (lengths[:, 0] == lengths[:, 1]) & (lengths.sum(1) > room)
    cut[equal] = (room // 2, room - room // 2)
    return np.where((lengths.sum(1) > room)[:, None], cut, lengths)
