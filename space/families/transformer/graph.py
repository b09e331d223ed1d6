"""ONNX graph of the transformer family."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from onnx import TensorProto

from space.config import Bits
from space.families.transformer.config import Layer, TransformerConfig
from space.graph import MICROSOFT, Attribute, Item, Node, Part, Tensor
from space.quantization import block_count, packed_width
from space.shape import TaskShape
from space.vocabulary import CLS_ID, SEP_ID

POSITION_BITS = 8
LAYER_NORM_EPSILON = 1e-5
# A pruning layer leaves at least so many tokens: room for the special tokens of a sentence pair and one more.
FEWEST_TOKENS = 4
# Added to the attention score: outweighs any, since a token receives at most heads * tokens.
PRIORITY = 1e6


def describe(config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
    """The graph from `input_ids`, `attention_mask` (and `token_type_ids`) to `logits`."""
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    parts = [_embedding(_EmbeddingStage.of(config), vocabulary_size, shape.max_length, shape.segments, prunings > 0)]
    stage = 0
    for index, layer in enumerate(config.layers):
        parts.append(_layer(_Block.of(config), layer, index, stage, prunings))
        stage += layer.token_keep < 1
    parts.append(_head(config.width, shape.outputs, len(config.layers), stage))
    return parts


def part_sizes(config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[int]:
    """Sizes of the parts that `describe` gives, at a hundredth of its cost for a configuration not seen before.

    A search weighs thousands of configurations for each that it builds. A layer's size does not depend on the number
    of heads, the activation, the share of tokens it keeps or (all numbers have one digit) its place, so that few
    different layers need to be described.
    """
    prunings = sum(layer.token_keep < 1 for layer in config.layers)
    stage = _EmbeddingStage.of(config)
    few = _embedding(stage, 1, shape.max_length, shape.segments, prunings > 0).size
    sizes = [few - _words_size(stage, 1) + _words_size(stage, vocabulary_size)]
    passed = 0
    for index, layer in enumerate(config.layers):
        prunes = layer.token_keep < 1
        passed += prunes
        following = 1 + (passed < prunings) if prunes else 0
        widths = (config.width, config.block_size, config.accuracy_level, layer.ffn_width)
        sizes.append(_layer_size(*widths, layer.attention_bits, layer.ffn_bits, index == 0, following))
    return [*sizes, _head(config.width, shape.outputs, len(config.layers), passed).size]


class _EmbeddingStage(NamedTuple):
    """What of a configuration the embedding part depends on (the key of its cache)."""

    embedding_width: int
    bits: int
    block_size: int
    accuracy_level: int
    width: int

    @classmethod
    def of(cls, config: TransformerConfig) -> _EmbeddingStage:
        return cls(
            config.embedding_width, config.embedding_bits, config.block_size, config.accuracy_level, config.width
        )


class _Block(NamedTuple):
    """What all layers share."""

    width: int
    heads: int
    activation: str
    block_size: int
    accuracy_level: int

    @classmethod
    def of(cls, config: TransformerConfig) -> _Block:
        return cls(config.width, config.heads, config.activation, config.block_size, config.accuracy_level)


@lru_cache(maxsize=4096)
def _embedding(stage: _EmbeddingStage, vocabulary_size: int, positions: int, segments: int, prunes: bool) -> Part:
    """From the inputs to `x0`, `mask0`, `count0`, `bias0` (and, before pruning, `special0`, `rank0`)."""
    width = stage.embedding_width

    def items() -> Iterator[Item]:
        yield from _table("word", "input_ids", vocabulary_size, width, stage.bits, stage.block_size)
        yield _constant("zero", 0)
        yield _constant("one", 1)
        yield Tensor("last_axis", (1,), TensorProto.INT64, (-1,))
        yield Tensor("inner_axes", (2,), TensorProto.INT64, (1, 2))
        yield _node("Shape", "input_ids", "length", start=1, end=2)
        yield _node("Squeeze", "length", "steps")
        yield _node("Range", "zero steps one", "positions")
        yield from _table("position", "positions", positions, width, POSITION_BITS, stage.block_size)
        yield _node("Add", "word position", "placed")
        embedded = "placed"
        if segments == 2:
            yield Tensor("segment.weight", (2, width))
            yield _node("Gather", "segment.weight token_type_ids", "segment")
            yield _node("Add", "placed segment", "summed")
            embedded = "summed"
        yield Tensor("embedding.scale", (width,))
        yield Tensor("embedding.shift", (width,))
        yield _node(
            "LayerNormalization",
            f"{embedded} embedding.scale embedding.shift",
            "embedded",
            axis=-1,
            epsilon=LAYER_NORM_EPSILON,
        )
        yield from _linear(
            "projection", "embedded", "x0", width, stage.width, stage.bits, stage.block_size, stage.accuracy_level
        )
        yield _constant("present", 1.0)
        yield _constant("priority", PRIORITY)
        yield _node("Cast", "attention_mask", "mask0", to=TensorProto.FLOAT)
        yield _node("ReduceSum", "mask0 last_axis", "count0", keepdims=1)
        yield from _bias(0)
        if prunes:
            yield _constant("fewest", float(FEWEST_TOKENS))
            yield Tensor("first_axis", (1,), TensorProto.INT64, (0,))
            yield _constant("cls_id", CLS_ID)
            yield _constant("sep_id", SEP_ID)
            yield _node("Equal", "input_ids cls_id", "is_cls")
            yield _node("Equal", "input_ids sep_id", "is_sep")
            yield _node("Or", "is_cls is_sep", "is_special")
            yield _node("Cast", "is_special", "special", to=TensorProto.FLOAT)
            yield _node("Mul", "special priority", "special0")
            yield _node("Add", "special0 penalty0", "rank0")

    return Part.of(items())


@lru_cache(maxsize=65536)
def _layer(block: _Block, layer: Layer, index: int, stage: int, prunings: int) -> Part:
    """Layer `index`, after `stage` of all `prunings`: from `x<index>` to `x<index + 1>`."""
    name, width = f"l{index}", block.width
    attended = f"{name}.y"

    def linear(part: str, source: str, target: str, inputs: int, outputs: int, bits: int) -> Iterator[Item]:
        return _linear(f"{name}.{part}", source, target, inputs, outputs, bits, block.block_size, block.accuracy_level)

    def norm(part: str, source: str, skip: str, target: str) -> Iterator[Item]:
        yield Tensor(f"{name}.{part}.scale", (width,))
        yield Tensor(f"{name}.{part}.shift", (width,))
        inputs = f"{source} {skip} {name}.{part}.scale {name}.{part}.shift"
        yield _node("SkipLayerNormalization", inputs, target, MICROSOFT, epsilon=LAYER_NORM_EPSILON)

    def attention() -> Iterator[Item]:
        if index == 0:
            yield Tensor("split_heads", (4,), TensorProto.INT64, (0, 0, 3 * block.heads, width // block.heads))
            yield Tensor("merge_heads", (3,), TensorProto.INT64, (0, 0, width))
        yield from linear("qkv", f"x{index}", f"{name}.qkv", width, 3 * width, layer.attention_bits)
        yield _node("Reshape", f"{name}.qkv split_heads", f"{name}.heads")
        yield _node("Transpose", f"{name}.heads", f"{name}.turned", perm=(0, 2, 1, 3))
        yield _node("Split", f"{name}.turned", f"{name}.q {name}.k {name}.v", axis=1, num_outputs=3)
        alpha = float((width // block.heads) ** -0.5)
        yield _node("FusedMatMul", f"{name}.q {name}.k", f"{name}.dot", MICROSOFT, transB=1, alpha=alpha)
        yield _node("Add", f"{name}.dot bias{stage}", f"{name}.masked")
        yield _node("Softmax", f"{name}.masked", f"{name}.probabilities", axis=-1)
        yield _node("MatMul", f"{name}.probabilities {name}.v", f"{name}.mixed")
        yield _node("Transpose", f"{name}.mixed", f"{name}.back", perm=(0, 2, 1, 3))
        yield _node("Reshape", f"{name}.back merge_heads", f"{name}.merged")
        yield from linear("out", f"{name}.merged", f"{name}.out", width, width, layer.attention_bits)
        yield from norm("norm1", f"{name}.out", f"x{index}", attended)

    def prune() -> Iterator[Item]:
        following = stage + 1
        # Attention received, from all heads and all true positions: [batch, sequence].
        yield _node("Unsqueeze", f"mask{stage} inner_axes", f"{name}.from")
        yield _node("MatMul", f"{name}.from {name}.probabilities", f"{name}.by_head")
        yield _node("ReduceSum", f"{name}.by_head inner_axes", f"{name}.received", keepdims=0)
        yield _node("Add", f"{name}.received rank{stage}", f"{name}.score")
        yield _constant(f"{name}.keep", float(layer.token_keep))
        yield _node("Mul", f"count{stage} {name}.keep", f"{name}.share")
        yield _node("Ceil", f"{name}.share", f"{name}.whole")
        yield _node("Max", f"{name}.whole fewest", f"{name}.floor")
        yield _node("Min", f"{name}.floor count{stage}", f"count{following}")
        yield _node("ReduceMax", f"count{following}", f"{name}.most", keepdims=0)
        yield _node("Cast", f"{name}.most", f"{name}.size", to=TensorProto.INT64)
        yield _node("Unsqueeze", f"{name}.size first_axis", f"{name}.sizes")
        yield _node("TopK", f"{name}.score {name}.sizes", f"{name}.scores {name}.kept", axis=-1)
        yield _node("Unsqueeze", f"{name}.kept last_axis", f"{name}.index")
        yield _node("GatherND", f"{attended} {name}.index", f"{name}.z", batch_dims=1)
        yield _node("Range", f"zero {name}.size one", f"{name}.places")
        yield _node("Cast", f"{name}.places", f"{name}.order", to=TensorProto.FLOAT)
        yield _node("Less", f"{name}.order count{following}", f"{name}.present")
        yield _node("Cast", f"{name}.present", f"mask{following}", to=TensorProto.FLOAT)
        yield from _bias(following)
        if following < prunings:
            yield _node("GatherElements", f"special{stage} {name}.kept", f"special{following}", axis=1)
            yield _node("Add", f"special{following} penalty{following}", f"rank{following}")

    def feed_forward(entry: str) -> Iterator[Item]:
        operator = {"gelu": "Gelu", "relu": "Relu"}[block.activation]
        yield from linear("up", entry, f"{name}.up", width, layer.ffn_width, layer.ffn_bits)
        yield _node(operator, f"{name}.up", f"{name}.active")
        yield from linear("down", f"{name}.active", f"{name}.down", layer.ffn_width, width, layer.ffn_bits)
        yield from norm("norm2", f"{name}.down", entry, f"x{index + 1}")

    def items() -> Iterator[Item]:
        yield from attention()
        if layer.token_keep < 1:
            yield from prune()
            yield from feed_forward(f"{name}.z")
        else:
            yield from feed_forward(attended)

    return Part.of(items())


@lru_cache(maxsize=4096)
def _words_size(stage: _EmbeddingStage, vocabulary_size: int) -> int:
    """Size of the embedding's weights that grow with the vocabulary."""
    table = _table("word", "", vocabulary_size, stage.embedding_width, stage.bits, stage.block_size)
    return Part.of(item for item in table if isinstance(item, Tensor)).size


@lru_cache(maxsize=65536)
def _layer_size(
    width: int,
    block_size: int,
    accuracy_level: int,
    ffn_width: int,
    attention_bits: Bits,
    ffn_bits: Bits,
    first: bool,
    prunings: int,
) -> int:
    """Size of a layer that keeps all tokens (`prunings` 0), prunes last (1) or prunes before another one (2)."""
    block = _Block(width, 1, "gelu", block_size, accuracy_level)
    layer = Layer(
        ffn_width=ffn_width,
        token_keep=0.5 if prunings else 1.0,
        attention_bits=attention_bits,
        ffn_bits=ffn_bits,
    )
    return _layer.__wrapped__(block, layer, 0 if first else 1, 0, prunings).size


@lru_cache(maxsize=4096)
def _head(width: int, outputs: int, depth: int, stage: int) -> Part:
    """Mean of the hidden states that are left, then a linear map to `logits`."""

    def items() -> Iterator[Item]:
        yield Tensor("middle_axis", (1,), TensorProto.INT64, (1,))
        yield _node("Unsqueeze", f"mask{stage} middle_axis", "rows")
        yield _node("MatMul", f"rows x{depth}", "total")
        yield _node("Squeeze", "total middle_axis", "pooled_sum")
        yield _node("Div", f"pooled_sum count{stage}", "pooled")
        yield Tensor("head.weight", (outputs, width))
        yield Tensor("head.bias", (outputs,))
        yield _node("Gemm", "pooled head.weight head.bias", "logits", transB=1)

    return Part.of(items())


def _bias(stage: int) -> Iterator[Item]:
    """0 for a token, a large negative number for padding: `penalty` [batch, sequence], `bias` for all heads."""
    yield _node("Sub", f"mask{stage} present", f"absent{stage}")
    yield _node("Mul", f"absent{stage} priority", f"penalty{stage}")
    yield _node("Unsqueeze", f"penalty{stage} inner_axes", f"bias{stage}")


def _table(name: str, ids: str, rows: int, width: int, bits: int, block_size: int) -> Iterator[Item]:
    """A quantised embedding table, looked up at `ids`; the answer is called `name`."""
    yield Tensor(f"{name}.q", (rows, packed_width(width, bits)), TensorProto.UINT8)
    yield Tensor(f"{name}.scale", (rows, block_count(width, block_size)))
    attributes = {"bits": bits, "block_size": block_size, "gather_axis": 0, "quantize_axis": 1}
    yield _node("GatherBlockQuantized", f"{name}.q {ids} {name}.scale", name, MICROSOFT, **attributes)


def _linear(
    name: str, source: str, target: str, inputs: int, outputs: int, bits: int, block_size: int, accuracy_level: int
) -> Iterator[Item]:
    """A quantised linear map with bias."""
    blocks = block_count(inputs, block_size)
    yield Tensor(f"{name}.q", (outputs, blocks, packed_width(block_size, bits)), TensorProto.UINT8)
    yield Tensor(f"{name}.scale", (outputs, blocks))
    yield Tensor(f"{name}.bias", (outputs,))
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": block_size, "accuracy_level": accuracy_level}
    yield Node(
        "MatMulNBits",
        (source, f"{name}.q", f"{name}.scale", "", "", f"{name}.bias"),
        (target,),
        MICROSOFT,
        tuple(attributes.items()),
    )


def _constant(name: str, value: int | float) -> Tensor:
    return Tensor(name, (), TensorProto.FLOAT if isinstance(value, float) else TensorProto.INT64, (value,))


def _node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: Attribute) -> Node:
    return Node(operator, tuple(inputs.split()), tuple(outputs.split()), domain, tuple(attributes.items()))
