"""Sentences: nothing is lost, all of them fit."""

from __future__ import annotations

import re
import time

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.transfer.sentences import fit, split_sentences
from runners.wordpiece import wordpiece
from space.normalization import Normalization
from space.vocabulary import SPECIAL_TOKENS

LETTERS = [piece for character in "abcdefghijklmnopqrstuvwxyz" for piece in (character, f"##{character}")]
TEXTS = st.lists(
    st.sampled_from([*"abAB12.!?…,;:-\"')] \n", ". ", ".\n\n", "! ", "word ", "。", "中", "é", "Mr. ", "<br />", "가"]),
    max_size=60,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    found = wordpiece([*SPECIAL_TOKENS, *LETTERS, ".", "!", "?", ",", "word", "the", "film"], Normalization(), 512)
    found.no_truncation()
    return found


def _solid(text: str) -> str:
    return "".join(text.split())


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="... . ! ?")
@example(text=" ")
def test_nothing_but_white_space_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert _solid("".join(sentences)) == _solid(text)
    assert all(sentence and sentence == " ".join(sentence.split()) for sentence in sentences)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS, max_size=3), room=st.integers(1, 12))
@example(texts=["가", "a" * 50], room=1)
@example(texts=["word, " * 40], room=7)
def test_all_parts_fit_and_nothing_is_lost(tokenizer: tokenizers.Tokenizer, texts: list[str], room: int) -> None:
    parts = fit(texts, tokenizer, room)
    assert [_solid("".join(pieces)) for pieces in parts] == [_solid(text) for text in texts]
    for text, pieces in zip(texts, parts, strict=True):
        sizes = [len(tokenizer.encode(piece, add_special_tokens=False)) for piece in pieces]
        assert all(size <= room or len(piece) == 1 for size, piece in zip(sizes, pieces, strict=True))
        if len(tokenizer.encode(text, add_special_tokens=False)) <= room:
            assert pieces == [text]  # what fits is left alone


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A film. It is good! Is it? Yes.", ["A film.", "It is good!", "Is it?", "Yes."]),
        ("Mr. Smith and J. R. Ewing left.", ["Mr. Smith and J. R. Ewing left."]),
        ("Made in the U.S. by Ford.", ["Made in the U.S. by Ford."]),
        ("Well... maybe not... But yes.", ["Well... maybe not...", "But yes."]),
        ('"It is bad." She left.', ['"It is bad."', "She left."]),
        ("a film . it is good .", ["a film .", "it is good ."]),
        ("It cost 2.50 in all, i.e. much.", ["It cost 2.50 in all, i.e. much."]),
        ("A title\n\nThe text\ngoes on", ["A title", "The text goes on"]),
        ("好电影。我喜欢！真的吗？", ["好电影。", "我喜欢！", "真的吗？"]),
        ("no mark at all", ["no mark at all"]),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_long_sentences_are_halved_at_commas_then_at_spaces(tokenizer: tokenizers.Tokenizer) -> None:
    assert fit(["the film the film, word word word word"], tokenizer, 6) == [
        ["the film the film,", "word word word word"],
    ]
    assert fit(["the film " * 5], tokenizer, 6) == [["the film the film the", "film the film the film"]]
    assert fit(["abcdefgh"], tokenizer, 4) == [["abcd", "efgh"]]
    many = fit(["word " * 1000], tokenizer, 62)[0]
    assert 17 <= len(many) <= 24  # 17 is the least
    assert min(len(part.split()) for part in many) > 30  # no crumbs


@pytest.mark.parametrize("run", [".", "!", "?.", '."', "。"])
def test_long_runs_of_marks_take_no_longer_than_other_text(run: str) -> None:
    text = "a" + run * 40_000 + "b"  # in time that grows with its square: 18 s
    begin = time.monotonic()
    sentences = split_sentences(text)
    assert time.monotonic() - begin < 5
    assert "".join(sentences) == text


@settings(max_examples=500, deadline=None)
@given(text=st.text(".!?…\"')]。！？」”’ \nabA", max_size=30))
def test_runs_of_marks_end_sentences_as_single_marks_do(text: str) -> None:
    simple = re.compile("(?P<mark>[.!?…]+)[\"'”’»)\\]]*\\s+|[。！？]+[」』”’]*\\s*")
    with pytest.MonkeyPatch.context() as patch:
        found = split_sentences(text)
        patch.setattr("runners.transfer.sentences._ENDS", simple)
        assert split_sentences(text) == found
