"""ONNX encoders with random weights, in the operators that students are exported with.

They exist to time graphs and to break them; nothing here is trained, and no test of a student's quality or
bytes may use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class EncoderShape:
    """What one random encoder looks like; ``bits`` 32 means plain fp32 weights."""

    layers: int = 4
    hidden: int = 128
    heads: int = 2
    feed_forward: int = 512
    vocabulary: int = 4000
    embedding: int = 64
    positions: int = 128
    bits: int = 4
    embedding_bits: int = 4
    block_size: int = 32
    accuracy_level: int = 0
    activation: str = "Gelu"
    segments: int = 1
    outputs: int = 2
    keep: float = 1.0  # share of the tokens that the second half of the layers keeps
    layer_bits: Sequence[int] | None = None


def pack_blocks(
    weights: np.ndarray[Any, Any], bits: int, block_size: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Quantise ``weights`` [rows, columns] symmetrically in blocks along the columns.

    Returns the packed bytes [rows, blocks, block_size * bits / 8] (low bits first) and scales [rows, blocks].
    """
    rows, columns = weights.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), np.float32)
    padded[:, :columns] = weights
    grouped = padded.reshape(rows, blocks, block_size)
    middle = 1 << (bits - 1)
    scales = np.abs(grouped).max(-1, keepdims=True) / (middle - 0.5)
    scales[scales == 0] = 1
    codes = np.clip(np.round(grouped / scales) + middle, 0, 2 * middle - 1).astype(np.uint8)
    per_byte = 8 // bits
    codes = codes.reshape(rows, blocks, block_size // per_byte, per_byte)
    packed = np.zeros(codes.shape[:-1], np.uint8)
    for position in range(per_byte):
        packed |= codes[..., position] << np.uint8(bits * position)
    return packed, scales[..., 0].astype(np.float32)


class GraphBuilder:
    """Collects nodes and initialisers with generated names."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        names = [f"n{len(self.nodes)}_{index}" for index in range(outputs)]
        custom = operator in ("MatMulNBits", "GatherBlockQuantized")
        self.nodes.append(
            helper.make_node(
                operator,
                inputs,
                names,
                name=f"{operator}_{len(self.nodes)}",
                domain="com.microsoft" if custom else "",
                **attributes,
            )
        )
        return names[0] if outputs == 1 else names

    def weights(self, rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (self.random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def linear(self, x: str, k: int, n: int, bits: int, block_size: int, accuracy_level: int) -> str:
        weights = self.weights(n, k)
        bias = self.constant(self.random.standard_normal(n) * 0.1)
        if bits == 32:
            product = self.node("MatMul", [x, self.constant(weights.T)])
            return str(self.node("Add", [product, bias]))
        packed, scales = pack_blocks(weights, bits, block_size)
        inputs = [x, self.constant(packed, np.uint8), self.constant(scales.reshape(-1)), "", "", bias]
        return str(
            self.node(
                "MatMulNBits",
                inputs,
                K=k,
                N=n,
                bits=bits,
                block_size=block_size,
                accuracy_level=accuracy_level,
            )
        )

    def layer_norm(self, x: str, width: int) -> str:
        scale, shift = self.constant(np.ones(width)), self.constant(np.zeros(width))
        return str(self.node("LayerNormalization", [x, scale, shift], axis=-1, epsilon=1e-12))

    def save(self, path: Path, inputs: Sequence[str], output: str, output_shape: Sequence[Any]) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)
        graph = helper.make_graph(self.nodes, "encoder", values, [result], self.initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def _embed(build: GraphBuilder, shape: EncoderShape) -> str:
    table = build.weights(shape.vocabulary, shape.embedding)
    if shape.embedding_bits == 32:
        x = build.node("Gather", [build.constant(table), "input_ids"])
    else:
        block = 16
        while block * 2 <= min(shape.block_size, shape.embedding):
            block *= 2
        packed, scales = pack_blocks(table, shape.embedding_bits, block)
        x = build.node(
            "GatherBlockQuantized",
            [
                build.constant(packed.reshape(shape.vocabulary, -1), np.uint8),
                "input_ids",
                build.constant(scales),
            ],
            bits=shape.embedding_bits,
            block_size=block,
            gather_axis=0,
            quantize_axis=1,
        )
    if shape.embedding != shape.hidden:
        x = build.linear(x, shape.embedding, shape.hidden, shape.bits, shape.block_size, shape.accuracy_level)
    positions = build.constant(build.random.standard_normal((1, shape.positions, shape.hidden)) * 0.02)
    sequence = build.node("Shape", ["input_ids"], start=1, end=2)
    zero, axis = build.constant([0], np.int64), build.constant([1], np.int64)
    x = build.node("Add", [x, build.node("Slice", [positions, zero, sequence, axis])])
    if shape.segments > 1:
        table = build.weights(shape.segments, shape.hidden)
        x = build.node("Add", [x, build.node("Gather", [build.constant(table), "token_type_ids"])])
    return build.layer_norm(x, shape.hidden)


def _attention_bias(build: GraphBuilder, mask: str) -> str:
    missing = build.node("Sub", [build.constant(1.0), mask])
    bias = build.node("Mul", [missing, build.constant(-10000.0)])
    return str(build.node("Unsqueeze", [bias, build.constant([1, 2], np.int64)]))


def _layer(build: GraphBuilder, shape: EncoderShape, x: str, bias: str, bits: int) -> tuple[str, str]:
    """One transformer layer. Returns its output and its attention probabilities."""
    quantised = (bits, shape.block_size, shape.accuracy_level)
    size = shape.hidden // shape.heads
    split = build.constant([0, 0, shape.heads, size], np.int64)
    query, key, value = (
        build.node("Reshape", [build.linear(x, shape.hidden, shape.hidden, *quantised), split]) for _ in range(3)
    )
    query = build.node("Transpose", [query], perm=[0, 2, 1, 3])
    key = build.node("Transpose", [key], perm=[0, 2, 3, 1])
    value = build.node("Transpose", [value], perm=[0, 2, 1, 3])
    scores = build.node("Mul", [build.node("MatMul", [query, key]), build.constant(size**-0.5)])
    attention = build.node("Softmax", [build.node("Add", [scores, bias])], axis=-1)
    context = build.node("Transpose", [build.node("MatMul", [attention, value])], perm=[0, 2, 1, 3])
    context = build.node("Reshape", [context, build.constant([0, 0, shape.hidden], np.int64)])
    x = build.node("Add", [x, build.linear(context, shape.hidden, shape.hidden, *quantised)])
    x = build.layer_norm(x, shape.hidden)
    inner = build.node(shape.activation, [build.linear(x, shape.hidden, shape.feed_forward, *quantised)])
    x = build.node("Add", [x, build.linear(inner, shape.feed_forward, shape.hidden, *quantised)])
    return build.layer_norm(x, shape.hidden), attention


def _prune(build: GraphBuilder, shape: EncoderShape, x: str, mask: str, attention: str) -> tuple[str, str]:
    """Keep the tokens that received most attention. Returns hidden states and mask, both shorter."""
    received = build.node("ReduceMean", [attention, build.constant([1, 2], np.int64)], keepdims=0)
    length = build.node("Cast", [build.node("Shape", [received], start=1, end=2)], to=TensorProto.FLOAT)
    kept = build.node("Ceil", [build.node("Mul", [length, build.constant([shape.keep])])])
    kept = build.node("Cast", [kept], to=TensorProto.INT64)
    _, index = build.node("TopK", [received, kept], outputs=2, axis=1)
    mask = build.node("GatherElements", [mask, index], axis=1)
    index = build.node("Unsqueeze", [index, build.constant([2], np.int64)])
    target = build.constant([1, 1, shape.hidden], np.int64)
    return str(build.node("GatherElements", [x, build.node("Expand", [index, target])], axis=1)), mask


def write_encoder(path: Path, shape: EncoderShape | None = None, seed: int = 0) -> Path:
    """Write a random encoder with dynamic batch and sequence, output ``logits`` [batch, outputs]."""
    shape = shape or EncoderShape()
    build = GraphBuilder(seed)
    x = _embed(build, shape)
    mask = build.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    bias = _attention_bias(build, mask)
    for layer in range(shape.layers):
        bits = shape.layer_bits[layer] if shape.layer_bits else shape.bits
        x, attention = _layer(build, shape, x, bias, bits)
        if shape.keep < 1 and layer == (shape.layers - 1) // 2:
            x, mask = _prune(build, shape, x, mask, attention)
            bias = _attention_bias(build, mask)
    first = build.node("Gather", [x, build.constant(0, np.int64)], axis=1)
    classifier = build.constant(build.weights(shape.hidden, shape.outputs))
    logits = build.node("Gemm", [first, classifier, build.constant(np.zeros(shape.outputs))])
    build.nodes[-1].output[0] = logits = "logits"
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if shape.segments > 1 else [])
    build.save(path, inputs, logits, ["batch", shape.outputs])
    return path


def write_linear(path: Path, k: int, n: int, bits: int, block_size: int, accuracy_level: int) -> Path:
    """Write an embedding lookup (fp32, width ``k``) followed by one ``k`` x ``n`` product.

    ``bits`` 0 leaves the product out, so that the difference of two counts is the product alone.
    """
    build = GraphBuilder(0)
    x = build.node("Gather", [build.constant(build.weights(1000, k)), "input_ids"])
    if bits:
        x = build.linear(x, k, n, bits, block_size, accuracy_level)
    build.nodes[-1].output[0] = "output"
    build.save(path, ["input_ids"], "output", ["batch", "sequence", n if bits else k])
    return path


def write_lookup(path: Path, bits: int, block_size: int = 32, width: int = 64, rows: int = 1000) -> np.ndarray:
    """Write one quantised embedding lookup; returns the table [rows, width] it should read back as."""
    build = GraphBuilder(0)
    packed, scales = pack_blocks(build.weights(rows, width), bits, block_size)
    output = build.node(
        "GatherBlockQuantized",
        [build.constant(packed.reshape(rows, -1), np.uint8), "input_ids", build.constant(scales)],
        bits=bits,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=1,
    )
    build.save(path, ["input_ids"], output, ["batch", "sequence", width])
    codes = np.stack([packed >> (bits * i) & ((1 << bits) - 1) for i in range(8 // bits)], -1)
    values = codes.reshape(rows, -1, block_size).astype(np.float32) - (1 << (bits - 1))
    return (values * scales[..., None]).reshape(rows, width)
