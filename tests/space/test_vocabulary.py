from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from space import Vocabulary
from space.config import VocabularyScore
from space.vocabulary import SPECIAL_TOKENS


def small(score=None) -> Vocabulary:
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "film", "fun", "##ny"]
    score = np.zeros(len(tokens)) if score is None else np.array(score)
    return Vocabulary(tokens, score, np.zeros(len(tokens)))


def test_specials_then_characters_then_by_score():
    vocabulary = small([0, 9, 0, 0, 0, 0, 0, 0, 1, 3, 2])
    assert vocabulary.tokens(7) == [*SPECIAL_TOKENS, "a", "##b"]
    assert "[unused0]" in vocabulary.tokens(8)  # a score above all others outranks the placeholder's name
    assert vocabulary.tokens(10)[5:] == ["[unused0]", "a", "##b", "fun", "##ny"]


def test_ties_go_to_earlier_entries_and_placeholders_go_last():
    assert small().tokens(8)[5:] == ["a", "##b", "film"]
    assert small().tokens(11)[5:] == ["[unused0]", "a", "##b", "film", "fun", "##ny"]


def test_keep_never_cuts_specials_and_characters():
    vocabulary = small()
    assert vocabulary.size(0.001) == 7
    assert vocabulary.size(1.0) == len(vocabulary) == 11


def test_file_bytes_are_those_of_the_lines(vocabulary):
    for keep in (0.01, 0.1, 0.5, 1.0):
        size = vocabulary.size(keep)
        lines = "".join(f"{token}\n" for token in vocabulary.tokens(size))
        assert vocabulary.file_bytes(size) == len(lines.encode())


def test_teacher_ids_point_at_the_tokens(vocabulary):
    size = vocabulary.size(0.3)
    ids = vocabulary.teacher_ids(size)
    assert [vocabulary.teacher_tokens[i] for i in ids] == vocabulary.tokens(size)
    assert len(set(ids.tolist())) == size
    assert vocabulary.tokens(size)[:5] == list(SPECIAL_TOKENS)


def test_other_kinds_of_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"lacks \[PAD\]"):
        Vocabulary(["<s>", "a"], np.zeros(2), np.zeros(2))


def test_scores_rank_by_the_sum_or_mean_of_attention_or_by_frequency():
    tokens = [*SPECIAL_TOKENS, "often", "rare", "middling", "unseen", "elsewhere"]
    attention, count = np.zeros(10), np.zeros(10)
    attention[5:] = [6.0, 2.0, 5.0, 0.0, 0.0]
    count[5:] = [10, 1, 4, 0, 0]
    further = np.zeros(10)
    further[9] = 3
    vocabulary = Vocabulary(tokens, attention, count, further_count=further)
    best = {score: vocabulary.ranked_by(score).tokens(6)[5] for score in get_args(VocabularyScore)}
    assert best == {"attention_sum": "often", "attention_mean": "rare", "frequency": "often"}
    assert vocabulary.ranked_by("frequency").tokens(7)[5:] == ["often", "middling"]
    assert vocabulary.ranked_by("attention_mean").tokens(7)[5:] == ["rare", "middling"]
    for score in get_args(VocabularyScore):
        ranked = vocabulary.ranked_by(score)
        assert ranked.ranked_by("attention_sum") is vocabulary
        # Seen in further text only: after all that the training text has.
        assert "elsewhere" in ranked.tokens(9)
        assert "unseen" not in ranked.tokens(9)
