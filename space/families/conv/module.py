"""Torch module of the convolutional family, operator for operator what `graph.py` describes."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from space.config import StudentConfig
from space.families.base import LayerStates, Student
from space.families.conv.config import ConvConfig, Edge, Operation, Window, is_convolution, window_of
from space.families.conv.graph import BYTE, LAYER_NORM_EPSILON, LOWEST
from space.layers import QuantizedEmbedding, QuantizedLinear, QuantizedWeight, to_numpy
from space.quantization import fake_quantize
from space.shape import TaskShape


class Taps(QuantizedWeight):
    """A convolution of each channel by itself: [taps, width], a byte each, with one scale for a tap."""

    def __init__(self, window: Window, width: int) -> None:
        super().__init__(torch.randn(window.taps, width) * window.taps**-0.5, BYTE, width)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.rounding:
            weight = fake_quantize(weight, self.bits, self.block_size, self._factors())
        seen = shifted(x, self.window, 0.0)
        found = seen[0] * weight[0]
        for tap in range(1, self.window.taps):
            found = torch.addcmul(found, seen[tap], weight[tap])
        return found

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        q, scale = self._quantized()
        return {f"{name}.q": q.flatten(-2).to(torch.uint8).numpy(), f"{name}.scale": scale.squeeze(-1).numpy()}


def shifted(x: Tensor, window: Window, beyond: float) -> list[Tensor]:
    """What each tap of a window reads: `taps` times [batch, sequence, width], `beyond` beyond both ends."""
    padded = functional.pad(x, (0, 0, window.reach, window.reach), value=beyond)
    return [padded[:, tap * window.dilation :][:, : x.shape[1]] for tap in range(window.taps)]


class ReluConvNorm(nn.Module):
    """ReLU, convolution, layer normalisation."""

    def __init__(self, window: Window, width: int, bits: int, block_size: int, separable: bool) -> None:
        super().__init__()
        self.window = window
        self.taps = Taps(window, width) if separable else None
        self.mix = QuantizedLinear(width if separable else window.taps * width, width, bits, block_size)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = functional.relu(x) * mask
        x = torch.cat(shifted(x, self.window, 0.0), -1) if self.taps is None else self.taps(x)
        normed: Tensor = self.norm(self.mix(x))
        return normed

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        taps = {} if self.taps is None else self.taps.tensors(f"{name}.taps")
        return {**taps, **self.mix.tensors(f"{name}.mix"), **norm_tensors(self.norm, f"{name}.norm")}


class Pool(nn.Module):
    """Maximum or mean of a window; a mean counts zeros beyond the text's ends."""

    def __init__(self, window: Window, maximum: bool) -> None:
        super().__init__()
        self.window, self.maximum = window, maximum

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.maximum:
            return torch.stack(shifted(x * mask + (1 - mask) * LOWEST, self.window, LOWEST)).amax(0)
        return torch.stack(shifted(x * mask, self.window, 0.0)).mean(0)


class Keep(nn.Module):
    """Identity."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


class Nothing(nn.Module):
    """Zeros."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros_like(x)


def make_operation(operation: Operation, config: ConvConfig) -> nn.Module:
    """What an edge does: a module from states [batch, sequence, width] and a mask [batch, sequence, 1] to states."""
    window = window_of(operation)
    if window is None:
        return Keep() if operation == "identity" else Nothing()
    if is_convolution(operation):
        separable = config.convolution == "separable"
        return ReluConvNorm(window, config.width, config.conv_bits, config.block_size, separable)
    return Pool(window, operation == "max_pool3")


class EmbeddingStage(nn.Module):
    """Words, positions and segments, normalised, then projected to the student's width."""

    def __init__(self, config: StudentConfig, width: int, shape: TaskShape, vocabulary_size: int) -> None:
        super().__init__()
        embedding, block = config.embedding_width, config.block_size
        self.word = QuantizedEmbedding(vocabulary_size, embedding, config.embedding_bits, block)
        self.position = QuantizedEmbedding(shape.max_length, embedding, BYTE, embedding)
        self.segment = nn.Embedding(2, embedding) if shape.segments == 2 else None
        if self.segment is not None:
            nn.init.normal_(self.segment.weight, std=0.02)
        self.norm = nn.LayerNorm(embedding, eps=LAYER_NORM_EPSILON)
        self.projection = QuantizedLinear(embedding, width, config.embedding_bits, block)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        x = self.word(input_ids) + self.position(torch.arange(input_ids.shape[1], device=input_ids.device))
        if self.segment is not None:
            x = x + self.segment(token_type_ids)
        projected: Tensor = self.projection(self.norm(x))
        return projected

    @torch.no_grad()
    def load(self, words: Tensor, positions: Tensor | None) -> None:
        """Start from given tables; see `Student.load_embeddings`."""
        self.word.weight.copy_(words)
        if positions is not None:
            rows = min(len(positions), len(self.position.weight))
            self.position.weight[:rows].copy_(positions[:rows])

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        found = {
            **self.word.tensors("word"),
            **self.position.tensors("position"),
            **self.projection.tensors("projection"),
            **norm_tensors(self.norm, "embedding"),
        }
        if self.segment is not None:
            found["segment.weight"] = to_numpy(self.segment.weight)
        return found


class Cell(nn.Module):
    """One cell; see `ConvConfig`."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.nodes: list[tuple[Edge, ...]] = list(config.cell())
        self.edges = nn.ModuleList(
            nn.ModuleList(make_operation(edge.operation, config) for edge in edges) for edges in self.nodes
        )
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    def forward(self, before: Tensor, last: Tensor, mask: Tensor) -> Tensor:
        """From the outputs of the two cells before, [batch, sequence, width], to this one's."""
        states = {"cell-2": before, "cell-1": last}
        nodes = []
        for number, (edges, made) in enumerate(zip(self.nodes, self.edges, strict=True), start=1):
            if not edges:
                continue
            operations = cast("nn.ModuleList", made)
            arrived = [operation(states[edge.input], mask) for edge, operation in zip(edges, operations, strict=True)]
            states[f"node{number}"] = arrived[0] if len(arrived) == 1 else arrived[0] + arrived[1]
            nodes.append(states[f"node{number}"])
        total = nodes[0]
        for node in nodes[1:]:
            total = total + node
        normed: Tensor = self.norm(total)
        return normed

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        found = norm_tensors(self.norm, f"{name}.norm")
        for number, operations in enumerate(self.edges, start=1):
            for side, operation in zip("ab", cast("nn.ModuleList", operations), strict=False):
                if isinstance(operation, ReluConvNorm):
                    found.update(operation.tensors(f"{name}.{number}{side}"))
        return found


class ConvStudent(Student):
    """A student of the convolutional family; see `ConvConfig`.

    Its layers, as far as a teacher's states are compared with them, are the cells that are computed; without any, the
    embedding stage.
    """

    def __init__(self, config: ConvConfig, shape: TaskShape, vocabulary_size: int) -> None:
        super().__init__()
        self.numbers = config.executed_cells()
        self.width, self.depth = config.width, max(1, len(self.numbers))
        self.embedding_width = config.embedding_width
        self.embedding = EmbeddingStage(config, config.width, shape, vocabulary_size)
        self.cells = nn.ModuleList(Cell(config) for _ in self.numbers)
        attentive = config.pooling == "attentive" and not shape.per_token
        self.query = nn.Parameter(torch.zeros(1, config.width)) if attentive else None
        self.head = nn.Linear(config.width, shape.outputs)
        self.per_token = shape.per_token

    def encode_layers(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, list[LayerStates]]:
        x = self.embedding(input_ids, token_type_ids)
        present = attention_mask.to(x.dtype)
        mask = present[:, :, None]
        outputs = {0: x}
        states = [] if self.numbers else [LayerStates(x, None, present)]
        for number, cell in zip(self.numbers, self.cells, strict=True):
            # A cell that is not computed is not read either, but its neighbour's argument needs a value.
            before, last = (outputs.get(max(number - back, 0), x) for back in (1, 0))
            outputs[number + 1] = cell(before, last, mask)
            x = outputs[number + 1]
            states.append(LayerStates(x, None, present))
        return (x if self.per_token else pool(x, present, self.query)), states

    def load_embeddings(self, words: Tensor, positions: Tensor | None) -> None:
        self.embedding.load(words, positions)

    def weights(self) -> dict[str, np.ndarray]:
        found = {
            **self.embedding.tensors(),
            "head.weight": to_numpy(self.head.weight),
            "head.bias": to_numpy(self.head.bias),
        }
        if self.query is not None:
            found["query"] = to_numpy(self.query)
        for number, cell in zip(self.numbers, self.cells, strict=True):
            found.update(cell.tensors(f"c{number}"))  # type: ignore[operator]
        return found


def pool(x: Tensor, present: Tensor, query: Tensor | None) -> Tensor:
    """The mean [batch, width] of states [batch, sequence, width] of tokens, weighted by a query [1, width] if given."""
    if query is None:
        return (present[:, None, :] @ x).squeeze(1) / present.sum(-1, keepdim=True)
    scores = (query @ x.transpose(1, 2)) + present.log()[:, None, :]
    return (torch.softmax(scores, -1) @ x).squeeze(1)


def norm_tensors(norm: nn.LayerNorm, name: str) -> dict[str, np.ndarray]:
    """Scale and shift of a normalisation as the file stores them."""
    return {f"{name}.scale": to_numpy(norm.weight), f"{name}.shift": to_numpy(norm.bias)}
