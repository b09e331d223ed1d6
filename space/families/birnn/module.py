"""Torch module of the birnn family, operator for operator what `graph.py` describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from space.families.base import LayerStates, Student
from space.families.birnn.config import BirnnConfig, RecurrentLayer
from space.families.birnn.graph import GATES, LAYER_NORM_EPSILON
from space.layers import QuantizedEmbedding, QuantizedLinear, QuantizedWeight, to_numpy
from space.quantization import fake_quantize, pack
from space.shape import TaskShape

# Torch's order of a cell's gates (LSTM: input, forget, new, output; GRU: reset, update, new) in that of ONNX.
_ONNX_ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


class QuantizedMatrix(QuantizedWeight):
    """A bare matrix [rows, columns], fake-quantised in blocks along its columns."""

    def forward(self) -> Tensor:
        if not self.rounding:
            return self.weight
        return fake_quantize(self.weight, self.bits, self.block_size, self._factors())

    def tensors(self, name: str, rows: Tensor) -> dict[str, np.ndarray]:
        """The matrix as the file stores it, its rows in another order."""
        q, scale = self._quantized()
        return {f"{name}.q": pack(q[rows], self.bits), f"{name}.scale": scale[rows].squeeze(-1).numpy()}


class BidirectionalLayer(nn.Module):
    """A bidirectional LSTM or GRU layer that computes with rounded weights.

    The backward direction reads each text from its own last token on: texts are turned round within their lengths, and
    both directions are run over padding, which comes last and which no token of either can see. That lets both use
    torch's fast kernels, which packed sequences would not reach on a CPU.

    Weights of both directions, of all gates in torch's order, are the rows of one matrix. The recurrent weights of each
    gate start orthogonal, and the forget gates of an LSTM open (a bias of 1; Jozefowicz et al. 2015).
    """

    def __init__(self, cell: str, inputs: int, layer: RecurrentLayer, block_size: int) -> None:
        super().__init__()
        self.cell, self.hidden, self.gates = cell, layer.hidden_width, GATES[cell]
        rows = 2 * self.gates * self.hidden
        self.input = QuantizedMatrix(torch.empty(rows, inputs), layer.input_bits, block_size)
        self.recurrent = QuantizedMatrix(torch.empty(rows, self.hidden), layer.recurrent_bits, block_size)
        self.bias = nn.Parameter(torch.zeros(rows))
        self.inner_bias = nn.Parameter(torch.zeros(2 * self.hidden)) if cell == "gru" else None
        for gate in range(2 * self.gates):
            part = slice(gate * self.hidden, (gate + 1) * self.hidden)
            nn.init.xavier_uniform_(self.input.weight.data[part])
            nn.init.orthogonal_(self.recurrent.weight.data[part])
        if cell == "lstm":
            with torch.no_grad():
                self.bias.view(2, 4, self.hidden)[:, 1] = 1.0

    def forward(self, x: Tensor, backwards: Tensor) -> Tensor:
        """States [batch, sequence, 2 * hidden], those of the forward direction first; of padding, anything.

        Args:
            x: [batch, sequence, inputs].
            backwards: int64 [batch, sequence], for each place of the turned texts the place that it comes from.
        """
        weights = zip(self.input().chunk(2), self.recurrent().chunk(2), *self._biases(), strict=True)
        forward = self._run(x, next(weights))
        backward = self._run(_take(x, backwards), next(weights))
        return torch.cat([forward, _take(backward, backwards)], -1)

    def _biases(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The biases that torch adds to what comes in and to what comes back, for each direction."""
        own = self.bias.chunk(2)
        if self.inner_bias is None:
            zeros = torch.zeros_like(own[0])
            return own, (zeros, zeros)
        none = self.bias.new_zeros(2 * self.hidden)
        return own, tuple(torch.cat([none, inner]) for inner in self.inner_bias.chunk(2))

    def _run(self, x: Tensor, weights: Any) -> Tensor:
        start = x.new_zeros(1, x.shape[0], self.hidden)
        run: Any = torch.lstm if self.cell == "lstm" else torch.gru
        state = (start, start) if self.cell == "lstm" else start
        found: Tensor = run(x, state, [weight.to(x.dtype) for weight in weights], True, 1, 0.0, True, False, True)[0]
        return found

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        gates = torch.tensor([2 * [*_ONNX_ORDER[self.cell]]]).view(2, -1) + torch.tensor([[0], [self.gates]])
        rows = (gates.flatten()[:, None] * self.hidden + torch.arange(self.hidden)).flatten()
        found = {
            **self.input.tensors(f"{name}.input", rows),
            **self.recurrent.tensors(f"{name}.recurrent", rows),
            f"{name}.bias": to_numpy(self.bias)[rows.numpy()].reshape(2, -1),
        }
        if self.inner_bias is not None:
            found[f"{name}.inner_bias"] = to_numpy(self.inner_bias).reshape(2, -1)
        return found


def _take(x: Tensor, places: Tensor) -> Tensor:
    """x [batch, sequence, width] at places [batch, sequence]."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[-1]))


def reversed_places(mask: Tensor) -> Tensor:
    """Where each token stands when its text is read backwards; padding stays. Int64 [batch, sequence], its own inverse.

    Args:
        mask: [batch, sequence], 1 for a token, 0 for padding, padding last.
    """
    places = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    lengths = mask.long().sum(1, keepdim=True)
    return torch.where(places < lengths, lengths - 1 - places, places)


class BirnnStudent(Student):
    """A student of the birnn family; see `BirnnConfig`.

    Only the states behind the projection are compared with a teacher's, as in the papers: its depth is 1.
    """

    def __init__(self, config: BirnnConfig, shape: TaskShape, vocabulary_size: int) -> None:
        super().__init__()
        self.width, self.depth = config.width, 1
        self.embedding_width = embedding = config.embedding_width
        block = config.block_size
        self.word = QuantizedEmbedding(vocabulary_size, embedding, config.embedding_bits, block)
        self.segment = nn.Embedding(2, embedding) if shape.segments == 2 else None
        if self.segment is not None:
            nn.init.normal_(self.segment.weight, std=0.02)
        self.norm = nn.LayerNorm(embedding, eps=LAYER_NORM_EPSILON)
        widths = [embedding, *(2 * layer.hidden_width for layer in config.layers)]
        self.layers = nn.ModuleList(
            BidirectionalLayer(config.cell, inputs, layer, block)
            for inputs, layer in zip(widths, config.layers, strict=False)
        )
        self.projection = QuantizedLinear(widths[-1], config.width, config.projection_bits, block)
        self.head = nn.Linear(config.width, shape.outputs)
        self.pooling, self.per_token = config.pooling, shape.per_token

    def encode_layers(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, list[LayerStates]]:
        x = self.word(input_ids)
        if self.segment is not None:
            x = x + self.segment(token_type_ids)
        x = self.norm(x)
        backwards = reversed_places(attention_mask)
        for layer in self.layers:
            x = layer(x, backwards)
        x = functional.gelu(self.projection(x))
        mask = attention_mask.float()
        states = [LayerStates(x, None, mask)]
        if self.per_token:
            return x, states
        if self.pooling == "max":
            return x.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1), states
        pooled = (mask[:, None, :].to(x.dtype) @ x).squeeze(1) / mask.sum(-1, keepdim=True)
        return pooled, states

    def load_embeddings(self, words: Tensor, positions: Tensor | None) -> None:
        with torch.no_grad():  # the order of words is what the layers read: they need no positions
            self.word.weight.copy_(words)

    def blocks(self) -> list[list[nn.Parameter]]:
        embeddings = [self.word, self.norm, *([self.segment] if self.segment is not None else [])]
        modules: list[list[nn.Module]] = [[self.projection], *([layer] for layer in reversed(self.layers)), embeddings]
        return [[value for module in group for value in module.parameters()] for group in modules]

    def weights(self) -> dict[str, np.ndarray]:
        found = {
            **self.word.tensors("word"),
            **self.projection.tensors("projection"),
            "embedding.scale": to_numpy(self.norm.weight),
            "embedding.shift": to_numpy(self.norm.bias),
            "head.weight": to_numpy(self.head.weight),
            "head.bias": to_numpy(self.head.bias),
        }
        if self.segment is not None:
            found["segment.weight"] = to_numpy(self.segment.weight)
        for index, layer in enumerate(self.layers):
            found.update(layer.tensors(f"rnn{index}"))  # type: ignore[operator]
        return found
