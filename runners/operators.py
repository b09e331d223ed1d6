"""What a model computes at a given length: amounts of work by operator.

The amounts are read off one run of ONNX Runtime on this machine, from its own profile: these are the nodes
that are really executed, after its fusions, with the shapes that they really have. So it works for any graph,
shapes that depend on data included, and costs some tens of milliseconds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from runners.emulator.requests import vocabulary_size
from space.errors import InputError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm"}
_ROW_WISE = {"Softmax", "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "TopK"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "TopK", "CumSum", "ArgMax"}


def count_operators(model: Path, tokens: int) -> dict[str, float]:
    """Amounts of work of one inference with ``tokens`` tokens, batch 1, by ``operator[variant].unit``.

    Units: ``nodes`` (calls), ``elements`` (of the output; of the input where that is what is read), ``rows``
    (of the last axis), ``products`` (multiply-accumulates), ``matrices``, and for quantised products
    ``weights`` (each unpacked once), ``inputs`` and ``groups`` (scales).

    Raises:
        InputError: the file is not an ONNX model, or ONNX Runtime cannot run it.
    """
    try:
        proto = onnx.load(str(model))
    except (DecodeError, ValueError):
        raise InputError(f"{model} is not an ONNX file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {model}: {error.strerror or error}.") from None
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"  # so that the profile can be traced back to attributes
    attributes = {node.name: _attributes(node) for node in proto.graph.node}
    amounts: Counter[str] = Counter()
    try:
        events = _profile(proto.SerializeToString(), tokens, vocabulary_size(model))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InputError(f"{model} cannot be run: {' '.join(str(error).split())}.") from None
    for name, arguments in events:
        inputs, outputs = _shapes(arguments["input_type_shape"]), _shapes(arguments["output_type_shape"])
        if outputs:
            _add(amounts, arguments["op_name"], inputs, outputs, attributes.get(name.split("/")[0], {}))
    return dict(amounts)


def _attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}


def _profile(model: bytes, tokens: int, vocabulary: int) -> list[tuple[str, dict[str, Any]]]:
    """Run once and return name and description of each executed node."""
    with tempfile.TemporaryDirectory(prefix="shoebox-operators-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        ids = (np.arange(tokens, dtype=np.int64) * 7919 + 13)[None] % vocabulary
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    suffix = "_kernel_time"
    return [
        (event["name"][: -len(suffix)], event["args"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> list[tuple[int, ...]]:
    return [tuple(shape) for entry in described for shape in entry.values()]


def _add(
    amounts: Counter[str],
    operator: str,
    inputs: Sequence[tuple[int, ...]],
    outputs: Sequence[tuple[int, ...]],
    attributes: Mapping[str, int],
) -> None:
    output = outputs[0]
    elements = prod(output)
    if operator == "MatMulNBits":
        depth, width = attributes["K"], attributes["N"]
        blocks = -(-depth // attributes["block_size"])
        level = attributes.get("accuracy_level", 0)
        work = {
            "products": elements * depth,
            "outputs": elements,
            "inputs": elements // width * depth,
            "weights": depth * width,
            "groups": blocks * width,
            "dots": blocks * elements,
        }
        key = f"MatMulNBits[{attributes['bits']} bits, level {level}]"
    elif operator == "GatherBlockQuantized":
        key, work = f"GatherBlockQuantized[{attributes.get('bits', 4)} bits]", {"elements": elements}
    elif operator in _PRODUCTS and inputs and inputs[0]:
        matrices = prod(output[:-2]) if operator in ("MatMul", "FusedMatMul") else 1
        depth = inputs[0][-1]
        work = {"products": elements * depth, "elements": elements, "matrices": matrices}
        work["packed"] = matrices * depth * output[-1]
        key = "Product"
    else:
        key = operator
        work = {"elements": prod(inputs[0]) if operator in _REDUCTIONS and inputs else elements}
        if operator in _ROW_WISE and inputs and inputs[0]:
            work["rows"] = prod(inputs[0][:-1])
    for unit, amount in {"nodes": 1, **work}.items():
        amounts[f"{key}.{unit}"] += amount
