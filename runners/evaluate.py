"""Run a model file with ONNX Runtime on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runners.batches import Encoded, collate, sorted_batches
from space.families import Student

# Before the library is loaded: its telemetry is on by default.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

_MAX_TOKENS = 8192


def open_session(model: Path | bytes, threads: int = 1) -> Any:
    """An inference session on the CPU.

    Args:
        model: file or its content.
        threads: of one product; 1 is what a phone app grants, and gives the same bytes on every run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_model(session: Any, encoded: Encoded) -> np.ndarray:
    """Logits float32 [n, outputs] of all texts, in batches of similar length."""
    outputs = session.get_outputs()[0].shape[1]
    wanted = {item.name for item in session.get_inputs()}
    logits = np.zeros((len(encoded), outputs), np.float32)
    for rows, batch in batched(encoded):
        feed = {name: values for name, values in batch.items() if name in wanted}
        logits[rows] = session.run(["logits"], feed)[0]
    return logits


@torch.inference_mode()
def run_student(student: Student, encoded: Encoded) -> np.ndarray:
    """Logits float32 [n, outputs] of a torch student on the CPU, in the same batches."""
    student.cpu().eval()
    logits = np.zeros((len(encoded), student.head.out_features), np.float32)
    for rows, batch in batched(encoded):
        logits[rows] = student(**{name: torch.from_numpy(values) for name, values in batch.items()}).numpy()
    return logits


def batched(encoded: Encoded) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]]:
    """Batches of similar length: the texts in each [rows], and its model inputs int64 [rows, longest of them]."""
    for rows in sorted_batches(encoded.lengths, _MAX_TOKENS, _MAX_TOKENS * 512):
        batch = collate(encoded, rows, torch.device("cpu"))
        yield rows, {name: tensor.numpy() for name, tensor in batch.items()}
