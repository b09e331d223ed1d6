"""ONNX graph of the transformer family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from onnx import TensorProto

from space.families.heads import answers, head
from space.families.pieces import Storage, linear, linear_constants, node, scalar, table, vector
from space.families.transformer.config import Layer, TransformerConfig
from space.graph import MICROSOFT, Attribute, Item, Part, Tensor
from space.shape import TaskShape

POSITION_BITS = 8
LAYER_NORM_EPSILON = 1e-5
# A pruning layer leaves at least so many tokens: room for the special tokens of a sentence pair and one more.
FEWEST_TOKENS = 4
# Of special tokens: outweighs any attention, since a token receives at most heads * tokens.
PRIORITY = 1e6


def _named(operator: str, domain: str = "", **attributes: Attribute) -> Callable[[str, str], Iterator[Item]]:
    return lambda source, target: iter([node(operator, source, target, domain, **attributes)])


def _squared_relu(source: str, target: str) -> Iterator[Item]:
    yield node("Relu", source, f"{target}.root")
    yield node("Mul", f"{target}.root {target}.root", target)


_ACTIVATIONS = {
    "gelu": _named("Gelu"),
    "gelu_tanh": _named("FastGelu", MICROSOFT),
    "relu": _named("Relu"),
    "relu_squared": _squared_relu,
}


def describe(config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
    """The graph from `input_ids`, `attention_mask` (and `token_type_ids`) to `logits`, and those of each task.

    Raises:
        ValueError: tokens are pruned, but each wants logits. To restore them would take a scatter and a selection for
            each layer that prunes, and what they got back would have seen no feed-forward network.
    """
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    if prunings and shape.per_token:
        raise ValueError("tokens that get logits cannot be pruned: token_keep must be 1")
    parts = [_embedding(_EmbeddingStage.of(config), vocabulary_size, shape.max_length, shape.segments, prunings > 0)]
    stage, executed = 0, config.executed_layers()
    for index, (own, layer) in enumerate(executed):
        last = index == len(executed) - 1
        parts.append(_layer(_Block.of(config), layer, index, stage, prunings, last, own))
        stage += layer.token_keep < 1
    parts.append(head(shape, config.width, len(executed), stage))
    parts += answers(shape)
    return parts


class _EmbeddingStage(NamedTuple):
    """What of a configuration the embedding part depends on (the key of its cache)."""

    embedding_width: int
    bits: int
    width: int
    storage: Storage
    unpacks: bool

    @classmethod
    def of(cls, config: TransformerConfig) -> _EmbeddingStage:
        storage = Storage.of(config)
        bits = {config.embedding_bits, *(b for layer in config.layers for b in (layer.attention_bits, layer.ffn_bits))}
        unpacks = any(map(storage.unpacks, bits))
        return cls(config.embedding_width, config.embedding_bits, config.width, storage, unpacks)


class _Block(NamedTuple):
    """What all layers share."""

    width: int
    heads: int
    activation: str
    storage: Storage

    @classmethod
    def of(cls, config: TransformerConfig) -> _Block:
        return cls(config.width, config.heads, config.activation, Storage.of(config))


@lru_cache(maxsize=4096)
def _embedding(stage: _EmbeddingStage, vocabulary_size: int, positions: int, segments: int, prunes: bool) -> Part:
    """From the inputs to `x0` and, all of four dimensions as attention scores are:

    `mask0` [batch, 1, 1, sequence]: 1 for a token, 0 for padding;
    `bias0`, likewise: 0 for a token, minus infinity for padding;
    before pruning, `rank0`, likewise: `PRIORITY` for special tokens, 1 for others, 0 for padding;
    and `count0` [batch, 1, 1, 1]: tokens of each text, with `least`, the fewest that pruning may leave of them.
    """
    width = stage.embedding_width

    def items() -> Iterator[Item]:
        yield from table("word", "input_ids", vocabulary_size, width, stage.bits, stage.storage.block_size)
        # No input leads here: ONNX Runtime unpacks this small table once, when it loads the file.
        yield Tensor("position.q", (positions, width), TensorProto.UINT8)
        yield Tensor("position.scale", (positions, 1))
        yield scalar("position.middle", float(1 << (POSITION_BITS - 1)))
        yield node("Cast", "position.q", "position.codes", to=TensorProto.FLOAT)
        yield node("Sub", "position.codes position.middle", "position.steps")
        yield node("Mul", "position.steps position.scale", "position")
        yield vector("start", 0)
        yield node("Shape", "input_ids", "length", start=1, end=2)
        yield node("Slice", "position start length", "places")
        yield node("Add", "word places", "placed")
        embedded = "placed"
        if segments == 2:
            yield Tensor("segment.weight", (2, width))
            yield node("Gather", "segment.weight token_type_ids", "segment")
            yield node("Add", "placed segment", "summed")
            embedded = "summed"
        yield Tensor("embedding.scale", (width,))
        yield Tensor("embedding.shift", (width,))
        yield node(
            "LayerNormalization",
            f"{embedded} embedding.scale embedding.shift",
            "embedded",
            axis=-1,
            epsilon=LAYER_NORM_EPSILON,
        )
        if stage.unpacks:
            yield from linear_constants()
        yield from linear("projection", "embedded", "x0", width, stage.width, stage.bits, stage.storage)
        yield vector("inner_axes", 1, 2)
        yield node("Unsqueeze", "attention_mask inner_axes", "mask_ids")
        yield node("Cast", "mask_ids", "mask0", to=TensorProto.FLOAT)
        yield node("Log", "mask0", "bias0")
        if prunes:
            yield vector("last_axis", -1)
            yield vector("outer_axes", 0, 1, 2)
            yield vector("one_each", 0, -1, 1)
            yield scalar("zero", 0.0)
            yield scalar("one", 1.0)
            yield scalar("fewest", float(FEWEST_TOKENS))
            yield scalar("priority", PRIORITY)
            yield scalar("two", 2)
            yield scalar("half_special", 1)
            yield node("ReduceSum", "mask0 last_axis", "count0", keepdims=1)
            yield node("Min", "count0 fewest", "least")
            # Of all ids, only those of [CLS], 2, and [SEP], 3, are 1 when halved (space.vocabulary fixes them).
            yield node("Div", "input_ids two", "halved")
            yield node("Equal", "halved half_special", "specials")
            yield node("Unsqueeze", "specials inner_axes", "is_special")
            yield node("Where", "is_special priority mask0", "rank0")

    return Part.of(items())


@lru_cache(maxsize=65536)
def _layer(block: _Block, layer: Layer, index: int, stage: int, prunings: int, last: bool, own: int) -> Part:
    """Layer `index`, after `stage` of all `prunings`: from `x<index>` to `x<index + 1>`.

    Its weights are those of layer `own`, which are described where it is the same.
    Where it prunes, `mask`, `count`, `bias` and `rank` of the next stage as `_embedding` describes them.
    """
    name, weights, width, again = f"l{index}", f"l{own}", block.width, own != index
    attended = f"{name}.y"

    def mapped(part: str, source: str, target: str, inputs: int, outputs: int, bits: int) -> Iterator[Item]:
        return linear(f"{weights}.{part}", source, target, inputs, outputs, bits, block.storage, again)

    def norm(part: str, source: str, skip: str, target: str) -> Iterator[Item]:
        if not again:
            yield Tensor(f"{weights}.{part}.scale", (width,))
            yield Tensor(f"{weights}.{part}.shift", (width,))
        inputs = f"{source} {skip} {weights}.{part}.scale {weights}.{part}.shift"
        yield node("SkipLayerNormalization", inputs, target, MICROSOFT, epsilon=LAYER_NORM_EPSILON)

    def attention() -> Iterator[Item]:
        if index == 0:
            yield vector("split_heads", 0, 0, 3 * block.heads, width // block.heads)
            yield vector("merge_heads", 0, 0, width)
        yield from mapped("qkv", f"x{index}", f"{name}.qkv", width, 3 * width, layer.attention_bits)
        yield node("Reshape", f"{name}.qkv split_heads", f"{name}.heads")
        yield node("Transpose", f"{name}.heads", f"{name}.turned", perm=(0, 2, 1, 3))
        yield node("Split", f"{name}.turned", f"{name}.q {name}.k {name}.v", axis=1, num_outputs=3)
        alpha = float((width // block.heads) ** -0.5)
        yield node("FusedMatMul", f"{name}.q {name}.k", f"{name}.dot", MICROSOFT, transB=1, alpha=alpha)
        yield node("Add", f"{name}.dot bias{stage}", f"{name}.masked")
        yield node("Softmax", f"{name}.masked", f"{name}.probabilities", axis=-1)
        yield node("MatMul", f"{name}.probabilities {name}.v", f"{name}.mixed")
        yield node("Transpose", f"{name}.mixed", f"{name}.back", perm=(0, 2, 1, 3))
        yield node("Reshape", f"{name}.back merge_heads", f"{name}.merged")
        yield from mapped("out", f"{name}.merged", f"{name}.out", width, width, layer.attention_bits)
        yield from norm("norm1", f"{name}.out", f"x{index}", attended)

    def prune() -> Iterator[Item]:
        following = stage + 1
        # Attention received, from all heads and all true positions: [batch, 1, 1, sequence].
        yield node("MatMul", f"mask{stage} {name}.probabilities", f"{name}.by_head")
        yield node("ReduceSum", f"{name}.by_head inner_axes", f"{name}.received", keepdims=1)
        yield node("Add", f"{name}.received rank{stage}", f"{name}.score")
        yield scalar(f"{name}.keep", float(layer.token_keep))
        yield node("Mul", f"count{stage} {name}.keep", f"{name}.share")
        yield node("Ceil", f"{name}.share", f"{name}.whole")
        yield node("Max", f"{name}.whole least", f"count{following}")
        yield node("ReduceMax", f"count{following} outer_axes", f"{name}.most", keepdims=0)
        yield node("Cast", f"{name}.most", f"{name}.size", to=TensorProto.INT64)
        yield node("TopK", f"{name}.score {name}.size", f"{name}.scores {name}.kept", axis=-1)
        yield node("Reshape", f"{name}.kept one_each", f"{name}.index")
        yield node("GatherND", f"{attended} {name}.index", f"{name}.z", batch_dims=1)
        yield node("Range", f"zero {name}.most one", f"{name}.order")
        yield node("Less", f"{name}.order count{following}", f"{name}.present")
        yield node("Cast", f"{name}.present", f"mask{following}", to=TensorProto.FLOAT)
        if not last:
            yield node("Log", f"mask{following}", f"bias{following}")
        if following < prunings:
            yield node("GatherElements", f"rank{stage} {name}.kept", f"{name}.carried", axis=-1)
            yield node("Mul", f"{name}.carried mask{following}", f"rank{following}")

    def feed_forward(entry: str) -> Iterator[Item]:
        yield from mapped("up", entry, f"{name}.up", width, layer.ffn_width, layer.ffn_bits)
        yield from _ACTIVATIONS[block.activation](f"{name}.up", f"{name}.active")
        yield from mapped("down", f"{name}.active", f"{name}.down", layer.ffn_width, width, layer.ffn_bits)
        yield from norm("norm2", f"{name}.down", entry, f"x{index + 1}")

    def items() -> Iterator[Item]:
        yield from attention()
        if layer.token_keep < 1:
            yield from prune()
            yield from feed_forward(f"{name}.z")
        else:
            yield from feed_forward(attended)

    return Part.of(items())
