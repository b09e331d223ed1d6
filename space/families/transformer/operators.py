"""Executed operators of the transformer family, inferred from its graph in sections that configurations share."""

from __future__ import annotations

from functools import lru_cache

from space.families.base import INPUTS
from space.families.heads import answers, head
from space.families.pieces import Storage, table
from space.families.transformer import graph
from space.families.transformer.config import Layer, TransformerConfig
from space.operators import Program, Section, Value, input_values
from space.shape import TaskShape

# Any layer does where its feed-forward network, or its attention, is not looked at.
_SMALLEST = {"ffn_width": 16, "token_keep": 1.0, "attention_bits": 8, "ffn_bits": 8}
_PLAIN = Storage(block_size=16, accuracy_level=0, unpacking="run")
_POSITIONS = 1


def sections(config: TransformerConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
    """Words, rest of the embedding, then attention and feed-forward network of each layer, then head."""
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    stage = graph._EmbeddingStage.of(config)
    found = [
        _words(stage.embedding_width, stage.bits, stage.storage.block_size, vocabulary_size, tokens),
        _embedding(stage, shape.max_length, shape.segments, prunings > 0, tokens),
    ]
    block = graph._Block.of(config)
    executed = config.executed_layers()
    for index, (_, layer) in enumerate(executed):
        prunes, last = layer.token_keep < 1, index == len(executed) - 1
        prunings -= prunes
        again = prunes and prunings > 0
        found.append(_attention(block, layer.token_keep, layer.attention_bits, again, prunes and last, tokens))
        tokens = found[-1].tokens
        found.append(_feed_forward(block, layer.ffn_width, layer.ffn_bits, tokens))
    found.append(_head(shape, config.width, tokens))
    return found


@lru_cache(maxsize=65536)
def _words(width: int, bits: int, block_size: int, vocabulary_size: int, tokens: int) -> Section:
    """The look-up of the words, by itself: all else is the same for every size of the vocabulary."""
    program = Program(table("word", "input_ids", vocabulary_size, width, bits, block_size))
    return Section(tuple(program.infer(input_values(INPUTS[1], tokens))), tokens)


@lru_cache(maxsize=65536)
def _embedding(stage: graph._EmbeddingStage, positions: int, segments: int, prunes: bool, tokens: int) -> Section:
    program = Program(graph._embedding(stage, 1, positions, segments, prunes).items)
    return Section(tuple(program.infer(input_values(INPUTS[segments], tokens))[1:]), tokens)


@lru_cache(maxsize=4096)
def _entry(width: int, tokens: int) -> dict[str, Value]:
    """What a layer finds when it starts."""
    stage = graph._EmbeddingStage(16, 8, width, _PLAIN, unpacks=True)
    values = input_values(INPUTS[1], tokens)
    Program(graph._embedding(stage, 1, _POSITIONS, 1, True).items).infer(values)
    return values


@lru_cache(maxsize=65536)
def _layer(block: graph._Block, layer: Layer, prunings: int, last: bool) -> tuple[Program, int]:
    """A layer, and where in it the feed-forward network starts."""
    program = Program(graph._layer(block, layer, 0, 0, prunings, last, 0).items)
    return program, next(index for index, node in enumerate(program.nodes) if node.outputs[0].startswith("l0.up"))


@lru_cache(maxsize=65536)
def _attention(block: graph._Block, keep: float, bits: int, prunes_again: bool, last: bool, tokens: int) -> Section:
    layer = _some_layer(token_keep=keep, attention_bits=bits)
    program, end = _layer(block._replace(activation="relu"), layer, (keep < 1) + prunes_again, last)
    values = dict(_entry(block.width, tokens))
    calls = program.infer(values, 0, end)
    return Section(tuple(calls), values["l0.z" if keep < 1 else "l0.y"].dims[1])


@lru_cache(maxsize=4096)
def _attended(width: int, tokens: int) -> dict[str, Value]:
    """What a feed-forward network finds when it starts."""
    program, end = _layer(graph._Block(width, 1, "relu", _PLAIN), _some_layer(), 0, True)
    values = dict(_entry(width, tokens))
    program.infer(values, 0, end)
    return values


@lru_cache(maxsize=65536)
def _feed_forward(block: graph._Block, width: int, bits: int, tokens: int) -> Section:
    program, start = _layer(block._replace(heads=1), _some_layer(ffn_width=width, ffn_bits=bits), 0, True)
    return Section(tuple(program.infer(dict(_attended(block.width, tokens)), start)), tokens)


@lru_cache(maxsize=4096)
def _some_layer(**fields: float) -> Layer:
    return Layer.model_validate({**_SMALLEST, **fields})


@lru_cache(maxsize=4096)
def _head(shape: TaskShape, width: int, tokens: int) -> Section:
    parts = (head(shape, width, 0, 0), *answers(shape))
    program = Program(item for part in parts for item in part.items)
    return Section(tuple(program.infer(dict(_entry(width, tokens)))), tokens)
