"""What a graph executes: operators with the shapes that they run on, inferred from the declarative graph.

Shapes are inferred for batch 1 and a full attention mask, so that how many tokens a layer keeps is a number. For
that, values that are the same in a whole tensor (a mask of ones, a count of tokens) are carried along with shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, log, prod
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from space.graph import Attribute, Item, Node, Tensor

Dims = tuple[int, ...]
_KEPT = ("K", "N", "accuracy_level", "bits", "block_size", "perm", "transA", "transB")


class OperatorCall(NamedTuple):
    """One executed operator.

    Attributes:
        operator: its name in ONNX.
        attributes: those that change the work and do not show in the shapes, by name.
        inputs: shape of every input, weights included.
        outputs: shape of every output.
    """

    operator: str
    attributes: tuple[tuple[str, int | Dims], ...]
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Section:
    """Operators that are executed together, equal for many configurations (compared by identity).

    Attributes:
        calls: in the order of the graph.
        tokens: length of the sequence that leaves it.
    """

    calls: tuple[OperatorCall, ...]
    tokens: int


@lru_cache(maxsize=200_000)
def _shared(call: OperatorCall) -> OperatorCall:
    """One object for equal calls: the sections of 10,000 configurations hold 160,000 calls, of which 14,000 differ."""
    return call


class Value(NamedTuple):
    """What is known of a tensor: its shape, one number that fills it, its whole numbers, whether the file fixes it."""

    dims: Dims
    fill: float | None = None
    numbers: Dims | None = None
    fixed: bool = False


Attributes = Mapping[str, Any]
Rule = Callable[[list[Value], Attributes], list[Value]]


def input_values(names: Iterable[str], tokens: int) -> dict[str, Value]:
    """The int64 inputs of a student, [1, tokens] each."""
    return {name: Value((1, tokens), 1.0 if name == "attention_mask" else None) for name in names}


class Program:
    """Consecutive items of a graph, ready to be inferred at many lengths.

    Raises:
        NotImplementedError: there is no shape rule for an operator.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.constants: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self._steps: list[tuple[Rule, list[str], Attributes, tuple[tuple[str, int | Dims], ...]]] = []
        for item in items:
            if isinstance(item, Tensor):
                self.constants[item.name] = _constant(item)
                continue
            attributes = dict(item.attributes)
            rule = _RULES.get(item.operator)
            if rule is None:
                raise NotImplementedError(f"no shape rule for the operator {item.operator} (space/operators.py)")
            self.nodes.append(item)
            self._steps.append((rule, [name for name in item.inputs if name], attributes, kept_attributes(attributes)))

    def infer(self, values: dict[str, Value], first: int = 0, last: int | None = None) -> list[OperatorCall]:
        """Calls of the nodes from ``first`` to before ``last``; adds what they yield to ``values`` (by name).

        Nodes that no input leads to are folded when a file is loaded: they are no calls.
        """
        values.update(self.constants)
        calls = []
        for node, (rule, names, attributes, whole) in zip(self.nodes[first:last], self._steps[first:last], strict=True):
            inputs = [values[name] for name in names]
            outputs = rule(inputs, attributes)[: len(node.outputs)]
            for value in inputs:
                if not value.fixed:
                    break
            else:
                values.update(
                    (name, value._replace(fixed=True)) for name, value in zip(node.outputs, outputs, strict=True)
                )
                continue
            for name, value in zip(node.outputs, outputs, strict=True):
                values[name] = value
            shapes = tuple([value[0] for value in inputs])
            call = OperatorCall(node.operator, whole, shapes, tuple([value[0] for value in outputs]))
            calls.append(_shared(call))
        return calls


def kept_attributes(attributes: Mapping[str, Attribute]) -> tuple[tuple[str, int | Dims], ...]:
    """The attributes that an `OperatorCall` keeps; 0 is the default of all of them."""
    if not attributes:
        return ()
    kept: list[tuple[str, int | Dims]] = []
    for name in _KEPT:
        value = attributes.get(name)
        if value and isinstance(value, (int, tuple)):
            kept.append((name, value))
    return tuple(kept)


def _constant(tensor: Tensor) -> Value:
    if tensor.value is None:
        return Value(tensor.dims, fixed=True)
    if tensor.data_type == TensorProto.INT64:
        numbers = tuple(int(number) for number in tensor.value)
        return Value(tensor.dims, float(numbers[0]) if len(numbers) == 1 else None, numbers, fixed=True)
    return Value(tensor.dims, float(np.float32(tensor.value[0])) if len(set(tensor.value)) == 1 else None, fixed=True)


# ---- shape rules


def _broadcast(shapes: Iterable[Dims]) -> Dims:
    shapes = [*dict.fromkeys(shapes)]
    if len(shapes) == 1:
        return shapes[0]
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(dims)) + dims for dims in shapes]
    return tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*padded, strict=True))


def _elementwise(compute: Callable[..., float] | None = None) -> Rule:
    """Numbers are rounded to float32, as the operator does."""

    def rule(inputs: list[Value], attributes: Attributes) -> list[Value]:
        fill = None
        fills = [value.fill for value in inputs]
        if compute and None not in fills:
            fill = float(np.float32(compute(*fills)))
        return [Value(_broadcast(value.dims for value in inputs), fill)]

    return rule


def _same(inputs: list[Value], attributes: Attributes) -> list[Value]:
    return [Value(inputs[0].dims, inputs[0].fill if len(inputs) == 1 else None)]


def _shape(inputs: list[Value], attributes: Attributes) -> list[Value]:
    numbers = inputs[0].dims[attributes.get("start", 0) : attributes.get("end")]
    return [Value((len(numbers),), float(numbers[0]) if len(numbers) == 1 else None, numbers)]


def _squeeze(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data = inputs[0]
    rank = len(data.dims)
    axes = {axis % rank for axis in inputs[1].numbers or ()} if len(inputs) > 1 else set(range(rank))
    return [Value(tuple(d for axis, d in enumerate(data.dims) if axis not in axes or d != 1), data.fill, data.numbers)]


def _unsqueeze(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data, axes = inputs[0], inputs[1].numbers or ()
    rank = len(data.dims) + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(data.dims)
    return [Value(tuple(1 if axis in added else next(rest) for axis in range(rank)), data.fill, data.numbers)]


def _range(inputs: list[Value], attributes: Attributes) -> list[Value]:
    start, limit, step = (value.fill for value in inputs)
    if start is None or limit is None or step is None:
        raise NotImplementedError("a Range of unknown length")
    return [Value((max(0, ceil((limit - start) / step)),))]


def _reduce(kind: str) -> Rule:
    def rule(inputs: list[Value], attributes: Attributes) -> list[Value]:
        data = inputs[0]
        rank = len(data.dims)
        axes = {axis % rank for axis in inputs[1].numbers or ()} if len(inputs) > 1 else set(range(rank))
        keep = attributes.get("keepdims", 1)
        dims = tuple(1 if axis in axes else d for axis, d in enumerate(data.dims) if keep or axis not in axes)
        fill = data.fill
        if kind == "sum" and fill is not None:
            fill *= prod(data.dims[axis] for axis in axes)
        return [Value(dims, fill)]

    return rule


def _reshape(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data, target = inputs[0], inputs[1].numbers or ()
    dims = [data.dims[axis] if size == 0 else size for axis, size in enumerate(target)]
    if -1 in dims:
        dims[dims.index(-1)] = prod(data.dims) // -prod(dims)
    return [Value(tuple(dims), data.fill)]


def _transpose(inputs: list[Value], attributes: Attributes) -> list[Value]:
    dims = inputs[0].dims
    return [Value(tuple(dims[axis] for axis in attributes.get("perm", range(len(dims))[::-1])))]


def _split(inputs: list[Value], attributes: Attributes) -> list[Value]:
    dims = list(inputs[0].dims)
    axis = attributes.get("axis", 0) % len(dims)
    if len(inputs) > 1:
        sizes = list(inputs[1].numbers or ())
    else:
        count = attributes["num_outputs"]
        size = -(-dims[axis] // count)
        sizes = [size] * (count - 1) + [dims[axis] - size * (count - 1)]
    return [Value((*dims[:axis], size, *dims[axis + 1 :])) for size in sizes]


def _slice(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data, starts, ends = inputs[0], inputs[1].numbers or (), inputs[2].numbers or ()
    axes = inputs[3].numbers or () if len(inputs) > 3 else range(len(starts))
    dims = list(data.dims)
    for axis, start, end in zip(axes, starts, ends, strict=True):
        dims[axis] = len(range(dims[axis])[start:end])
    return [Value(tuple(dims), data.fill)]


def _pad(inputs: list[Value], attributes: Attributes) -> list[Value]:
    dims, pads = inputs[0].dims, inputs[1].numbers or ()
    return [Value(tuple(d + a + b for d, a, b in zip(dims, pads[: len(dims)], pads[len(dims) :], strict=True)))]


def _concat(inputs: list[Value], attributes: Attributes) -> list[Value]:
    dims = list(inputs[0].dims)
    axis = attributes["axis"] % len(dims)
    dims[axis] = sum(value.dims[axis] for value in inputs)
    return [Value(tuple(dims))]


def _matmul(inputs: list[Value], attributes: Attributes) -> list[Value]:
    left, right = inputs[0].dims, inputs[1].dims
    rows = left[-1] if attributes.get("transA") else left[-2]
    columns = right[-2] if attributes.get("transB") else right[-1]
    return [Value((*_broadcast([left[:-2], right[:-2]]), rows, columns))]


def _gather(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data, indices = inputs[0].dims, inputs[1].dims
    axis = attributes.get("axis", 0) % len(data)
    return [Value((*data[:axis], *indices, *data[axis + 1 :]))]


def _gather_quantized(inputs: list[Value], attributes: Attributes) -> list[Value]:
    packed = 8 // attributes.get("bits", 4)
    table, indices = inputs[0].dims, inputs[1].dims
    return [Value((*indices, *table[1:-1], table[-1] * packed))]


def _gather_nd(inputs: list[Value], attributes: Attributes) -> list[Value]:
    data, indices = inputs[0].dims, inputs[1].dims
    return [Value((*indices[:-1], *data[attributes.get("batch_dims", 0) + indices[-1] :]))]


def _top_k(inputs: list[Value], attributes: Attributes) -> list[Value]:
    dims = list(inputs[0].dims)
    if inputs[1].fill is None:
        raise NotImplementedError("a TopK of unknown size")
    dims[attributes.get("axis", -1)] = int(inputs[1].fill)
    return [Value(tuple(dims)), Value(tuple(dims))]


def _constant_of_shape(inputs: list[Value], attributes: Attributes) -> list[Value]:
    if inputs[0].numbers is None:
        raise NotImplementedError("a ConstantOfShape of unknown shape")
    return [Value(inputs[0].numbers, 0.0)]


def _recurrent(inputs: list[Value], attributes: Attributes) -> list[Value]:
    """The states of all steps [sequence, directions, batch, hidden]; those of the last one are not asked for."""
    (sequence, batch, _), (directions, _, hidden) = inputs[0].dims, inputs[2].dims
    return [Value((sequence, directions, batch, hidden))]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Equal", "Less", "Greater", "Or", "And", "Where", "Pow", "Mod", "BitShift", "BitwiseAnd"), _elementwise()
    ),
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(lambda a, b: a / b),
    "Max": _elementwise(max),
    "Min": _elementwise(min),
    "Ceil": _elementwise(ceil),
    "Log": _elementwise(lambda a: log(a) if a > 0 else -inf),
    "Floor": _elementwise(lambda a: a // 1),
    "Cast": _elementwise(lambda a: a),
    **dict.fromkeys(("Relu", "Gelu", "Tanh", "Sigmoid", "Erf", "Sqrt", "HardSwish", "LeakyRelu", "Softmax"), _same),
    **dict.fromkeys(("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization"), _same),
    **dict.fromkeys(("BiasGelu", "FastGelu", "QuickGelu", "Identity", "LpNormalization"), _same),
    "Shape": _shape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Range": _range,
    "ReduceSum": _reduce("sum"),
    "ReduceMean": _reduce("mean"),
    "ReduceMax": _reduce("max"),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _matmul,
    "MatMulNBits": lambda inputs, attributes: [Value((*inputs[0].dims[:-1], attributes["N"]))],
    "Gather": _gather,
    "GatherElements": lambda inputs, attributes: [Value(inputs[1].dims)],
    "GatherND": _gather_nd,
    "GatherBlockQuantized": _gather_quantized,
    "TopK": _top_k,
    "ConstantOfShape": _constant_of_shape,
    **dict.fromkeys(("LSTM", "GRU"), _recurrent),
}
