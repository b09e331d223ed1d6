"""Executed operators of the transformer family, inferred from its graph in sections that configurations share."""

from __future__ import annotations

from functools import lru_cache

from space.families.base import INPUTS
from space.families.transformer import graph
from space.families.transformer.config import Layer, TransformerConfig
from space.operators import Program, Section, Value, input_values
from space.shape import TaskShape

# Any layer does where its feed-forward network, or its attention, is not looked at.
_SMALLEST = {"ffn_width": 16, "token_keep": 1.0, "attention_bits": 8, "ffn_bits": 8}
_POSITIONS = 1


def sections(config: TransformerConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
    """Embedding, then attention and feed-forward network of each layer, then head."""
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    stage = graph._EmbeddingStage.of(config)
    found = [_embedding(stage, vocabulary_size, shape.max_length, shape.segments, prunings > 0, tokens)]
    block = graph._Block.of(config)
    for layer in config.layers:
        prunes = layer.token_keep < 1
        prunings -= prunes
        found.append(_attention(block, layer.token_keep, layer.attention_bits, prunes and prunings > 0, tokens))
        tokens = found[-1].tokens
        found.append(_feed_forward(block, layer.ffn_width, layer.ffn_bits, tokens))
    found.append(_head(config.width, shape.outputs, tokens))
    return found


@lru_cache(maxsize=65536)
def _embedding(
    stage: graph._EmbeddingStage, vocabulary_size: int, positions: int, segments: int, prunes: bool, tokens: int
) -> Section:
    program = Program(graph._embedding(stage, vocabulary_size, positions, segments, prunes).items)
    return Section(tuple(program.infer(input_values(INPUTS[segments], tokens))), tokens)


@lru_cache(maxsize=4096)
def _entry(width: int, tokens: int) -> dict[str, Value]:
    """What a layer finds when it starts."""
    stage = graph._EmbeddingStage(16, 8, 16, 0, width)
    values = input_values(INPUTS[1], tokens)
    Program(graph._embedding(stage, 1, _POSITIONS, 1, True).items).infer(values)
    return values


@lru_cache(maxsize=65536)
def _layer(block: graph._Block, layer: Layer, prunings: int) -> tuple[Program, int]:
    """A layer, and where in it the feed-forward network starts."""
    program = Program(graph._layer(block, layer, 0, 0, prunings).items)
    return program, next(index for index, node in enumerate(program.nodes) if "l0.up" in node.outputs)


@lru_cache(maxsize=65536)
def _attention(block: graph._Block, keep: float, bits: int, prunes_again: bool, tokens: int) -> Section:
    layer = _some_layer(token_keep=keep, attention_bits=bits)
    program, end = _layer(block._replace(activation="relu"), layer, (keep < 1) + prunes_again)
    values = dict(_entry(block.width, tokens))
    calls = program.infer(values, 0, end)
    return Section(tuple(calls), values[program.nodes[end].inputs[0]].dims[1])


@lru_cache(maxsize=4096)
def _attended(width: int, tokens: int) -> dict[str, Value]:
    """What a feed-forward network finds when it starts."""
    program, end = _layer(graph._Block(width, 1, "relu", 16, 0), _some_layer(), 0)
    values = dict(_entry(width, tokens))
    program.infer(values, 0, end)
    return values


@lru_cache(maxsize=65536)
def _feed_forward(block: graph._Block, width: int, bits: int, tokens: int) -> Section:
    program, start = _layer(block._replace(heads=1), _some_layer(ffn_width=width, ffn_bits=bits), 0)
    return Section(tuple(program.infer(dict(_attended(block.width, tokens)), start)), tokens)


@lru_cache(maxsize=4096)
def _some_layer(**fields: float) -> Layer:
    return Layer.model_validate({**_SMALLEST, **fields})


@lru_cache(maxsize=4096)
def _head(width: int, outputs: int, tokens: int) -> Section:
    program = Program(graph._head(width, outputs, 0, 0).items)
    return Section(tuple(program.infer(dict(_entry(width, tokens)))), tokens)
