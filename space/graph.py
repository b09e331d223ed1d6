"""An ONNX graph as plain data, its exact encoded size, and the model built from it.

A student family describes its graph once. The same description gives the bytes before training (arithmetic
over the protobuf encoding: no weights, no allocation) and, with weights, the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
_PRODUCER = "shoebox"
_NUMPY: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.UINT8: np.dtype("u1"),
}
Attribute = int | float | str | tuple[int, ...]
Output = tuple[str, tuple[str | int, ...]]  # name and shape of a float output, free sizes by name


@dataclass(frozen=True)
class Tensor:
    """A weight of the file: its name, shape and type; `value` only where the graph fixes it."""

    name: str
    dims: tuple[int, ...]
    data_type: int = TensorProto.FLOAT
    value: tuple[int | float, ...] | None = None


@dataclass(frozen=True)
class Node:
    """An operator of the file."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: tuple[tuple[str, Attribute], ...] = ()


Item = Tensor | Node


@dataclass(frozen=True)
class Part:
    """Some consecutive items of a graph."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, items: Iterable[Item]) -> Part:
        """A part of these items."""
        return cls(tuple(items))

    @cached_property
    def size(self) -> int:
        """Bytes that the items add to the file."""
        return sum(_field(_item_size(item)) for item in self.items)


def encoded_size(sizes: Iterable[int], inputs: tuple[str, ...], outputs: tuple[Output, ...]) -> int:
    """Bytes of the model file made of parts of these sizes, exactly.

    Args:
        sizes: `Part.size` of every part of the graph.
        inputs: names of the int64 inputs, each [batch, sequence].
        outputs: the float outputs.
    """
    graph = sum(sizes) + _frame_size(inputs, outputs)
    return _envelope_size() + _field(graph)


def build_model(
    parts: Iterable[Part], inputs: tuple[str, ...], outputs: tuple[Output, ...], weights: Mapping[str, np.ndarray]
) -> onnx.ModelProto:
    """The model of these parts with the given weights.

    Raises:
        ValueError: a weight is missing, superfluous, or of another shape than described.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    used: set[str] = set()
    for part in parts:
        for item in part.items:
            if isinstance(item, Node):
                nodes.append(_node(item))
            else:
                tensors.append(_tensor(item, weights))
                used.add(item.name)
    if extra := set(weights) - used:
        raise ValueError(f"weights without a place in the graph: {sorted(extra)}")
    graph = helper.make_graph(nodes, "student", *_values(inputs, outputs), tensors)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=IR_VERSION,
        producer_name=_PRODUCER,
    )
    return model


def _node(node: Node) -> onnx.NodeProto:
    made = helper.make_node(node.operator, node.inputs, node.outputs, domain=node.domain or None)
    made.attribute.extend(helper.make_attribute(name, value) for name, value in node.attributes)
    return made


def _tensor(tensor: Tensor, weights: Mapping[str, np.ndarray]) -> onnx.TensorProto:
    dtype = _NUMPY[tensor.data_type]
    if tensor.value is not None:
        array = np.array(tensor.value, dtype).reshape(tensor.dims)
    elif tensor.name not in weights:
        raise ValueError(f"weight {tensor.name} is missing")
    else:
        array = weights[tensor.name]
        if array.shape != tensor.dims or array.dtype != dtype:
            raise ValueError(f"weight {tensor.name} is {array.dtype} {array.shape}, described as {dtype} {tensor.dims}")
    data = np.ascontiguousarray(array).tobytes()
    return helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, data, raw=True)


def _values(
    inputs: tuple[str, ...], outputs: tuple[Output, ...]
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    shape = ["batch", "sequence"]
    return (
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs],
    )


@lru_cache
def _frame_size(inputs: tuple[str, ...], outputs: tuple[Output, ...]) -> int:
    """Bytes of a graph without items."""
    return helper.make_graph([], "student", *_values(inputs, outputs)).ByteSize()


@lru_cache
def _envelope_size() -> int:
    """Bytes of a model beside its graph."""
    model = build_model([], (), (), {})
    model.ClearField("graph")
    return model.ByteSize()


# Protobuf encoding (proto2, as onnx.proto): a field below number 16 costs one byte of tag, a length or a whole
# number costs a variable number of bytes; repeated integers are not packed.


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7)) if number >= 0 else 10


def _field(length: int) -> int:
    """A length-delimited field: tag, length, content."""
    return 1 + _varint(length) + length


@lru_cache(maxsize=4096)
def _string(text: str) -> int:
    return _field(len(text.encode()))


def _attribute_size(name: str, value: Attribute) -> int:
    size = _string(name) + 3  # the type has a two-byte tag
    if isinstance(value, float):
        return size + 5
    if isinstance(value, str):
        return size + _string(value)
    if isinstance(value, int):
        return size + 1 + _varint(value)
    return size + sum(1 + _varint(v) for v in value)


def _item_size(item: Item) -> int:
    if isinstance(item, Tensor):
        length = prod(item.dims) * _NUMPY[item.data_type].itemsize
        dims = sum(1 + _varint(dim) for dim in item.dims)
        return dims + 1 + _varint(item.data_type) + _string(item.name) + _field(length)
    size = _string(item.operator) + sum(map(_string, item.inputs)) + sum(map(_string, item.outputs))
    if item.domain:
        size += _string(item.domain)
    return size + sum(_field(_attribute_size(name, value)) for name, value in item.attributes)
