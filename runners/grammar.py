"""Reviews from a seeded grammar: text for `quickstart`, without a data hub.

The mood of a sentence is composed, not summed up: negation turns a word round, contrast lets one half win over
the other, intensifiers and diminishers decide between halves of equal rank, and a good part of the words says
nothing. Every mood word stands in sentences of both labels: counting words gets some of it (about 0.7), far from all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from runners.grammar_words import (
    ASPECTS,
    ASPECTS_OF,
    BACKGROUND,
    DIMINISHERS,
    FORMER,
    INTENSIFIERS,
    LINKS,
    NEGATIVE,
    NEGATIVE_VERBS,
    NEGATORS,
    OTHERS,
    POSITIVE,
    POSITIVE_VERBS,
    SETTINGS,
    VERB_NEGATORS,
)

POSITIVE_LABEL = 1
_DOMAINS = {word: domain for domain, words in ASPECTS_OF.items() for word in words}
_ATTEMPTS = 50  # draws in a row that bring nothing new before the grammar counts as used up


def sentiment(train: int, validation: int, seed: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Make labelled sentences: 0 negative, 1 positive, half of each up to chance.

    The sentences of both splits together are all different. The same arguments give the same bytes on every
    machine: only `random.Random.random` is drawn from, whose sequence Python promises to keep.

    Args:
        train, validation: sentences in each split.
        seed: any integer.

    Raises:
        ValueError: more sentences than the grammar readily makes.
    """
    draw = _Draw(seed)
    seen: set[str] = set()
    rows: list[tuple[str, int]] = []
    fruitless = 0
    while len(rows) < train + validation:
        label = POSITIVE_LABEL if draw.chance(0.5) else 1 - POSITIVE_LABEL
        text = _sentence(draw, label == POSITIVE_LABEL)
        if text in seen:
            fruitless += 1
            if fruitless > _ATTEMPTS:
                raise ValueError(f"the grammar does not readily make {train + validation} different sentences")
            continue
        fruitless = 0
        seen.add(text)
        rows.append((text, label))
    return rows[:train], rows[train:]


def domain_of(text: str) -> str:
    """What a sentence is about: the domain of the first aspect that it names.

    Raises:
        ValueError: it names none; every sentence of the grammar does.
    """
    for word in text.split():
        if word in _DOMAINS:
            return _DOMAINS[word]
    raise ValueError(f"no sentence of the grammar: {text!r}")


class _Draw:
    """Choices that depend on `random()` only."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def share(self) -> float:
        return self._random.random()

    def chance(self, probability: float) -> bool:
        return self.share() < probability

    def one(self, words: Sequence[str]) -> str:
        return words[int(self.share() * len(words))]


def _sentence(draw: _Draw, positive: bool) -> str:
    """One line. The shares below leave a bag of words about two thirds right, and a small student that reads
    word order can reach 95 % from some thousand sentences; more negation than that and it finds no start."""
    kind = draw.share()
    if kind < 0.42:
        text = _clause(draw, positive)
    elif kind < 0.64:
        text = _contrast(draw, positive)
    elif kind < 0.72:
        text = _two_degrees(draw, positive)
    elif kind < 0.77:
        text = _hearsay(draw, positive)
    else:
        text = f"{_clause(draw, positive)} and {_clause(draw, positive)}"
    if draw.chance(0.15):
        text = f"{draw.one(SETTINGS)} , {text}"
    if draw.chance(0.15):
        text = f"{text} . {draw.one(BACKGROUND)}"
    return f"{text} ."


def _clause(draw: _Draw, positive: bool, turned: float = 0.25) -> str:
    """One statement; with probability `turned` it says the opposite word under a negation."""
    aspect = draw.one(ASPECTS)
    if draw.chance(turned):
        word = draw.one(NEGATIVE if positive else POSITIVE)
        verb = draw.one(NEGATIVE_VERBS if positive else POSITIVE_VERBS)
        form = draw.share()
        if form < 0.55:
            return f"the {aspect} {draw.one(LINKS)} {draw.one(NEGATORS)} {word}"
        if form < 0.75:
            return f"nobody would call the {aspect} {word}"
        return f"i {draw.one(VERB_NEGATORS)} {verb} the {aspect}"
    if draw.chance(0.25):
        return f"i {draw.one(POSITIVE_VERBS if positive else NEGATIVE_VERBS)} the {aspect}"
    degree = f"{draw.one(INTENSIFIERS)} " if draw.chance(0.35) else ""
    return f"the {aspect} {draw.one(LINKS)} {degree}{draw.one(POSITIVE if positive else NEGATIVE)}"


def _contrast(draw: _Draw, positive: bool) -> str:
    """Two opposite halves; the grammar of the sentence says which one counts."""
    loses, wins = _clause(draw, not positive, 0.05), _clause(draw, positive, 0.05)
    form = draw.share()
    if form < 0.5:
        return f"{loses} but {wins}"
    if form < 0.75:
        return f"although {loses} , {wins}"
    return f"{wins} , even though {loses}"


def _two_degrees(draw: _Draw, positive: bool) -> str:
    """Two opposite halves of equal rank; the stronger one counts."""
    first, second = draw.one(ASPECTS), draw.one(ASPECTS)
    strong = f"{draw.one(LINKS)} {draw.one(INTENSIFIERS)} {draw.one(POSITIVE if positive else NEGATIVE)}"
    weak = f"{draw.one(LINKS)} {draw.one(DIMINISHERS)} {draw.one(NEGATIVE if positive else POSITIVE)}"
    if draw.chance(0.5):
        return f"the {first} {strong} while the {second} {weak}"
    return f"the {first} {weak} while the {second} {strong}"


def _hearsay(draw: _Draw, positive: bool) -> str:
    """What others thought does not count; what the writer found does."""
    heard = draw.one(NEGATIVE if positive else POSITIVE)
    return f"{draw.one(OTHERS)} {draw.one(FORMER)} it {heard} , yet {_clause(draw, positive, 0.05)}"
