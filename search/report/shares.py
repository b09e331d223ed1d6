"""Where a student's bytes and milliseconds go."""

from __future__ import annotations

import re
from collections.abc import Sequence

from objectives.latency import LatencyModel, LatencyReading
from space.config import StudentConfig
from space.families import get_family
from space.graph import Node, Part
from space.operators import OperatorCall
from space.shape import TaskShape

WORDS, EMBEDDING, ATTENTION, FEED_FORWARD = "word embeddings", "other embedding weights", "attention", "feed-forward"
RECURRENT, CELLS = "recurrent layers", "cells"
HEAD, GRAPH, VOCABULARY = "head", "graph", "vocab.txt"
PARTS = (WORDS, EMBEDDING, ATTENTION, FEED_FORWARD, RECURRENT, CELLS, HEAD, GRAPH, VOCABULARY)
# A weight is named after its place: `word.q`, `l0.qkv.scale`.
_EMBEDDING_NAMES = {"position", "segment", "embedding", "projection"}
_LAYER_PARTS = {
    **dict.fromkeys(("qkv", "out", "norm1"), ATTENTION),
    **dict.fromkeys(("up", "down", "norm2"), FEED_FORWARD),
}
_RECURRENT, _CELL = re.compile(r"rnn\d+"), re.compile(r"c\d+")
START, OTHER = "start of a run, memory", "other operators"


def bytes_by_part(
    config: StudentConfig, shape: TaskShape, vocabulary: Sequence[str], deployed_bytes: int
) -> dict[str, int]:
    """Deployed bytes by part, which add up to all of them: each weight counts where it is used, all else as `graph`.

    Args:
        config, shape: of the student.
        vocabulary: tokens of its `vocab.txt`.
        deployed_bytes: of its bundle.
    """
    found = dict.fromkeys(PARTS, 0)
    for part in get_family(config.family).graph(config, shape, len(vocabulary)):
        for item in part.items:
            if not isinstance(item, Node) and item.value is None:
                found[_part_of(item.name, config.family)] += Part((item,)).size
    found[VOCABULARY] = sum(len(token.encode()) + 1 for token in vocabulary)
    found[GRAPH] += deployed_bytes - sum(found.values())
    return {name: size for name, size in found.items() if size}


def _part_of(name: str, family: str) -> str:
    first, _, rest = name.partition(".")
    if first == "word":
        return WORDS
    if _RECURRENT.fullmatch(first) or (family, first) == ("birnn", "projection"):  # of the last layer's states
        return RECURRENT
    if _CELL.fullmatch(first):
        return CELLS
    if first in _EMBEDDING_NAMES:
        return EMBEDDING
    if first in ("head", "query"):  # attentive pooling has a query
        return HEAD
    return _LAYER_PARTS.get(rest.partition(".")[0], GRAPH)


def milliseconds_by_operator(
    model: LatencyModel, config: StudentConfig, shape: TaskShape, vocabulary_size: int, latency: LatencyReading
) -> dict[str, float]:
    """Milliseconds by operator as the latency model sees them; together what it predicts in all.

    What belongs to no operator (the start of a run, and what weights and activations wait for because they do not fit
    in the cache together) stands under `START`.

    Args:
        model: of the device.
        config, shape, vocabulary_size: of the student.
        latency: its reading, for the length of the text.
    """
    sections = get_family(config.family).sections(config, shape, vocabulary_size, latency.tokens)
    groups: dict[str, list[OperatorCall]] = {}
    for section in sections:
        for call in section.calls:
            groups.setdefault(_named(call), []).append(call)
    total, alone = model.predict_sections(sections).milliseconds, model.predict_calls(()).milliseconds
    found = {name: max(0.0, model.predict_calls(calls).milliseconds - alone) for name, calls in groups.items()}
    return {**found, START: max(0.0, total - sum(found.values()))}


def without_small(amounts: dict[int, dict[str, float]], most: int) -> dict[int, dict[str, float]]:
    """The same with at most so many parts, the largest over all trials; the rest stands under `OTHER`."""
    totals: dict[str, float] = {}
    for parts in amounts.values():
        for name, amount in parts.items():
            totals[name] = totals.get(name, 0.0) + amount
    kept = sorted(totals, key=lambda name: -totals[name])[: most - (len(totals) > most)]
    found = {}
    for trial, parts in amounts.items():
        found[trial] = {name: parts[name] for name in kept if name in parts}
        if rest := sum(amount for name, amount in parts.items() if name not in kept):
            found[trial][OTHER] = rest
    return found


def _named(call: OperatorCall) -> str:
    bits = dict(call.attributes).get("bits")
    return call.operator if bits is None else f"{call.operator}, {bits} bits"
