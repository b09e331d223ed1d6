"""Operator calls -> amounts of work in the units that their kernels run in.

The kernels of ONNX Runtime (MLAS) work in tiles: four rows at a time, what is left two and one; sixteen columns at
a time, what is left in fours; a matrix of one row takes another path altogether. So a product of 5 rows costs like
4 + 1 rows, not like 5/4 of 4 rows. Amounts in such units make costs linear. Weights that are unpacked once per call
and rows that are rounded to int8 once per call have units of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from space.operators import Dims, OperatorCall

Work = dict[str, float]
_TRANSPARENT = {"Reshape", "Squeeze", "Unsqueeze", "Identity"}  # pass their input on
_FEW = 512  # elements of a call whose fixed costs are all that matters
_ELEMENTWISE = {"Gelu", "Relu", "BiasGelu", "FastGelu", "QuickGelu", "Tanh", "Sigmoid", "Erf", "HardSwish"}


def work_of(call: OperatorCall) -> Work:
    """Amounts of work of one call by ``kind.unit``; every call counts as one ``node``."""
    kind, amounts = _MEASURES.get(call.operator, _other)(call)
    return {f"{kind}.{unit}": float(amount) for unit, amount in amounts.items() if amount} | {f"{kind}.nodes": 1.0}


def kind_of(call: OperatorCall) -> str:
    """The operator with what chooses its kernel."""
    return _MEASURES.get(call.operator, _other)(call)[0]


def _row_groups(rows: int) -> Iterator[tuple[str, int]]:
    yield "quads", rows // 4
    for rest in (1, 2, 3):
        yield f"rest{rest}", int(rows % 4 == rest)


def _quantized_product(call: OperatorCall) -> tuple[str, Work]:
    a = dict(call.attributes)
    depth, width, block = int(str(a["K"])), int(str(a["N"])), int(str(a["block_size"]))
    level = a.get("accuracy_level", 0)
    rows = prod(call.inputs[0][:-1])
    # Cores with dot products have another kernel for 4 bits in whole blocks.
    other = ", short" if a["bits"] == 4 and level == 4 and depth % block else ""
    key = f"MatMulNBits[{a['bits']} bits, level {level}, block {block}{other}]"
    # What is computed in whole blocks, and in pieces of 16 of the last, shorter one.
    spans = {"blocks": -(-depth // block), "pieces": -(-depth // 16)} if block > 16 else {"blocks": -(-depth // 16)}
    if rows == 1:
        amounts: Work = {"outputs": width}
        for span, length in spans.items():
            amounts |= {f"{span}.dots": width * length, f"{span}.inputs": length}
        return f"{key[:-1]}, one row]", amounts
    amounts = {"columns": width, "rows": rows}
    for name, count in _row_groups(rows):
        amounts[f"{name}.outputs"] = count * width
    for span, length in spans.items():
        amounts |= {f"{span}.weights": width * length, f"{span}.inputs": rows * length}
        for name, count in _row_groups(rows):
            amounts[f"{name}.{span}"] = count * width * length
    return key, amounts


def _product(call: OperatorCall) -> tuple[str, Work]:
    output = call.outputs[0]
    a = dict(call.attributes)
    left = call.inputs[0]
    depth = left[-2] if a.get("transA") else left[-1]
    rows, width = output[-2:] if len(output) > 1 else (1, output[-1])
    matrices = prod(output[:-2])
    shared = len(call.inputs) > 1 and prod(call.inputs[1][:-2]) == 1
    if shared and matrices > 1:  # one matrix for all: multiplied at once
        rows, matrices = rows * matrices, 1
    wide, narrow = width // 16, -(-(width % 16) // 4)
    amounts: Work = {"matrices": matrices}
    if len(call.inputs) > 1 and len(call.inputs[1]) == 2:  # weights, packed when the file is loaded
        key = "Product[weights,"
    else:
        key = "Product[turned," if a.get("transB") else "Product[plain,"
        amounts["packed"] = matrices * depth * (wide * 16 + narrow * 4)
    if rows == 1:
        return f"{key} one row]", amounts | {"products": depth * width * matrices, "outputs": width * matrices}
    for name, count in _row_groups(rows):
        for columns, tiles in (("wide", wide), ("narrow", narrow)):
            amounts[f"{name}.{columns}.products"] = matrices * count * tiles * depth
            amounts[f"{name}.{columns}.tiles"] = matrices * count * tiles
    return f"{key} several rows]", amounts


def _row_wise(call: OperatorCall) -> tuple[str, Work]:
    dims = call.inputs[0]
    rows, columns = prod(dims[:-1]), dims[-1]
    amounts: Work = {"rows": rows, "vectors": rows * (columns // 4), "rest": rows * (columns % 4)}
    return call.operator, amounts


def _elementwise(call: OperatorCall) -> tuple[str, Work]:
    return call.operator, {"elements": prod(call.outputs[0])}


def _binary(call: OperatorCall) -> tuple[str, Work]:
    output = call.outputs[0]
    elements = prod(output)
    if elements <= _FEW:
        return "Small", {"elements": elements}
    spans, same = _spans(call.inputs, output)
    # What broadcasts goes through the same loops whatever it computes; sums were recorded.
    return f"{call.operator}[same]" if same else "Add[spread]", {"elements": elements, "spans": spans}


def _spans(inputs: tuple[Dims, ...], output: Dims) -> tuple[int, bool]:
    """Runs of elements that a broadcast works on at once, and whether there is nothing to broadcast."""
    if all(prod(dims) in (1, prod(output)) for dims in inputs):
        return 1, True
    smallest = min(inputs, key=prod)
    length, repeats = 1, None  # in a run, the smaller input either goes along or stays where it is
    for size, own in zip(reversed(output), reversed(smallest), strict=False):
        if size > 1 and repeats not in (None, own != size):
            break
        repeats = own != size if size > 1 else repeats
        length *= size
    return prod(output) // length, False


def _transpose(call: OperatorCall) -> tuple[str, Work]:
    dims, perm = call.inputs[0], dict(call.attributes).get("perm")
    moved = tuple(perm) if isinstance(perm, tuple) else tuple(range(len(dims)))[::-1]
    length, axis = 1, len(dims) - 1
    while axis >= 0 and moved[axis] == axis:
        length *= dims[axis]
        axis -= 1
    return "Transpose", {"elements": prod(dims), "runs": prod(dims) // length}


def _split(call: OperatorCall) -> tuple[str, Work]:
    return call.operator, {"elements": prod(call.inputs[0])}


def _gather_quantized(call: OperatorCall) -> tuple[str, Work]:
    a = dict(call.attributes)
    output = call.outputs[0]
    return f"GatherBlockQuantized[{a['bits']} bits]", {"elements": prod(output), "rows": prod(output[:-1])}


def _gather(call: OperatorCall) -> tuple[str, Work]:
    output = call.outputs[0]
    windows = call.operator == "Gather" and len(output) == 4  # of several rows each
    return "Gather[windows]" if windows else call.operator, {"elements": prod(output), "rows": prod(output[:-1])}


def _pad(call: OperatorCall) -> tuple[str, Work]:
    output = call.outputs[0]
    return "Pad", {"elements": prod(output), "rows": prod(output[:-1])}


def _reduction(call: OperatorCall) -> tuple[str, Work]:
    """Of rows along one axis to one row each; other reductions are as good as nothing in any model of ours."""
    source, output = call.inputs[0], call.outputs[0]
    elements = prod(source)
    if elements <= _FEW or output not in [source[:axis] + source[axis + 1 :] for axis in range(len(source) - 1)]:
        return _other(call)
    return f"{call.operator}[rows]", {"elements": elements, "outputs": prod(output), "rows": elements // source[-1]}


def _top_k(call: OperatorCall) -> tuple[str, Work]:
    tokens, kept = call.inputs[0][-1], call.outputs[0][-1]
    return "TopK", {"elements": tokens, "comparisons": tokens * max(1, kept.bit_length()), "kept": kept}


def _recurrent(call: OperatorCall) -> tuple[str, Work]:
    """What comes in is multiplied at once, what comes back one row at a time; kernels of LSTM and GRU differ."""
    (sequence, batch, inputs), (directions, rows, _) = call.inputs[:2]
    steps, hidden = directions * sequence, call.inputs[2][-1]
    products: Work = {
        f"inputs.{name}.products": directions * count * rows * inputs for name, count in _row_groups(sequence * batch)
    }
    return call.operator, products | {
        "inputs.weights": directions * rows * inputs,
        "states.products": steps * batch * rows * hidden,
        "states": steps * batch * hidden,
        "steps": steps,
    }


def _bias_gelu(call: OperatorCall) -> tuple[str, Work]:
    return "Gelu", {"elements": prod(call.outputs[0])}  # next to the error function, an addition is nothing


def _passes_on(call: OperatorCall) -> tuple[str, Work]:
    return "View", {}


def _other(call: OperatorCall) -> tuple[str, Work]:
    """Anything else: the larger of what is read and written."""
    largest = max(prod(dims) for dims in (*call.inputs, *call.outputs))
    return "Small", {"elements": largest}


_MEASURES: dict[str, Callable[[OperatorCall], tuple[str, Work]]] = {
    "MatMulNBits": _quantized_product,
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm"), _product),
    **dict.fromkeys(("Softmax", "LayerNormalization", "SkipLayerNormalization"), _row_wise),
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _binary),
    **dict.fromkeys(("LSTM", "GRU"), _recurrent),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax"), _reduction),
    "Pad": _pad,
    "BiasGelu": _bias_gelu,
    "Transpose": _transpose,
    "Split": _split,
    "GatherBlockQuantized": _gather_quantized,
    **dict.fromkeys(("Gather", "GatherND", "GatherElements"), _gather),
    "TopK": _top_k,
    **dict.fromkeys(_TRANSPARENT, _passes_on),
}
