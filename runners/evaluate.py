"""Run a model file with ONNX Runtime on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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


def run_model(session: Any, encoded: Encoded, batch_size: int | None = None) -> np.ndarray:
    """Logits float32 [n, outputs] of all texts, or of all words (`gather_answers`), in batches of similar length.

    Args:
        batch_size: texts per batch, at most; without it, as many as `_MAX_TOKENS` allows.
    """
    wanted = {item.name for item in session.get_inputs()}
    found = []
    for rows, batch in batched(encoded, batch_size):
        feed = {name: values for name, values in batch.items() if name in wanted}
        found.append((rows, session.run(["logits"], feed)[0]))
    return gather_answers(encoded, found)


def gather_answers(
    encoded: Encoded, found: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
) -> npt.NDArray[np.float32]:
    """Logits float32 [n, outputs] of all texts; where words are labelled [words, outputs], of their first pieces.

    Args:
        encoded: the texts.
        found: for each batch, the texts in it [rows] and what the model said: [rows, outputs], or
            [rows, longest of them, outputs] of each piece.

    Words without a piece get NaN.
    """
    logits = np.full((encoded.answers, found[0][1].shape[-1]), np.nan, np.float32)
    for rows, values in found:
        if encoded.words is None:
            logits[rows] = values
        else:
            picked = encoded.words.pick(rows)
            logits[picked.words] = values[picked.rows, picked.places]
    return logits


@torch.inference_mode()
def run_student(student: Student, encoded: Encoded) -> np.ndarray:
    """The same of a torch student on the CPU, in the same batches."""
    student.cpu().eval()
    found = []
    for rows, batch in batched(encoded):
        found.append((rows, student(**{name: torch.from_numpy(values) for name, values in batch.items()}).numpy()))
    return gather_answers(encoded, found)


def batched(
    encoded: Encoded, batch_size: int | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]]:
    """Batches of similar length: the texts in each [rows], and its model inputs int64 [rows, longest of them]."""
    for together in sorted_batches(encoded.lengths, _MAX_TOKENS, _MAX_TOKENS * 512):
        size = batch_size or len(together)
        for start in range(0, len(together), size):
            rows = together[start : start + size]
            batch = collate(encoded, rows, torch.device("cpu"))
            yield rows, {name: tensor.numpy() for name, tensor in batch.items()}
