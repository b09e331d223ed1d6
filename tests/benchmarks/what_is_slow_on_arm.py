"""What makes students slow on ARM: tables of emulated instructions and modelled milliseconds.

    python tests/benchmarks/what_is_slow_on_arm.py [operators products activations rows calls students]

Needs `shoebox emulator install`. All tables take about three minutes of processor time. Operators are measured as the
difference of two models, with and without them.

Findings (ONNX Runtime 1.31.1, qemu 7.2.22, profiles as of that date, 32 tokens, block 32, unless said otherwise):

- Linear maps are 80 % of the instructions of a 3 x 192 student of 4 bits, and 69 % of a pruned 2 x 128 one; gelu 6
  and 4 %, norms 5 and 6 %, attention between its linear maps 8 and 10 %.
- Bits. Without a dot product (A53, A72) `MatMulNBits` unpacks all weights at every call: 26 instructions a weight
  for 2 bits, 16 for 8 bits, 2 for 4 bits, then a float32 product of about 0.32 instructions a multiplication.
  A 192 x 384 map takes an A53 2.38 ms with 2 bits, 2.39 with 8, 0.88 with 4; plain float32 takes 0.96. Levels 0
  and 4 run the same code there. With a dot product (A55, A76) level 4 has kernels that do not unpack: an A76 takes
  0.27 ms with 2 bits, 0.07 with 8, 0.06 with 4, and 0.36, 0.31 and 0.16 at level 0.
- Hence `unpacking: load` (weights unpacked once, by operators that ONNX Runtime folds when it loads the file): a
  3 x 192 student of 2 bits goes from 34.6 to 16.7 ms on the A53, of 8 bits from 34.3 to 16.7; on the A76 from 4.0
  to 3.0 and from 1.6 to 3.0. It takes 4 bytes of heap a weight. With 4 bits there is little
  to gain: a map takes 16 % less time at 12 tokens and 9 to 18 % more at 32 and 64.
- Blocks hardly matter on the A53. On the A76 at level 4 they do: with 4 bits, 16 takes 3.5 times as long as 32 and
  64, and 128 takes 2.6 times as long where it does not divide the inputs; with 2 bits, 64 and 128
  are 1.6 times as fast as 32.
- Activations, 32 x 384 values on the A53: erf-gelu 0.48 ms, tanh-gelu 0.29, hardswish 0.09, squared relu 0.06,
  relu 0.03. A 3 x 192 student takes 16.2 ms with the first, 15.6 with the second, 14.9 with squared relu, 14.8 with
  relu. (ONNX Runtime has no kernel for hardswish and takes it apart; it is no choice of students, since squared relu
  is as fast.)
- Layer norm costs 16 instructions a value (0.21 ms for 32 x 192), twice that of RMS norm; the sum before it is
  nearly free inside. Softmax costs about 12 a value at 32 tokens, so it counts only for long texts.
- A call of an operator costs 3,000 to 3,400 instructions before any work, 3.0 to 3.8 us on the A53, more where it
  broadcasts. A student of two layers holds 46 operators
  that run, with pruning 83. The exporter therefore expands the mask once, takes the bias as its logarithm, slices a
  position table that was unpacked at load, and prunes a layer in 15 operators in place of 21: 0.25 % (3 x 192) to
  1.75 % (2 x 128 pruned twice) fewer instructions, 2.4 % at 12 tokens.
- Fusions that do not pay: `MultiHeadAttention` has 1 to 4 % fewer instructions than the nine operators in its
  place but took 2 to 25 % more time on the A53 (its own copies missed the caches) at 32 and 64 tokens, when the C
  library still placed them; a bias costs
  2.1 instructions a value in `MatMulNBits`, 1.3 in `BiasGelu`, 3.0 in `SkipLayerNormalization`: moving it into
  `BiasGelu` would save 0.2 % of the instructions and lose time on the A76.
- Not applied, since it changes what is computed: weights of 8 bits with one scale a row and activations of 8 bits
  (`DynamicQuantizeMatMul`) take 0.64 ms on the A53 and 0.06 on the A76, less than any of the above; RMS norm.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from objectives.latency import load_profile, milliseconds
from runners.emulator import find_installation, install, run_models
from space import TaskShape
from space.families import build_student, export_model
from space.families.transformer import Layer, TransformerConfig
from space.graph import IR_VERSION, MICROSOFT, OPSET

DEVICES = ("cortex-a53", "cortex-a76")
LENGTHS = (12, 32, 64)
VOCABULARY = 4000
Model = onnx.ModelProto
Named = dict[str, Model]


def measure(models: Sequence[Model], tokens: int, devices: Sequence[str] = DEVICES) -> np.ndarray[Any, Any]:
    """[models, 1 + devices]: instructions on the first device, then milliseconds of each."""
    installation = find_installation() or install(print)
    columns: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.onnx" for index in range(len(models))]
        for path, model in zip(paths, models, strict=True):
            path.write_bytes(model.SerializeToString())
        for device in devices:
            profile = load_profile(device)
            counts = [run.counts for run in run_models(paths, tokens, profile, installation)]
            columns = columns or [[float(count.instructions) for count in counts]]
            columns.append([milliseconds(count, profile) for count in counts])
    return np.array(columns).T


def table(title: str, models: Named, base: Model | None = None, lengths: Sequence[int] = LENGTHS) -> None:
    """Print a row for each model, less the base where there is one."""
    print(f"\n## {title}\n")
    heads = [
        f"{tokens} tokens: instructions | {' | '.join(f'ms {d[7:].upper()}' for d in DEVICES)}" for tokens in lengths
    ]
    print(f"| | {' | '.join(heads)} |\n|---|{'---:|' * len(lengths) * 3}")
    found = []
    for tokens in lengths:
        figures = measure([*models.values(), *([base] if base else [])], tokens)
        found.append(figures[: len(models)] - (figures[-1] if base else 0))
    for index, name in enumerate(models):
        cells = (f"{f[index, 0]:,.0f} | {f[index, 1]:.3f} | {f[index, 2]:.3f}" for f in found)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def operator_model(width: int, nodes: Sequence[onnx.NodeProto] = (), weights: Mapping[str, Any] | None = None) -> Model:
    """`x` [batch, sequence, width], looked up in a float table, through operators that end in `y`."""
    rows = np.random.default_rng(0).standard_normal((500, width)).astype(np.float32)
    tensors = [numpy_helper.from_array(array, name) for name, array in {"table": rows, **(weights or {})}.items()]
    lookup = helper.make_node("Gather", ["table", "input_ids"], ["x"])
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    output = onnx.ValueInfoProto(name="y" if nodes else "x")
    graph = helper.make_graph([lookup, *nodes], "operator", inputs, [output], tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def node(operator: str, inputs: str, output: str = "y", domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """Inputs are separated by spaces, "-" for one left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(operator, names, [output], domain=domain, **attributes)


def products(inputs: int = 192, outputs: int = 384) -> None:
    """Linear maps: bits, accuracy levels, block sizes, and what there is beside `MatMulNBits`."""
    generator = np.random.default_rng(1)
    uniform, normal = partial(generator.integers, dtype=np.uint8), partial(generator.standard_normal, dtype=np.float32)
    models: Named = {}
    for bits in (2, 4, 8):
        for level in (0, 4):
            for block in (16, 32, 64, 128):
                blocks = -(-inputs // block)
                weights = {"q": uniform(0, 255, (outputs, blocks, block * bits // 8)), "b": normal(outputs)}
                weights["s"] = normal((outputs, blocks)) / 100
                sizes: dict[str, Any] = {
                    "K": inputs,
                    "N": outputs,
                    "bits": bits,
                    "block_size": block,
                    "accuracy_level": level,
                }
                product = node("MatMulNBits", "x q s - - b", domain=MICROSOFT, **sizes)
                models[f"{bits} bits, level {level}, block {block}"] = operator_model(inputs, [product], weights)
    floats = {"w": normal((outputs, inputs)), "b": normal(outputs)}
    product = node("FusedMatMul", "x w", "p", MICROSOFT, transB=1)
    models["float32 (`unpacking: load`)"] = operator_model(inputs, [product, node("Add", "p b")], floats)
    rows = {"w": generator.integers(-127, 127, (inputs, outputs), np.int8), "s": np.abs(normal(outputs))}
    rows |= {"z": np.zeros(outputs, np.int8), "b": normal(outputs)}
    product = node("DynamicQuantizeMatMul", "x w s z b", domain=MICROSOFT)
    models["8 bits, one scale a row (`DynamicQuantizeMatMul`)"] = operator_model(inputs, [product], rows)
    table(f"Linear maps, {inputs} to {outputs}", models, operator_model(inputs))


def activations(width: int = 384) -> None:
    """What a feed-forward network may have between its maps."""
    models = {
        "gelu": [node("Gelu", "x")],
        "gelu_tanh": [node("FastGelu", "x", domain=MICROSOFT)],
        "x * sigmoid(1.702 x)": [node("QuickGelu", "x", domain=MICROSOFT, alpha=1.702)],
        "x * sigmoid(x)": [node("QuickGelu", "x", domain=MICROSOFT, alpha=1.0)],
        "hardswish": [node("HardSwish", "x")],
        "relu_squared": [node("Relu", "x", "r"), node("Mul", "r r")],
        "relu": [node("Relu", "x")],
    }
    bias = {"b": np.ones(width, np.float32)}
    named = {name: operator_model(width, nodes) for name, nodes in models.items()}
    named["gelu with bias (`BiasGelu`)"] = operator_model(width, [node("BiasGelu", "x b", domain=MICROSOFT)], bias)
    table(f"Activations of {width} values a token", named, operator_model(width))


def rows(width: int = 192) -> None:
    """Operators that go along rows, at short lengths."""
    norm = {name: np.ones(width, np.float32) for name in ("g", "h", "b")}
    skip = partial(node, "SkipLayerNormalization", domain=MICROSOFT)
    models = {
        "LayerNormalization": operator_model(width, [node("LayerNormalization", "x g h")], norm),
        "SkipLayerNormalization": operator_model(width, [skip("x x g h")], norm),
        "SkipLayerNormalization with bias": operator_model(width, [skip("x x g h b")], norm),
        "RMS norm (`SimplifiedLayerNormalization`)": operator_model(
            width, [node("SimplifiedLayerNormalization", "x g")], norm
        ),
    }
    table(f"Norms of {width} values a token", models, operator_model(width))
    for tokens in LENGTHS:  # the scores of 4 heads are 4 * tokens values for each token
        cut = operator_model(4 * tokens, [node("Reshape", "x s", "r")], {"s": np.array([-1, tokens])})
        cut.graph.output[0].name = "r"
        soft = operator_model(
            4 * tokens, [node("Reshape", "x s", "r"), node("Softmax", "r")], {"s": np.array([-1, tokens])}
        )
        table(f"Softmax of the scores of 4 heads, {tokens} tokens", {"Softmax": soft}, cut, (tokens,))


def calls(count: int = 32) -> None:
    """What one operator call costs that computes next to nothing: a chain of them on one value."""
    one, axis = np.ones(1, np.float32), np.zeros(1, np.int64)

    def chain(step: Callable[[int, str], onnx.NodeProto]) -> Model:
        first = node("ReduceMax", "x", "c0", keepdims=0)
        nodes = [first, *(step(index, f"c{index + 1}") for index in range(count))]
        nodes.append(node("Identity" if count % 2 else "Neg", f"c{count}"))
        return operator_model(16, nodes, {"one": one, "axis": axis})

    models = {
        f"{count} x Add": chain(lambda i, out: node("Add", f"c{i} one", out)),
        f"{count} x Ceil": chain(lambda i, out: node("Ceil" if i % 2 else "Neg", f"c{i}", out)),
        f"{count // 2} x Unsqueeze, Squeeze": chain(
            lambda i, out: node("Squeeze" if i % 2 else "Unsqueeze", f"c{i} axis", out)
        ),
    }
    empty = operator_model(16, [node("ReduceMax", "x", "c0", keepdims=0), node("Neg", "c0")], {})
    table("Operator calls without work", models, empty)


def student(
    depth: int = 3, width: int = 192, heads: int = 4, ffn: int = 384, keep: float = 1.0, bits: Any = 4, **other: Any
) -> Model:
    """A student with random weights, exported as all are."""
    layer = Layer(ffn_width=ffn, token_keep=keep, attention_bits=bits, ffn_bits=bits)
    fields: dict[str, Any] = {"vocabulary_keep": 0.2, "embedding_width": 64, "embedding_bits": bits, "block_size": 32}
    fields |= {"accuracy_level": 4, "width": width, "heads": heads, "activation": "gelu", "layers": (layer,) * depth}
    config = TransformerConfig(**{**fields, **other})
    shape = TaskShape(outputs=2, segments=1, max_length=128)
    torch.manual_seed(0)
    return export_model(config, shape, VOCABULARY, build_student(config, shape, VOCABULARY).eval())


SMALL = {"depth": 2, "width": 128, "heads": 2, "ffn": 256}


def students() -> None:
    """Whole students: sizes, pruning, activations, unpacking."""
    models = {"3 x 192": student(), "2 x 128": student(**SMALL)}
    models["2 x 128, half the tokens pruned in each layer"] = student(**SMALL, keep=0.5)
    for name in ("gelu_tanh", "relu_squared", "relu"):
        models[f"3 x 192, {name}"] = student(activation=name)
    for bits in (2, 8):
        for unpacking in ("run", "load"):
            models[f"3 x 192, {bits} bits, unpacking: {unpacking}"] = student(bits=bits, unpacking=unpacking)
    table("Students, 4 bits and gelu unless said otherwise", models)


def operators(tokens: int = 32) -> None:
    """Shares of a student's operators: the graph is cut off after each in turn; differences are its cost."""
    for title, model in {"3 x 192": student(), "2 x 128, pruned": student(**SMALL, keep=0.5)}.items():
        figures = measure([cut_after(model, index) for index in range(len(model.graph.node))], tokens, DEVICES[:1])
        costs = np.diff(figures, axis=0, prepend=0)
        amounts: Counter[str] = Counter()
        time: Counter[str] = Counter()
        for operator, (instructions, ms) in zip(model.graph.node, costs, strict=True):
            amounts[operator.op_type] += instructions
            time[operator.op_type] += ms
        print(f"\n## Operators of {title}, {tokens} tokens\n\n| | calls | instructions | share | ms A53 |")
        print("|---|---:|---:|---:|---:|")
        for name, amount in amounts.most_common():
            called = sum(operator.op_type == name for operator in model.graph.node)
            print(f"| {name} | {called} | {amount:,.0f} | {amount / figures[-1, 0]:.1%} | {time[name]:.3f} |")


def cut_after(model: Model, last: int) -> Model:
    """The graph up to operator `last`; what it then leaves unused is its output."""
    kept = list(model.graph.node)[: last + 1]
    used = {name for operator in kept for name in operator.input}
    part = Model()
    part.CopyFrom(model)
    del part.graph.node[last + 1 :], part.graph.output[:], part.graph.initializer[:]
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    names = [name for operator in kept for name in operator.output if name not in used]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return part


TABLES = {call.__name__: call for call in (operators, products, activations, rows, calls, students)}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or TABLES:
        TABLES[chosen]()
