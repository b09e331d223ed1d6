"""What a student family is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel

from space.config import Clipping, StudentConfig
from space.dimensions import Chooser
from space.graph import Part
from space.layers import QuantizedWeight
from space.operators import Program, Section, input_values
from space.shape import TaskShape

INPUTS = {1: ("input_ids", "attention_mask"), 2: ("input_ids", "attention_mask", "token_type_ids")}


class LayerStates(NamedTuple):
    """Hidden states that leave a layer.

    Attributes:
        hidden: [batch, kept, width].
        positions: int64 [batch, kept], the place in the input of each token that pruning has kept, in any order;
            None where all are there, in order.
        mask: float [batch, kept], 1 for a token, 0 for padding.
    """

    hidden: torch.Tensor
    positions: torch.Tensor | None
    mask: torch.Tensor


class ProjectedLayer(NamedTuple):
    """A teacher's transformer layer as it works on centred hidden states in a student's width.

    Heads and neurons come by falling importance. What each of them adds to the residual stream has a mean of zero once
    the mean activation is taken off.

    Attributes:
        query, key, value: [heads, head size, width].
        query_bias, key_bias: [heads, head size].
        out: [width, heads, head size].
        middle_gain: root mean square of the states between attention and feed-forward network.
        up: [inner width, width].
        up_bias: [inner width].
        down: [width, inner width].
        neuron_mean: [inner width], mean activation.
        gain: root mean square of the states that leave the layer.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    query_bias: torch.Tensor
    key_bias: torch.Tensor
    out: torch.Tensor
    middle_gain: float
    up: torch.Tensor
    up_bias: torch.Tensor
    down: torch.Tensor
    neuron_mean: torch.Tensor
    gain: float


class Student(torch.nn.Module):
    """A trainable student of any family.

    Its `encode` answers the pooled hidden state [batch, width], or, where the task's shape is per token, all states
    of the last layer [batch, sequence, width]; its `head` maps them to logits. Training may put another head behind
    `encode`; `head` is what the file will hold.

    Attributes:
        width: of the hidden states.
        depth: number of layers whose states a teacher's can be compared with.
        embedding_width: of the word embeddings.
        head: linear, from what `encode` answers to the logits.
    """

    width: int
    depth: int
    embedding_width: int
    head: torch.nn.Linear

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pooled hidden states, or those of all tokens.

        Args:
            input_ids: int64 [batch, sequence], ids of the student's vocabulary.
            attention_mask: int64 [batch, sequence], 1 for a token, 0 for padding, padding last.
            token_type_ids: int64 [batch, sequence], 0 or 1; only for sentence pairs.
        """
        return self.encode_layers(input_ids, attention_mask, token_type_ids)[0]

    def encode_layers(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[LayerStates]]:
        """What `encode` answers, and the states that leave each layer; arguments as of `encode`."""
        raise NotImplementedError

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [batch, outputs], or [batch, sequence, outputs] where the shape is per token."""
        logits: torch.Tensor = self.head(self.encode(input_ids, attention_mask, token_type_ids))
        return logits

    def blocks(self) -> list[list[torch.nn.Parameter]]:
        """All parameters but the head's in blocks, from the one below the head to the embeddings.

        Training that unfreezes a student step by step goes from the first block to the last. As it stands: the members
        of each `ModuleList`, last one first, then everything else together.
        """
        lists = [child for child in self.children() if isinstance(child, torch.nn.ModuleList)]
        found = [list(member.parameters()) for child in reversed(lists) for member in reversed(child)]
        apart = {id(value) for block in found for value in block}
        apart |= {id(value) for value in self.head.parameters()}
        return [*found, [value for value in self.parameters() if id(value) not in apart]]

    def set_pruning(self, progress: float) -> None:
        """Move token pruning between none (0) and the configured keep-ratios (1), which alone need be hard.

        Families without pruning ignore it.
        """

    def use_clipping(self, clipping: Clipping) -> None:
        """Choose how the scales of blocks of weights are found, and find them for the weights as they are now."""
        for layer in self._quantized_layers():
            layer.use_clipping(clipping)

    def load_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over a checkpoint, with scales where it has some.

        Raises:
            RuntimeError: it is of a student of another shape.
        """
        for name, layer in self.named_modules():
            if isinstance(layer, QuantizedWeight):
                layer.load_clipping(tensors.get(f"{name}.clipping"))
        self.load_state_dict(tensors)

    def search_clipping(self) -> None:
        """Search the scales again for the weights as they are now; does nothing where clipping is `none`."""
        for layer in self._quantized_layers():
            layer.search_clipping()

    def set_rounding(self, on: bool) -> None:
        """Whether the student computes with rounded weights, as its file does, or in full precision."""
        for layer in self._quantized_layers():
            layer.rounding = on

    def _quantized_layers(self) -> Iterator[QuantizedWeight]:
        return (module for module in self.modules() if isinstance(module, QuantizedWeight))

    def load_embeddings(self, words: torch.Tensor, positions: torch.Tensor | None) -> None:
        """Start from given word [vocabulary, embedding_width] and position [positions, embedding_width] tables."""
        raise NotImplementedError

    def load_layers(
        self, layers: Sequence[ProjectedLayer], ids: torch.Tensor, positions: torch.Tensor, states: torch.Tensor
    ) -> None:
        """Start from a teacher's layers, one for each of the student's; its embeddings are loaded already.

        Args:
            layers: in the student's width.
            ids: int64 [n], a sample of tokens.
            positions: int64 [n], a place in a text for each.
            states: float [n, width], what should enter the first layer for them.
        """
        raise NotImplementedError

    def load_encoder(self, tensors: Mapping[str, torch.Tensor], rows: torch.Tensor) -> None:
        """Start from an encoder of the same shape that was trained for pairs with a larger vocabulary.

        Args:
            tensors: of its module, by name; longer inputs than the student's are fine.
            rows: int64 [vocabulary], the row of each of the student's entries in its word embeddings.
        """
        raise NotImplementedError

    def weights(self) -> dict[str, np.ndarray]:
        """The tensors of the file, by their names in the graph."""
        raise NotImplementedError


class Family(ABC):
    """One kind of student: its dimensions, its torch module and its ONNX graph.

    Attributes:
        name: as written in a study file.
        title: what a student is called in a sentence, with an article.
        config: the family's `StudentConfig`.
        dimensions: pydantic model of the family's section of `space:`.
        larger_is_smaller: dimensions whose larger values make a smaller file.
        initializations: those of `space.config.Recipe.initialization` that its students can take. One that cannot take
            `layers` takes of them what it has a place for: the embeddings.
        graph_version: counted up with every change of `graph`, so that measurements of earlier graphs are not
            taken for those of present ones.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    config: ClassVar[type[StudentConfig]]
    dimensions: ClassVar[type[BaseModel]]
    larger_is_smaller: ClassVar[frozenset[str]] = frozenset()
    initializations: ClassVar[frozenset[str]] = frozenset({"random", "teacher"})
    graph_version: ClassVar[int] = 1

    @abstractmethod
    def choose(self, dimensions: Any, choose: Chooser) -> dict[str, Any]:
        """The family's own fields of a configuration, each asked of `choose` by its parameter name."""

    @abstractmethod
    def parameters(self, config: Any) -> dict[str, Any]:
        """The parameters that `choose` would have been asked for, with their values."""

    def misfit(self, dimensions: Any, per_token: bool) -> str | None:
        """What keeps the family from serving a kind of task; None if nothing does.

        Args:
            dimensions: the family's section of `space:`.
            per_token: whether the task wants logits of each token.
        """
        return None

    @abstractmethod
    def graph(self, config: Any, shape: TaskShape, vocabulary_size: int) -> list[Part]:
        """The ONNX graph, from the inputs `INPUTS[shape.segments]` to `shape.graph_outputs`."""

    def sections(self, config: Any, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
        """The operators that the graph executes on `tokens` tokens, batch 1, nothing padded.

        A family whose configurations share parts should answer the same `Section` objects for them: what is known
        of a section is remembered.
        """
        items = [item for part in self.graph(config, shape, vocabulary_size) for item in part.items]
        calls = Program(items).infer(input_values(INPUTS[shape.segments], tokens))
        return [Section(tuple(calls), tokens)]

    def part_sizes(self, config: Any, shape: TaskShape, vocabulary_size: int) -> list[int]:
        """Bytes of the graph's parts; a family may count them without describing the graph."""
        return [part.size for part in self.graph(config, shape, vocabulary_size)]

    @abstractmethod
    def build(self, config: Any, shape: TaskShape, vocabulary_size: int) -> Student:
        """A torch student with random weights (of torch's global generator)."""

    def structure(self, config: StudentConfig) -> Mapping[str, Any]:
        """All of a configuration that fixes the graph's work, for keys of cached measurements."""
        return config.model_dump(mode="json")
