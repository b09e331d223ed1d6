"""What the task, not the search, fixes about a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from space.graph import Output


class TaskShape(BaseModel):
    """The sizes of a student's interface.

    Attributes:
        outputs: number of logits; 1 for regression; of several tasks those of all, side by side.
        segments: 1 for single sentences, 2 for sentence pairs (adds the input `token_type_ids`).
        max_length: longest input in tokens, special tokens included; the position table has this many rows.
        per_token: whether each token gets logits of its own, as sequence labelling needs; else each input does.
        tasks: of a student of several tasks, the shape of each by its name, in the order of their logits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: int = Field(ge=1)
    segments: int = Field(ge=1, le=2)
    max_length: int = Field(ge=4, le=512)
    per_token: bool = False
    tasks: dict[str, TaskShape] = {}

    def __hash__(self) -> int:  # a dictionary has none
        return hash((self.outputs, self.segments, self.max_length, *self.tasks))

    @classmethod
    def joint(cls, shapes: Mapping[str, TaskShape]) -> TaskShape:
        """The shape of a student of these tasks: room for the longest, pairs where one has them; of one, its own."""
        if len(shapes) == 1:
            return next(iter(shapes.values()))
        return cls(
            outputs=sum(shape.outputs for shape in shapes.values()),
            segments=max(shape.segments for shape in shapes.values()),
            max_length=max(shape.max_length for shape in shapes.values()),
            tasks=dict(shapes),
        )

    def part(self, name: str) -> tuple[TaskShape, slice]:
        """The shape of one task, and where its logits stand among all; the only task goes by any name."""
        first = 0
        for task, shape in self.tasks.items():
            if task == name:
                return shape, slice(first, first + shape.outputs)
            first += shape.outputs
        if self.tasks:
            raise KeyError(name)
        return self, slice(0, self.outputs)

    @property
    def graph_outputs(self) -> tuple[Output, ...]:
        """Names and shapes of the graph's outputs: `logits`, and of several tasks `logits.<task>` each."""
        free = ("batch", "sequence") if self.per_token else ("batch",)
        parts = ((f"logits.{name}", shape.outputs) for name, shape in self.tasks.items())
        return tuple((name, (*free, count)) for name, count in (("logits", self.outputs), *parts))

    @model_serializer(mode="wrap")
    def _without_tasks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A single task's shape says nothing of several."""
        found: dict[str, Any] = serialize(self)
        if not self.tasks:
            found.pop("tasks", None)
        return found
