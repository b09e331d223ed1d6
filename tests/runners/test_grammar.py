from __future__ import annotations

import hashlib

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from runners import grammar, grammar_words
from runners.grammar import sentiment


def test_the_same_seed_gives_the_same_bytes() -> None:
    rows = sentiment(300, 50, seed=7)
    assert rows == sentiment(300, 50, seed=7)
    assert rows != sentiment(300, 50, seed=8)
    assert hashlib.sha256(repr(rows).encode()).hexdigest().startswith("4e2de08ab530a103")


def test_splits_are_disjoint_balanced_and_of_the_asked_size() -> None:
    train, validation = sentiment(4000, 500, seed=0)
    assert (len(train), len(validation)) == (4000, 500)
    assert len({text for text, _ in train + validation}) == 4500
    assert 0.46 < sum(label for _, label in train) / 4000 < 0.54
    assert {label for _, label in train} == {0, 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bag_of_words_does_not_solve_it(seed: int) -> None:
    train, validation = sentiment(4000, 500, seed)
    count = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=2000)
    model.fit(count.fit_transform([text for text, _ in train]), [label for _, label in train])
    accuracy = model.score(count.transform([text for text, _ in validation]), [label for _, label in validation])
    assert accuracy < 0.75
    assert 250 < len(count.vocabulary_) < 500


def test_a_reader_who_knows_the_grammar_agrees_with_the_label() -> None:
    """Read plain statements the way a person does: mood of the word, turned round under a negation."""
    negations = {*grammar_words.NEGATORS, *grammar_words.VERB_NEGATORS, "nobody"}
    good = {*grammar_words.POSITIVE, *grammar_words.POSITIVE_VERBS}
    bad = {*grammar_words.NEGATIVE, *grammar_words.NEGATIVE_VERBS}
    draw = grammar._Draw(3)
    for positive in [True, False] * 300:
        clause = f" {grammar._clause(draw, positive)} "
        moods = [word in good for word in clause.split() if word in good | bad]
        negated = any(f" {words} " in clause for words in negations)
        assert moods == [positive != negated], clause


def test_mood_words_are_used_for_one_mood_only() -> None:
    good = [*grammar_words.POSITIVE, *grammar_words.POSITIVE_VERBS]
    bad = [*grammar_words.NEGATIVE, *grammar_words.NEGATIVE_VERBS]
    assert len(set(good + bad)) == len(good) + len(bad)


def test_asking_for_many_sentences_works_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = sentiment(20_000, 5_000, seed=0)
    assert len({text for text, _ in train + validation}) == 25_000
    monkeypatch.setattr(grammar, "_sentence", lambda draw, positive: "the only sentence .")
    with pytest.raises(ValueError, match="does not readily make 10"):
        sentiment(5, 5, seed=0)
