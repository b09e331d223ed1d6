"""A teacher's outputs on disk: written once, then memory-mapped by every trial."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from objectives.quality import Metric
from runners.byte_rows import ByteRows
from runners.task import Task
from space.normalization import Normalization

RECORD = "teacher.json"


@dataclass(frozen=True, eq=False)
class TeacherOutputs:
    """What students learn from, without a forward pass of the teacher. Arrays are memory-mapped, read-only.

    Attributes:
        key: name of the cache entry: a hash of model, data, recipe and versions.
        folder: the cache entry; `load_teacher` restores the torch model from it.
        model: the id or path that the study names now; the entry may have been made of another folder with the same
            model.
        train_logits: float32 [n, outputs]; for a regression in the units of the labels. Where words are labelled
            float16 [words, outputs], NaN for words that the teacher did not see.
        train_hidden: float16 [n, width], the mean-pooled last hidden state of each train example; or that of each
            word's first piece, [words, width] in a byte each.
        validation_logits: float32 [validation examples, outputs], or [words, outputs].
        head_weight, head_bias: float32 [outputs, width] and [outputs]: logits = head_weight @ pooled + head_bias.
        word_embeddings: float32 [vocabulary, embedding width] of the fine-tuned encoder.
        position_embeddings: float32 [positions, embedding width], or None where the encoder has no such table.
        segment_embeddings: float32 [segments, embedding width], or None.
        vocabulary: word pieces in id order.
        normalization: of text before it is split.
        special_tokens: pad, unk, cls, sep and mask, by role.
        vocabulary_attention: float64 [vocabulary], EI-BERT's score over the train split.
        vocabulary_count: int64 [vocabulary], occurrences in the train split, special tokens included.
        validation_quality, metric: quality of the teacher itself by the task's metric.
        median_length, long_length: median and 95th percentile of the train inputs in word pieces.
        seconds: wall time of fine-tuning and outputs when the entry was made.
        made_with: versions, device and precision then.
    """

    key: str
    folder: Path
    model: str
    train_logits: npt.NDArray[Any]
    train_hidden: npt.NDArray[np.float16] | ByteRows
    validation_logits: npt.NDArray[np.float32]
    head_weight: npt.NDArray[np.float32]
    head_bias: npt.NDArray[np.float32]
    word_embeddings: npt.NDArray[np.float32]
    position_embeddings: npt.NDArray[np.float32] | None
    segment_embeddings: npt.NDArray[np.float32] | None
    vocabulary: list[str]
    normalization: Normalization
    special_tokens: dict[str, str]
    vocabulary_attention: npt.NDArray[np.float64]
    vocabulary_count: npt.NDArray[np.int64]
    validation_quality: float
    metric: Metric
    median_length: float
    long_length: float
    seconds: float
    made_with: dict[str, str]

    @property
    def width(self) -> int:
        """Width of the teacher's hidden state."""
        return int(self.train_hidden.shape[1])

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the special tokens, by role."""
        return {role: self.vocabulary.index(token) for role, token in self.special_tokens.items()}


ARRAYS = (
    "train_logits",
    "train_hidden",
    "validation_logits",
    "head_weight",
    "head_bias",
    "word_embeddings",
    "position_embeddings",
    "segment_embeddings",
    "vocabulary_attention",
    "vocabulary_count",
)
_OPTIONAL = frozenset({"position_embeddings", "segment_embeddings"})


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write everything of `TeacherOutputs` that is not an array."""
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")


def open_outputs(folder: Path, task: Task, model: str) -> TeacherOutputs:
    """Map a cache entry. The quality is computed anew: studies of one task may judge it by different metrics.

    Args:
        folder: of the entry.
        task: that the teacher was fine-tuned on.
        model: id or path of the teacher as the study names it.

    Raises:
        OSError, ValueError, TypeError: the entry is not complete.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["model"] = model  # where it lay when the entry was made, nothing or another model may lie by now
    record["normalization"] = Normalization.pop(record)
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        missing = name in _OPTIONAL and not path.exists()
        arrays[name] = None if missing else np.load(path, mmap_mode="r", allow_pickle=False)
    if task.per_token:
        unit = np.load(folder / "train_hidden_unit.npy", mmap_mode="r", allow_pickle=False)
        arrays["train_hidden"] = ByteRows(arrays["train_hidden"], unit)
    arrays["validation_logits"] = task.on_target(arrays["validation_logits"])
    quality = task.quality(task.validation, arrays["validation_logits"])
    return TeacherOutputs(folder=folder, validation_quality=quality, metric=task.metric, **record, **arrays)
