"""ONNX models that hold one operator each, to measure what it costs by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from objectives.latency.work import kind_of
from space.graph import IR_VERSION, MICROSOFT, OPSET
from space.operators import OperatorCall

TOKENS = 4  # of the models' only input, whose content decides nothing
# How many inputs are activations (the rest are weights), for operators that are worth a measurement of their own:
# cheap ones are known well enough from whole students.
_ACTIVATIONS = {
    "MatMulNBits": 1,
    "FusedMatMul": 2,
    "MatMul": 2,
    "Softmax": 1,
    "LayerNormalization": 1,
    "SkipLayerNormalization": 2,
    "Gelu": 1,
    "FastGelu": 1,
    "Relu": 1,
    "Transpose": 1,
    "Split": 1,
    "Add": 2,
}
_MICROSOFT = {"FastGelu", "FusedMatMul", "MatMulNBits", "SkipLayerNormalization"}
_PRODUCTS = {"FusedMatMul", "MatMul"}
_BY_KIND = {"MatMulNBits": 20, "FusedMatMul": 50, "MatMul": 40, "Transpose": 40}
_OTHERWISE = 20


def choose_calls(calls: Iterable[OperatorCall], generator: np.random.Generator) -> list[OperatorCall]:
    """Some calls of each kind that is measured by itself."""
    kinds: dict[str, dict[OperatorCall, None]] = {}
    for call in calls:
        if call.operator in _ACTIVATIONS:
            kinds.setdefault(kind_of(call), {})[call] = None
    chosen = []
    for kind in sorted(kinds):
        found = list(kinds[kind])
        wanted = _BY_KIND.get(found[0].operator, _OTHERWISE)
        chosen += [found[index] for index in generator.permutation(len(found))[:wanted]]
    return [chosen[index] for index in generator.permutation(len(chosen))]


def single_operator(call: OperatorCall, generator: np.random.Generator) -> onnx.ModelProto:
    """A model that computes activations of the right shapes (one addition each), then this call."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ids"], ["offset"], keepdims=0),
    ]
    weights, names = [], []
    for index, dims in enumerate(call.inputs):
        values = generator.normal(size=dims).astype(np.float32)
        if call.operator == "MatMulNBits" and index == 1:
            values = generator.integers(0, 256, size=dims).astype(np.uint8)
        weights.append(numpy_helper.from_array(values, f"value{index}"))
        names.append(f"value{index}")
        weights_of_product = call.operator in _PRODUCTS and index == 1 and len(dims) == 2
        if index < _ACTIVATIONS[call.operator] and not weights_of_product:  # else it would be folded into a constant
            nodes.append(helper.make_node("Add", [f"value{index}", "offset"], [f"activation{index}"]))
            names[-1] = f"activation{index}"
    if call.operator == "MatMulNBits":
        names[3:3] = ["", ""]  # zero points and group indices
    outputs = [f"output{index}" for index in range(len(call.outputs))]
    domain = MICROSOFT if call.operator in _MICROSOFT else ""
    nodes.append(helper.make_node(call.operator, names, outputs, domain=domain, **_attributes(call)))
    graph = helper.make_graph(
        nodes,
        "single",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))
            for name, dims in zip(outputs, call.outputs, strict=True)
        ],
        weights,
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION)


def _attributes(call: OperatorCall) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(call.attributes)
    if call.operator in ("LayerNormalization", "SkipLayerNormalization"):
        attributes["epsilon"] = 1e-5
    if call.operator == "FusedMatMul":
        attributes["alpha"] = 0.25
    if call.operator == "Split":
        attributes |= {"axis": 1, "num_outputs": len(call.outputs)}
    return attributes
