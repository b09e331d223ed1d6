"""Word pieces from distinct words are those that the tokenizer makes of the whole text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from runners.spelling import SpecialIds, Words, spell, split_words, text_tokenizer
from runners.wordpiece import encode_texts, wordpiece
from space.normalization import Normalization
from space.vocabulary import CLS_ID, PAD_ID, SEP_ID, SPECIAL_TOKENS

LETTERS = [letter for character in "abcdei" for letter in (character, f"##{character}")]
LARGE = [*SPECIAL_TOKENS, *LETTERS, ".", ",", "#", "ab", "##cd", "abc", "de", "##de", "cab", "é", "中", "σ", "##σ"]
SMALL = [*SPECIAL_TOKENS, "a", "##a", "##b", "c", "##c", "##cd", "de", ".", "#"]
STUDENT = SpecialIds(CLS_ID, SEP_ID, PAD_ID)
ALPHABET = st.sampled_from([*"abcdeiABé  .,#-\n\tzÉİßΣς中国", "[SEP]", "[UNK]", "##", "\u0301", "\u200b", "가"])
TEXTS = st.lists(ALPHABET, max_size=24).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    folder = tmp_path_factory.mktemp("large")
    (folder / "vocab.txt").write_text("\n".join(LARGE) + "\n", encoding="utf-8")
    return text_tokenizer(BertTokenizer.from_pretrained(folder, do_lower_case=True))


def _same(words: Words, texts: list[str], pairs: list[str] | None, vocabulary: list[str], length: int) -> None:
    student = wordpiece(vocabulary, Normalization(), length)
    found, expected = spell(words, student, STUDENT, length), encode_texts(student, texts, pairs)
    np.testing.assert_array_equal(found.starts, expected.starts)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.pad == expected.pad
    if pairs is None:
        assert found.segments is None
    else:
        np.testing.assert_array_equal(found.segments, expected.segments)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), length=st.integers(4, 20))
@example(texts=["", "xyz ab", "[SEP] ##a"], length=6)
def test_single_texts(tokenizer: tokenizers.Tokenizer, texts: list[str], length: int) -> None:
    words = split_words(tokenizer, texts, None)
    for vocabulary in (LARGE, SMALL):
        _same(words, texts, None, vocabulary, length)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5), length=st.integers(5, 20))
@example(rows=[("ab " * 9, "cab " * 9), ("a", "b " * 30), ("b " * 30, "a"), ("", "")], length=10)
def test_pairs(tokenizer: tokenizers.Tokenizer, rows: list[tuple[str, str]], length: int) -> None:
    texts, pairs = [first for first, _ in rows], [second for _, second in rows]
    words = split_words(tokenizer, texts, pairs)
    for vocabulary in (LARGE, SMALL):
        _same(words, texts, pairs, vocabulary, length)


@pytest.mark.parametrize("first", range(1, 14))
def test_pairs_are_cut_like_the_library_cuts_them(tokenizer: tokenizers.Tokenizer, first: int) -> None:
    rows = [("a " * first, "b " * second) for second in range(1, 14)]
    texts, pairs = [text for text, _ in rows], [text for _, text in rows]
    words = split_words(tokenizer, texts, pairs)
    for length in range(5, 18):
        _same(words, texts, pairs, LARGE, length)


def test_words_are_kept_once(tokenizer: tokenizers.Tokenizer) -> None:
    words = split_words(tokenizer, ["Abc zz, abc", "abc ZZ"], None)
    assert sorted(words.words) == [",", "ZZ", "abc", "zz"]  # what the vocabulary cannot spell stays as written
    assert words.starts.tolist() == [0, 4, 6]
    assert [words.words[place] for place in words.places] == ["abc", "zz", ",", "abc", "abc", "ZZ"]


def test_many_texts_are_put_together_in_parts(tokenizer: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.spelling._ROWS", 3)
    monkeypatch.setattr("runners.spelling._CHUNK", 2)
    texts = [f"{'ab ' * number}. de" for number in range(11)]
    _same(split_words(tokenizer, texts, None), texts, None, SMALL, 12)
    pairs = texts[::-1]
    _same(split_words(tokenizer, texts, pairs), texts, pairs, SMALL, 12)


def test_a_hugging_face_tokenizer_agrees(model: Path) -> None:
    found = BertTokenizer.from_pretrained(model)
    texts = ["the film was good .", "the film was not good but the plot was bad ."]
    special = SpecialIds(found.cls_token_id, found.sep_token_id, found.pad_token_id)
    pieces = text_tokenizer(found)
    encoded = spell(split_words(pieces, texts, texts[::-1]), pieces, special, 15)
    expected = found(texts, texts[::-1], truncation=True, max_length=15)
    assert encoded.ids.tolist() == [index for row in expected["input_ids"] for index in row]
    assert encoded.segments is not None
    assert encoded.segments.tolist() == [index for row in expected["token_type_ids"] for index in row]
