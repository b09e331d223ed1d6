"""What the task, not the search, fixes about a student."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TaskShape(BaseModel):
    """The sizes of a student's interface.

    Attributes:
        outputs: number of logits; 1 for regression.
        segments: 1 for single sentences, 2 for sentence pairs (adds the input `token_type_ids`).
        max_length: longest input in tokens, special tokens included; the position table has this many rows.
        per_token: whether each token gets logits of its own, as sequence labelling needs; else each input does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(ge=1)
    segments: int = Field(ge=1, le=2)
    max_length: int = Field(ge=4, le=512)
    per_token: bool = False

    @property
    def output_dims(self) -> tuple[str | int, ...]:
        """Shape of `logits`; sizes that are free are named."""
        return ("batch", "sequence", self.outputs) if self.per_token else ("batch", self.outputs)
