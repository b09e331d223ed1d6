"""The model that the runner runs first, so that the emulator has translated what students have in common.

Its operators are those that students are exported with, at 2, 4 and 8 bits and both accuracy levels. It is small:
what counts is that the code was run, not for how long. It is the same file on every machine and in every run: what
it leaves on the heap is part of the state that all measured models start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_WIDTH, _HEADS, _ROWS, _BLOCK = 64, 2, 64, 32
_MICROSOFT = "com.microsoft"


class _Graph:
    """Collects nodes and constants; names are numbered."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, kind: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"n{len(self.nodes)}.{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def table(self, ids: str, bits: int) -> str:
        packed = self.constant(np.full((_ROWS, _WIDTH * bits // 8), 0x5A), np.uint8)
        scales = self.constant(np.ones((_ROWS, _WIDTH // _BLOCK)))
        attributes = {"bits": bits, "block_size": _BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return str(self.node("GatherBlockQuantized", [packed, ids, scales], domain=_MICROSOFT, **attributes))

    def linear(self, x: str, inputs: int, outputs: int, bits: int, level: int) -> str:
        packed = self.constant(np.full((outputs, inputs // _BLOCK, _BLOCK * bits // 8), 0x5A), np.uint8)
        parts = [x, packed, self.constant(np.full((outputs, inputs // _BLOCK), 0.01)), "", ""]
        attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": _BLOCK, "accuracy_level": level}
        return str(self.node("MatMulNBits", [*parts, self.constant(np.ones(outputs))], domain=_MICROSOFT, **attributes))

    def norm(self, x: str, skip: str) -> str:
        inputs = [x, skip, self.constant(np.ones(_WIDTH)), self.constant(np.zeros(_WIDTH))]
        return str(self.node("SkipLayerNormalization", inputs, domain=_MICROSOFT, epsilon=1e-12))


def _layer(graph: _Graph, x: str, bias: str, bits: int, level: int, activation: str) -> tuple[str, str]:
    """One transformer layer; returns its output and its attention probabilities."""
    size = _WIDTH // _HEADS
    heads = graph.constant([0, 0, 3 * _HEADS, size], np.int64)
    turned = graph.node("Reshape", [graph.linear(x, _WIDTH, 3 * _WIDTH, bits, level), heads])
    turned = graph.node("Transpose", [turned], perm=[0, 2, 1, 3])
    query, key, value = graph.node("Split", [turned], outputs=3, axis=1, num_outputs=3)
    dot = graph.node("FusedMatMul", [query, key], domain=_MICROSOFT, transB=1, alpha=size**-0.5)
    probabilities = graph.node("Softmax", [graph.node("Add", [dot, bias])], axis=-1)
    mixed = graph.node("Transpose", [graph.node("MatMul", [probabilities, value])], perm=[0, 2, 1, 3])
    merged = graph.node("Reshape", [mixed, graph.constant([0, 0, _WIDTH], np.int64)])
    x = graph.norm(graph.linear(merged, _WIDTH, _WIDTH, bits, level), x)
    active = graph.node(activation, [graph.linear(x, _WIDTH, 2 * _WIDTH, bits, level)])
    return graph.norm(graph.linear(active, 2 * _WIDTH, _WIDTH, bits, level), x), probabilities


def _prune(graph: _Graph, x: str, probabilities: str) -> tuple[str, str]:
    """Half of the tokens; returns hidden states and mask."""
    axes, last = graph.constant([1, 2], np.int64), graph.constant([-1], np.int64)
    score = graph.node("ReduceSum", [probabilities, axes], keepdims=0)
    length = graph.node("Cast", [graph.node("Shape", [score], start=1, end=2)], to=TensorProto.FLOAT)
    share = graph.node("Ceil", [graph.node("Mul", [length, graph.constant(0.5)])])
    size = graph.node("Cast", [share], to=TensorProto.INT64)
    _, kept = graph.node("TopK", [score, size], outputs=2, axis=-1)
    x = graph.node("GatherND", [x, graph.node("Unsqueeze", [kept, last])], batch_dims=1)
    steps = graph.node("Squeeze", [size])
    places = graph.node("Range", [graph.constant(0, np.int64), steps, graph.constant(1, np.int64)])
    present = graph.node("Less", [graph.node("Cast", [places], to=TensorProto.FLOAT), share])
    mask = graph.node("Cast", [present], to=TensorProto.FLOAT)
    return str(x), str(graph.node("Unsqueeze", [mask, graph.constant([0], np.int64)]))


def _bias(graph: _Graph, mask: str) -> str:
    absent = graph.node("Mul", [graph.node("Sub", [mask, graph.constant(1.0)]), graph.constant(1e4)])
    return str(graph.node("Unsqueeze", [absent, graph.constant([1, 2], np.int64)]))


def write_warm_up(path: Path) -> Path:
    """Write the model; it takes ``input_ids`` and ``attention_mask`` [batch, sequence]."""
    graph = _Graph()
    words = [graph.table("input_ids", bits) for bits in (2, 4, 8)]
    x = graph.node("Add", [graph.node("Add", words[:2]), words[2]])
    ones, zeros = graph.constant(np.ones(_WIDTH)), graph.constant(np.zeros(_WIDTH))
    x = graph.node("LayerNormalization", [x, ones, zeros], axis=-1, epsilon=1e-12)
    mask = graph.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    bias = _bias(graph, mask)
    for bits, level in product((2, 4, 8), (0, 4)):
        x = graph.linear(x, _WIDTH, _WIDTH, bits, level)
    x, probabilities = _layer(graph, x, bias, 4, 0, "Gelu")
    x, mask = _prune(graph, x, probabilities)
    x, _ = _layer(graph, x, _bias(graph, mask), 4, 4, "Relu")
    total = graph.node("MatMul", [graph.node("Unsqueeze", [mask, graph.constant([1], np.int64)]), x])
    pooled = graph.node("Squeeze", [total, graph.constant([1], np.int64)])
    pooled = graph.node("Div", [pooled, graph.node("ReduceSum", [mask, graph.constant([-1], np.int64)], keepdims=1)])
    head = graph.constant(np.ones((2, _WIDTH)))
    graph.node("Gemm", [pooled, head, graph.constant(np.zeros(2))], transB=1)
    graph.nodes[-1].output[0] = "logits"
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    content = helper.make_graph(graph.nodes, "warm-up", inputs, [logits], graph.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_MICROSOFT, 1)]
    path.write_bytes(helper.make_model(content, opset_imports=opsets, ir_version=10).SerializeToString())
    return path
