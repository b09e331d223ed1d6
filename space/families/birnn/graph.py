"""ONNX graph of the birnn family, and the operators that it executes.

ONNX Runtime has no recurrent operator on weights of few bits but one, `DynamicQuantizeLSTM`: 8 bits, one scale a
matrix or column, no GRU. So the file holds weights of 2, 4 or 8 bits with a scale for each block, which standard
operators unpack once, when it is loaded, into what the standard `LSTM` or `GRU` computes with: bytes honour the bits,
while each recurrent weight takes 4 bytes of heap.

Padding must not leak into the direction that reads backwards: the operator is told the length of each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from onnx import TensorProto

from space.families.base import INPUTS
from space.families.birnn.config import BirnnConfig, RecurrentLayer
from space.families.heads import answers, head
from space.families.pieces import (
    Storage,
    four_bit_constants,
    linear,
    linear_constants,
    node,
    table,
    unpack,
    vector,
)
from space.graph import MICROSOFT, Attribute, Item, Node, Part, Tensor
from space.operators import OperatorCall, Program, Section, input_values
from space.quantization import block_count, packed_width
from space.shape import TaskShape

LAYER_NORM_EPSILON = 1e-5
GATES = {"lstm": 4, "gru": 3}


class _Ends(NamedTuple):
    """What of a configuration the parts around the recurrent layers depend on (the key of their caches)."""

    embedding_width: int
    embedding_bits: int
    width: int
    projection_bits: int
    storage: Storage

    @classmethod
    def of(cls, config: BirnnConfig) -> _Ends:
        storage = Storage.of(config)
        return cls(config.embedding_width, config.embedding_bits, config.width, config.projection_bits, storage)


def describe(config: BirnnConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
    """The graph from `input_ids`, `attention_mask` (and `token_type_ids`) to `logits`, and those of each task."""
    return [_words(_Ends.of(config), vocabulary_size), *_rest(config, shape)]


def _rest(config: BirnnConfig, shape: TaskShape) -> list[Part]:
    """All but the look-up of words."""
    ends = _Ends.of(config)
    parts = [_embedding(ends, shape.segments)]
    entering = config.embedding_width
    for index, layer in enumerate(config.layers):
        parts.append(_recurrent(config.cell, entering, layer, index, config.block_size))
        entering = 2 * layer.hidden_width
    parts.append(_projection(ends, entering, len(config.layers)))
    pools_largest = config.pooling == "max" and not shape.per_token
    parts.append(_largest_head(config.width, shape.outputs) if pools_largest else head(shape, config.width, 0, 0))
    used = frozenset().union(*(_constants_used(part) for part in parts))
    return [_constants(used), *parts, *answers(shape)]


@lru_cache(maxsize=65536)
def _constants_used(part: Part) -> frozenset[str]:
    """Names of the constants of unpacking that a part needs."""
    operands = (name for item in part.items if isinstance(item, Node) for name in item.inputs)
    return frozenset(name for name in operands if name.startswith("unpack."))


@lru_cache(maxsize=256)
def _constants(used: frozenset[str]) -> Part:
    """The constants of unpacking, those alone that are used."""
    known = (*linear_constants(), *four_bit_constants())
    return Part.of(item for item in known if isinstance(item, Tensor) and item.name in used)


@lru_cache(maxsize=4096)
def _words(ends: _Ends, vocabulary_size: int) -> Part:
    """From `input_ids` to `word` [batch, sequence, embedding width]."""
    shape = (vocabulary_size, ends.embedding_width, ends.embedding_bits, ends.storage.block_size)
    return Part.of(table("word", "input_ids", *shape))


@lru_cache(maxsize=4096)
def _embedding(ends: _Ends, segments: int) -> Part:
    """From `word` to `r0` [sequence, batch, embedding width], with `lengths` int32 [batch], and `mask0` float
    [batch, 1, 1, sequence]: 1 for a token, 0 for padding.
    """
    width = ends.embedding_width

    def items() -> Iterator[Item]:
        yield Tensor("embedding.scale", (width,))
        yield Tensor("embedding.shift", (width,))
        norm = "embedding.scale embedding.shift"
        if segments == 2:
            yield Tensor("segment.weight", (2, width))
            yield node("Gather", "segment.weight token_type_ids", "segment")
            inputs = f"word segment {norm}"
            yield node("SkipLayerNormalization", inputs, "embedded", MICROSOFT, epsilon=LAYER_NORM_EPSILON)
        else:
            yield node("LayerNormalization", f"word {norm}", "embedded", axis=-1, epsilon=LAYER_NORM_EPSILON)
        yield node("Transpose", "embedded", "r0", perm=(1, 0, 2))
        yield vector("inner_axes", 1, 2)
        yield node("Unsqueeze", "attention_mask inner_axes", "mask_ids")
        yield node("Cast", "mask_ids", "mask0", to=TensorProto.FLOAT)
        yield vector("last_axis", -1)
        yield node("ReduceSum", "attention_mask last_axis", "length", keepdims=0)
        yield node("Cast", "length", "lengths", to=TensorProto.INT32)
        yield vector("join_directions", 0, 0, -1)

    return Part.of(items())


@lru_cache(maxsize=65536)
def _recurrent(cell: str, inputs: int, layer: RecurrentLayer, index: int, block_size: int) -> Part:
    """From `r<index>` [sequence, batch, inputs] to `r<index + 1>` [sequence, batch, 2 * hidden]."""
    name, hidden, gates = f"rnn{index}", layer.hidden_width, GATES[cell]
    rows = 2 * gates * hidden

    def matrix(part: str, columns: int, bits: int) -> Iterator[Item]:
        """`<name>.<part>` [2, gates * hidden, columns]"""
        matrix_name, blocks = f"{name}.{part}", block_count(columns, block_size)
        yield Tensor(f"{matrix_name}.q", (rows, blocks, packed_width(block_size, bits)), TensorProto.UINT8)
        yield Tensor(f"{matrix_name}.scale", (rows, blocks))
        yield from unpack(matrix_name, bits, columns, blocks * block_size)
        yield vector(f"{matrix_name}.shape", 2, -1, columns)
        yield node("Reshape", f"{matrix_name}.w {matrix_name}.shape", matrix_name)

    def items() -> Iterator[Item]:
        yield from matrix("input", inputs, layer.input_bits)
        yield from matrix("recurrent", hidden, layer.recurrent_bits)
        # The operator adds two biases to each gate. One will do, but for the new state of a GRU, where the reset gate
        # multiplies the second: what is not needed are zeros, which the file does not hold.
        yield Tensor(f"{name}.bias", (2, gates * hidden))
        yield vector(f"{name}.zero_shape", 2, gates * hidden if cell == "lstm" else 2 * hidden)
        yield node("ConstantOfShape", f"{name}.zero_shape", f"{name}.zeros")
        biases = f"{name}.bias {name}.zeros"
        attributes: tuple[tuple[str, Attribute], ...] = (("direction", "bidirectional"), ("hidden_size", hidden))
        if cell == "gru":
            yield Tensor(f"{name}.inner_bias", (2, hidden))
            biases += f" {name}.inner_bias"
            attributes += (("linear_before_reset", 1),)
        yield node("Concat", biases, f"{name}.biases", axis=1)
        operands = (f"r{index}", f"{name}.input", f"{name}.recurrent", f"{name}.biases", "lengths")
        yield Node(cell.upper(), operands, (f"{name}.states",), "", attributes)
        yield node("Transpose", f"{name}.states", f"{name}.turned", perm=(0, 2, 1, 3))
        yield node("Reshape", f"{name}.turned join_directions", f"r{index + 1}")

    return Part.of(items())


@lru_cache(maxsize=4096)
def _projection(ends: _Ends, inputs: int, depth: int) -> Part:
    """From `r<depth>` [sequence, batch, inputs] to `x0` [batch, sequence, width]."""

    def items() -> Iterator[Item]:
        yield node("Transpose", f"r{depth}", "states", perm=(1, 0, 2))
        shape = (inputs, ends.width, ends.projection_bits)
        *product, last = linear("projection", "states", "projected", *shape, ends.storage)
        yield from product
        if isinstance(last, Node) and last.operator == "Add":  # of the bias: one operator with what follows
            yield node("BiasGelu", " ".join(last.inputs), "x0", MICROSOFT)
        else:
            yield last
            yield node("Gelu", "projected", "x0")

    return Part.of(items())


@lru_cache(maxsize=4096)
def _largest_head(width: int, outputs: int) -> Part:
    """The largest of each component over the tokens, then a linear map to `logits`."""

    def items() -> Iterator[Item]:
        yield vector("columns", 0, -1, 1)
        yield vector("middle_axis", 1)
        yield node("Log", "mask0", "absent")  # minus infinity for padding
        yield node("Reshape", "absent columns", "absences")
        yield node("Add", "x0 absences", "present")
        yield node("ReduceMax", "present middle_axis", "pooled", keepdims=0)
        yield Tensor("head.weight", (outputs, width))
        yield Tensor("head.bias", (outputs,))
        yield node("Gemm", "pooled head.weight head.bias", "logits", transB=1)

    return Part.of(items())


def sections(config: BirnnConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
    """The look-up of the words, which alone depends on the size of the vocabulary, then all else."""
    ends = _Ends.of(config)
    beside = {"vocabulary_keep": 1.0, "vocabulary_score": "attention_sum"}
    return [
        _word_section(ends, vocabulary_size, tokens),
        _rest_section(config.model_copy(update=beside), shape, tokens),
    ]


@lru_cache(maxsize=65536)
def _word_section(ends: _Ends, vocabulary_size: int, tokens: int) -> Section:
    return Section(_infer([_words(ends, vocabulary_size)], input_values(INPUTS[1], tokens)), tokens)


@lru_cache(maxsize=65536)
def _rest_section(config: BirnnConfig, shape: TaskShape, tokens: int) -> Section:
    known = input_values(INPUTS[shape.segments], tokens)
    _infer([_words(_Ends.of(config), 1)], known)
    return Section(_infer(_rest(config, shape), known), tokens)


def _infer(parts: Sequence[Part], values: dict) -> tuple[OperatorCall, ...]:
    return tuple(Program([item for part in parts for item in part.items]).infer(values))
