"""What a model file computes at a given length: the operators that ONNX Runtime executes, after its fusions.

They are read off one run on this machine, from ONNX Runtime's own profile. So it works for any graph, shapes that
depend on data included, and costs some tens of milliseconds. For a student of ours `space.operators` says the same
without a file; a test holds both together.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto

from runners.emulator.requests import vocabulary_size
from space.errors import InputError
from space.operators import Dims, OperatorCall, kept_attributes

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


@cache
def operators_version() -> str:
    """Changes with the code that finds operators."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def count_operators(model: Path, tokens: int) -> list[OperatorCall]:
    """The operators of one inference with ``tokens`` tokens, batch 1, in the order of their execution.

    Raises:
        InputError: the file is not an ONNX model, or ONNX Runtime cannot run it.
    """
    try:
        onnx.load(str(model))
    except (DecodeError, ValueError):
        raise InputError(f"{model} is not an ONNX file.") from None
    except OSError as error:
        raise InputError(f"Cannot read {model}: {error.strerror or error}.") from None
    try:
        with tempfile.TemporaryDirectory(prefix="shoebox-operators-") as folder:
            return _executed(model, tokens, Path(folder))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise InputError(f"{model} cannot be run: {' '.join(str(error).split())}.") from None


def _executed(model: Path, tokens: int, folder: Path) -> list[OperatorCall]:
    optimized = folder / "optimized.onnx"
    options = _options()
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    proto = onnx.load(str(optimized))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"  # so that the profile can be traced back to nodes
    nodes = {node.name: node for node in proto.graph.node}
    shapes: dict[str, Dims] = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    shapes.update({value.name: (1, tokens) for value in proto.graph.input})
    calls = []
    for name, arguments in _profile(proto.SerializeToString(), tokens, vocabulary_size(model), folder):
        node = nodes.get(name)
        outputs = _shapes(arguments["output_type_shape"])
        if node is None:  # inserted by the runtime, such as a copy
            calls.append(OperatorCall(arguments["op_name"], (), _shapes(arguments["input_type_shape"]), outputs))
            continue
        shapes.update(zip([output for output in node.output if output], outputs, strict=False))
        inputs = tuple(shapes.get(source, ()) for source in node.input if source)
        calls.append(OperatorCall(node.op_type, kept_attributes(_attributes(node)), inputs, outputs))
    return calls


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _attributes(node: onnx.NodeProto) -> dict[str, int | Dims]:
    found: dict[str, int | Dims] = {a.name: a.i for a in node.attribute if a.type == AttributeProto.INT}
    return found | {a.name: tuple(a.ints) for a in node.attribute if a.type == AttributeProto.INTS}


def _profile(model: bytes, tokens: int, vocabulary: int, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Run an optimised model once and return name and description of each executed node."""
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
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


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Dims, ...]:
    return tuple(tuple(shape) for entry in described for shape in entry.values())
