"""Sizes of the parts of a transformer's graph, without describing each configuration's own.

A search weighs thousands of configurations for each that it builds. A layer's size does not depend on the number of
heads, the share of tokens that it keeps or (but for the digits of its number) its place, so that few different layers
need to be described.
"""

from __future__ import annotations

from functools import lru_cache

from space.config import Bits
from space.families.heads import answers, head
from space.families.pieces import table
from space.families.transformer import graph
from space.families.transformer.config import Layer, TransformerConfig
from space.graph import Part, Tensor
from space.shape import TaskShape


def part_sizes(config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[int]:
    """Bytes of the parts that `graph.describe` gives."""
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    stage = graph._EmbeddingStage.of(config)
    few = graph._embedding(stage, 1, shape.max_length, shape.segments, prunings > 0).size
    sizes = [few - _words_size(stage, 1) + _words_size(stage, vocabulary_size)]
    block = graph._Block.of(config)._replace(heads=1)
    executed = config.executed_layers()
    passed, final = 0, len(executed) - 1
    for index, (own, layer) in enumerate(executed):
        prunes = layer.token_keep < 1
        passed += prunes
        following = 1 + (passed < prunings) if prunes else 0
        bits = (layer.attention_bits, layer.ffn_bits)
        last = prunes and index == final
        sizes.append(_layer_size(block, layer.ffn_width, *bits, _alike(index), own != index, following, last))
    sizes.append(head(shape, config.width, len(executed), passed).size)
    return [*sizes, *(part.size for part in answers(shape))]


def _alike(index: int) -> int:
    """The first place whose layer has the same size: names hold it and the next one, and the first has constants."""
    return index if index in (0, 9) else 1 if index < 9 else 10


@lru_cache(maxsize=4096)
def _words_size(stage: graph._EmbeddingStage, vocabulary_size: int) -> int:
    """Size of the embedding's weights that grow with the vocabulary."""
    items = table("word", "", vocabulary_size, stage.embedding_width, stage.bits, stage.storage.block_size)
    return Part.of(item for item in items if isinstance(item, Tensor)).size


@lru_cache(maxsize=65536)
def _layer_size(
    block: graph._Block,
    ffn_width: int,
    attention_bits: Bits,
    ffn_bits: Bits,
    index: int,
    again: bool,
    prunings: int,
    last: bool,
) -> int:
    """Size of a layer that keeps all tokens (`prunings` 0), prunes last of all (1) or before another one (2)."""
    layer = Layer(
        ffn_width=ffn_width,
        token_keep=0.5 if prunings else 1.0,
        attention_bits=attention_bits,
        ffn_bits=ffn_bits,
    )
    return graph._layer(block, layer, index, 0, prunings, last, 0 if again else index).size
