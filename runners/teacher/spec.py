"""The `teacher:` section of a study file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runners.task import TaskSpec

Kind = Literal["finetuned", "meta"]


class FineTuningSpec(BaseModel):
    """What of `TeacherSpec` is different for one of several tasks, or for an intermediate one; the model is
    the same for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind | None = None
    epochs: int | None = Field(default=None, ge=1, le=100)
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    max_length: int | None = Field(default=None, ge=4, le=512)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


class IntermediateSpec(TaskSpec):
    """A task that the teacher is fine-tuned on before its own; see `TaskSpec`.

    Attributes:
        teacher: where this fine-tuning differs from section `teacher`.
    """

    teacher: FineTuningSpec = FineTuningSpec()


class TeacherSpec(BaseModel):
    """Which model teaches, and how it is fine-tuned for the task.

    Attributes:
        model: Hugging Face id or folder of an encoder whose tokenizer is WordPiece (BERT-like).
        kind: `finetuned` on the task, or `meta`: on its domains (`task.domain`), by a loss that favours texts which are
            like all of them and that trains away what tells them apart (Meta-KD, Pan et al. 2021, arXiv 2012.01266;
            `runners.teacher.meta`).
        epochs: passes over the train split.
        learning_rate: peak rate of AdamW; rises over the warm-up, then falls linearly to zero.
        batch_size: examples per step.
        max_length: longest input in word pieces; default: the task's.
        seed: of head, order and dropout.
        pooling: how token states become one sentence state: their mean. Where words are labelled, each has the state of
            its first piece.
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the rate rises.
        intermediate: a task with more labels to fine-tune on first (STILTs, Phang et al. 2018, arXiv 1811.01088): its
            encoder is what the task's own fine-tuning starts from, its head is dropped. Without it from the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1)
    kind: Kind = "finetuned"
    epochs: int = Field(1, ge=1, le=100)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    batch_size: int = Field(32, ge=1, le=4096)
    max_length: int | None = Field(None, ge=4, le=512)
    seed: int = Field(0, ge=0, lt=2**63)
    pooling: Literal["mean"] = "mean"
    weight_decay: float = Field(0.01, ge=0, le=1)
    warmup: float = Field(0.1, ge=0, le=1)
    intermediate: IntermediateSpec | None = None

    def changed(self, changes: FineTuningSpec) -> TeacherSpec:
        """The same model, fine-tuned as `changes` say."""
        return TeacherSpec(**{**self.model_dump(), **changes.model_dump(exclude_none=True)})
