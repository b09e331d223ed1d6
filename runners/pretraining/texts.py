"""The text that an encoder is pre-trained on: read, split, cleaned, sampled, and put together to pairs."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runners.pretraining.spec import PretrainingSpec
from runners.spelling import text_tokenizer
from runners.task import Examples
from runners.task.matching import match_key
from runners.transfer.cleaning import Counts, Sieve, even_sample
from runners.transfer.neighbours import nearest_texts
from runners.transfer.pairs import pair_key, recombine
from runners.transfer.read import read_rows
from runners.transfer.sentences import fit, split_sentences
from runners.transfer.spec import FileSource, HubSource
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.pretraining")
SOURCES, EXCLUDE = "pretraining.sources", "pretraining.exclude"
_SPECIAL_TOKENS = 2  # [CLS] and [SEP] of a single text


@dataclass(frozen=True)
class PretrainingTexts:
    """Single texts and pairs of texts; labels are all 0.

    Attributes:
        single: texts by themselves.
        paired: pairs of sources with two columns, then those that were made.
    """

    single: Examples
    paired: Examples


def gather_texts(spec: PretrainingSpec, tokenizer: Any, model: Path) -> PretrainingTexts:
    """All text of a section `pretraining`. Deterministic.

    Args:
        spec: of the study.
        tokenizer: of the teacher.
        model: folder of the teacher, which finds near pairs.

    Raises:
        InputError: a source cannot be read or leaves no text; more pairs than can be made.
    """
    excluded = frozenset(key for source in spec.exclude for key in _keys(source))
    pieces, sieve = text_tokenizer(tokenizer), Sieve(excluded, ())
    texts: list[str] = []
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    neighbours: list[tuple[str, str]] = []
    for index, source in enumerate(spec.sources):
        generator = np.random.default_rng((spec.seed, index))
        if source.pairs:
            found = _pairs(source, excluded, pairs, generator)
            pairs.update(found)
            count = len(found)
        else:
            taken = _texts(source, pieces, spec.max_length - _SPECIAL_TOKENS, sieve, generator)
            texts += taken
            neighbours += itertools.pairwise(taken)
            count = len(taken)
        where = source.hub if isinstance(source, HubSource) else source.path
        if not count:
            raise InputError(f"Source {where} of pretraining leaves no text to learn from.")
        _log.info("Pre-training text of %s: %d taken", where, count)
    rows = list(pairs.values())
    if spec.recombine:
        # Where no source has pairs, sentences that follow each other stand in for them.
        known = rows or neighbours

        def nearest(left: Any, right: Any, count: int) -> Any:
            return nearest_texts(left, right, count, model, tokenizer, spec.max_length)

        first, second = [pair[0] for pair in known], [pair[1] for pair in known]
        made = recombine(
            _examples(first, second), texts, spec.recombine, spec.seed, Sieve((), pairs), nearest, "pretraining"
        )
        rows += zip(made.texts, made.pairs, strict=True)
    return PretrainingTexts(_examples(texts, None), _examples([pair[0] for pair in rows], [pair[1] for pair in rows]))


def _texts(
    source: FileSource | HubSource, tokenizer: Any, room: int, sieve: Sieve, generator: np.random.Generator
) -> list[str]:
    """A sample of the texts of a source that are new, in their order."""
    texts = read_rows(source, SOURCES).texts
    if source.sentences:
        texts = [sentence for text in texts for sentence in split_sentences(text)]
    keys = [match_key(text) for text in texts]
    new = sieve.new(keys, Counts())
    new = new[even_sample(len(new), source.limit, generator)]
    sieve.take(keys[place] for place in new)
    taken = [texts[place].strip() for place in new]
    return [part for parts in fit(taken, tokenizer, room) for part in parts] if source.sentences else taken


def _pairs(
    source: FileSource | HubSource, excluded: frozenset[str], known: Any, generator: np.random.Generator
) -> dict[tuple[str, str], tuple[str, str]]:
    """A sample of the pairs of a source that are new and hold no excluded text, by their keys."""
    rows = read_rows(source, SOURCES)
    assert rows.pairs is not None
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for pair in zip(rows.texts, rows.pairs, strict=True):
        key = pair_key(*pair)
        if "" not in key and excluded.isdisjoint(key) and key not in known:
            found.setdefault(key, (pair[0].strip(), pair[1].strip()))
    items = list(found.items())
    return dict(items[place] for place in even_sample(len(items), source.limit, generator))


def _keys(source: FileSource | HubSource) -> set[str]:
    """Keys of the texts of a source, and of their sentences: another source may hold a longer stretch split up."""
    rows = read_rows(source, EXCLUDE)
    texts = [*rows.texts, *(rows.pairs or ())]
    sentences = (sentence for text in texts for sentence in split_sentences(text))
    return {match_key(text) for text in itertools.chain(texts, sentences)} - {""}


def _examples(texts: list[str], pairs: list[str] | None) -> Examples:
    return Examples(texts, pairs, np.zeros(len(texts), np.int64))
