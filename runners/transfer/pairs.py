"""New pairs of texts for pair tasks, made from the texts that are there.

Pair tasks have few labelled pairs, and few unlabelled ones are at hand. The teacher can score any two texts, but two
random ones are unrelated and teach one answer only. Four kinds of pairs cover the range of its answers:

- near: a first text with a second text that is near it by the sentence embedding of the pretrained teacher;
- edited: a text and a copy of it or of its partner with words left out or swapped;
- swapped: a pair of the train split in the other order;
- random: any first text with any second text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runners.task import Examples
from runners.task.matching import match_key
from runners.transfer.cleaning import Sieve
from runners.transfer.edits import edited
from space.errors import InputError

SHARES = {"swapped": 0.1, "random": 0.1, "near": 0.5, "edited": 0.3}
NEIGHBOURS = 16  # of each first text; the nearest come first
_CANDIDATES = 20_000  # first and second texts, at most, that neighbours are sought among
_TRIES = 20  # draws for each random or edited pair, before it is found that there are no more

Nearest = Callable[[Sequence[str], Sequence[str], int], npt.NDArray[np.int64]]
_Pair = tuple[str, str]


@dataclass(frozen=True)
class NewPairs:
    """Pairs made, by kind: as many first texts, second texts and kinds."""

    texts: list[str]
    pairs: list[str]
    kinds: list[str]


def pair_key(first: str, second: str) -> tuple[str, str]:
    """What equal pairs have in common; see `match_key`."""
    return match_key(first), match_key(second)


def recombine(
    train: Examples,
    sentences: Sequence[str],
    count: int,
    seed: int,
    sieve: Sieve,
    nearest: Nearest,
    section: str = "transfer",
) -> NewPairs:
    """So many new pairs, each once, none of them in what the sieve knows.

    First texts come from the first column of the train split, second texts from the second, since they may play
    different parts (a question and an answer); `sentences` of other sources may stand in either place.

    Args:
        train: pairs of texts.
        sentences: further texts.
        count: pairs to make.
        seed: of all choices.
        sieve: knows the validation pairs in either order, and the train pairs in their own; takes the pairs that are
            made.
        nearest: for each text of the first list, places in the second list of so many nearest texts, nearest first.
        section: of the study file, for messages.

    Raises:
        InputError: there are not so many different pairs.
    """
    generator = np.random.default_rng(seed)
    assert train.pairs is not None
    firsts = list(dict.fromkeys([*train.texts, *sentences]))
    seconds = list(dict.fromkeys([*train.pairs, *sentences]))
    makers: dict[str, Callable[[int], Iterator[_Pair]]] = {
        "swapped": lambda wanted: _swapped(train, generator),
        "random": lambda wanted: _random(firsts, seconds, wanted, generator),
        "near": lambda wanted: _near(firsts, seconds, nearest, wanted, generator),
        "edited": lambda wanted: _edited(train, sentences, wanted, generator),
    }
    found: list[_Pair] = []
    kinds: list[str] = []
    # What one kind lacks, the next makes up for: swapped pairs run out first, edited ones last.
    share_left, left = 1.0, count
    for kind, make in makers.items():
        wanted = left if kind == "edited" else round(left * SHARES[kind] / share_left)
        share_left -= SHARES[kind]
        made = _admitted(make(wanted), wanted, sieve)
        found += made
        kinds += [kind] * len(made)
        left -= len(made)
    if left:
        raise InputError(
            f"{section}.recombine asks for {count:,} pairs, but only {count - left:,} different ones could be made "
            f"from {len(train):,} train pairs and {len(sentences):,} sentences.",
            "Lower it, or add a source of sentences.",
        )
    return NewPairs([first for first, _ in found], [second for _, second in found], kinds)


def _admitted(made: Iterator[_Pair], wanted: int, sieve: Sieve) -> list[_Pair]:
    found: list[_Pair] = []
    while len(found) < wanted:
        pair = next(made, None)
        if pair is None:
            break
        key = pair_key(*pair)
        if key[0] != key[1] and sieve.admits(key):
            found.append(pair)
    return found


def _swapped(train: Examples, generator: np.random.Generator) -> Iterator[_Pair]:
    assert train.pairs is not None
    for row in generator.permutation(len(train)):
        yield train.pairs[row], train.texts[row]


def _edited(train: Examples, sentences: Sequence[str], wanted: int, generator: np.random.Generator) -> Iterator[_Pair]:
    """Half the pairs are a text and a copy of it, half a text and a copy of its partner."""
    assert train.pairs is not None
    own = [*train.texts, *train.pairs, *sentences]
    for _ in range(wanted * _TRIES):
        if generator.random() < 0.5 or len(train) == 0:
            text = own[int(generator.integers(len(own)))]
            pair = (text, edited(text, generator))
            yield pair if generator.random() < 0.5 else (pair[1], pair[0])
        else:
            row = int(generator.integers(len(train)))
            yield train.texts[row], edited(train.pairs[row], generator)


def _near(
    firsts: list[str], seconds: list[str], nearest: Nearest, wanted: int, generator: np.random.Generator
) -> Iterator[_Pair]:
    left = [firsts[place] for place in generator.permutation(len(firsts))[: min(wanted, _CANDIDATES)]]
    right = [seconds[place] for place in generator.permutation(len(seconds))[:_CANDIDATES]]
    places = nearest(left, right, min(NEIGHBOURS, len(right)))
    for rank in range(places.shape[1]):
        for row, first in enumerate(left):
            yield first, right[places[row, rank]]


def _random(firsts: list[str], seconds: list[str], wanted: int, generator: np.random.Generator) -> Iterator[_Pair]:
    for _ in range(wanted * _TRIES):
        yield firsts[int(generator.integers(len(firsts)))], seconds[int(generator.integers(len(seconds)))]
