"""Executed operators of the convolutional family, inferred piece by piece: few pieces differ in their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from space.families.base import INPUTS
from space.families.conv import graph
from space.families.conv.config import ConvConfig
from space.families.heads import answers
from space.families.pieces import linear_constants, scalar, table
from space.graph import Item
from space.operators import Program, Section, Value, input_values
from space.shape import TaskShape


def sections(config: ConvConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
    """Words, rest of the embedding, then each piece of the cells, then head."""
    stage = graph.EmbeddingStage.of(config, shape)
    values = dict(_entry(stage, tokens))
    found = [
        _words(stage.embedding_width, stage.bits, stage.storage.block_size, vocabulary_size, tokens),
        _embedding(stage, tokens),
    ]
    for piece in graph.pieces(config):
        section, values[piece.yields] = _piece(
            piece.make, piece.options, tuple(values[name] for name in piece.reads), tokens
        )
        found.append(section)
    marked = Value((1, tokens), 1.0)
    found.append(_head(shape, config.width, config.pooling, values[graph.last_state(config)], marked, tokens))
    return found


@lru_cache(maxsize=65536)
def _words(width: int, bits: int, block_size: int, vocabulary_size: int, tokens: int) -> Section:
    """The look-up of the words, by itself: all else is the same for every size of the vocabulary."""
    program = Program(table("word", "input_ids", vocabulary_size, width, bits, block_size))
    return Section(tuple(program.infer(input_values(INPUTS[1], tokens))), tokens)


@lru_cache(maxsize=65536)
def _embedding(stage: graph.EmbeddingStage, tokens: int) -> Section:
    calls = Program(graph.embedding(stage, 1).items).infer(input_values(INPUTS[stage.segments], tokens))
    return Section(tuple(calls[1:]), tokens)


@lru_cache(maxsize=65536)
def _entry(stage: graph.EmbeddingStage, tokens: int) -> dict[str, Value]:
    """What the cells find."""
    values = input_values(INPUTS[stage.segments], tokens)
    Program(graph.embedding(stage, 1).items).infer(values)
    return values


@lru_cache(maxsize=1)
def _constants() -> dict[str, Value]:
    """What pieces read beside what they name."""
    items = [scalar("byte.middle", 128.0), *linear_constants(), *graph.window_constants(("max_pool3", "conv3"))]
    return Program(items).constants


@lru_cache(maxsize=65536)
def _piece(
    make: Callable[..., Iterator[Item]], options: tuple[Any, ...], read: tuple[Value, ...], tokens: int
) -> tuple[Section, Value]:
    names = [f"read{index}" for index in range(len(read))]
    values = {**_constants(), **dict(zip(names, read, strict=True))}
    calls = Program(make(*options, "piece", *names, "yielded")).infer(values)
    return Section(tuple(calls), tokens), values["yielded"]


@lru_cache(maxsize=65536)
def _head(shape: TaskShape, width: int, pooling: str, state: Value, present: Value, tokens: int) -> Section:
    parts = (graph.head(shape, width, pooling, "state"), *answers(shape))
    program = Program(item for part in parts for item in part.items)
    return Section(tuple(program.infer({"state": state, "present": present})), tokens)
