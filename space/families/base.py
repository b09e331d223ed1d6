"""What a student family is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel

from space.config import StudentConfig
from space.dimensions import Chooser
from space.graph import Part
from space.shape import TaskShape

INPUTS = {1: ("input_ids", "attention_mask"), 2: ("input_ids", "attention_mask", "token_type_ids")}


class Student(torch.nn.Module):
    """A trainable student of any family.

    Its `encode` answers the pooled hidden state [batch, width]; its `head` maps it to logits. Training may put
    another head behind `encode`; `head` is what the file will hold.
    """

    width: int
    head: torch.nn.Linear

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pooled hidden states.

        Args:
            input_ids: int64 [batch, sequence], ids of the student's vocabulary.
            attention_mask: int64 [batch, sequence], 1 for a token, 0 for padding, padding last.
            token_type_ids: int64 [batch, sequence], 0 or 1; only for sentence pairs.
        """
        raise NotImplementedError

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [batch, outputs]."""
        logits: torch.Tensor = self.head(self.encode(input_ids, attention_mask, token_type_ids))
        return logits

    def set_pruning(self, progress: float) -> None:
        """Move token pruning between none (0) and the configured keep-ratios (1). Families without ignore it."""

    def load_embeddings(self, words: torch.Tensor, positions: torch.Tensor | None) -> None:
        """Start from given word [vocabulary, embedding_width] and position [positions, embedding_width] tables."""
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        """The tensors of the file, by their names in the graph."""
        raise NotImplementedError


class Family(ABC):
    """One kind of student: its dimensions, its torch module and its ONNX graph.

    Attributes:
        name: as written in a study file.
        config: the family's `StudentConfig`.
        dimensions: pydantic model of the family's section of `space:`.
        larger_is_smaller: dimensions whose larger values make a smaller file.
    """

    name: ClassVar[str]
    config: ClassVar[type[StudentConfig]]
    dimensions: ClassVar[type[BaseModel]]
    larger_is_smaller: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def choose(self, dimensions: Any, choose: Chooser) -> dict[str, Any]:
        """The family's own fields of a configuration, each asked of `choose` by its parameter name."""

    @abstractmethod
    def parameters(self, config: Any) -> dict[str, Any]:
        """The parameters that `choose` would have been asked for, with their values."""

    @abstractmethod
    def graph(self, config: Any, shape: TaskShape, vocabulary_size: int) -> list[Part]:
        """The ONNX graph, from the inputs `INPUTS[shape.segments]` to `logits`."""

    def part_sizes(self, config: Any, shape: TaskShape, vocabulary_size: int) -> list[int]:
        """Bytes of the graph's parts; a family may count them without describing the graph."""
        return [part.size for part in self.graph(config, shape, vocabulary_size)]

    @abstractmethod
    def build(self, config: Any, shape: TaskShape, vocabulary_size: int) -> Student:
        """A torch student with random weights (of torch's global generator)."""

    def structure(self, config: StudentConfig) -> Mapping[str, Any]:
        """All of a configuration that fixes the graph's work, for keys of cached measurements."""
        return config.model_dump(mode="json")
