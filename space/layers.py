"""Torch layers that train on the very grid that ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from space.config import Clipping
from space.product import linear
from space.quantization import block_count, fake_quantize, pack, quantize, search_clipping


class QuantizedWeight(nn.Module):
    """A matrix [rows, columns] that is rounded in blocks along its columns.

    Attributes:
        rounding: whether `forward` rounds; without, the layer works in full precision.
        clipping: float [rows * blocks], logarithms of the factors of the blocks' scales, or None where the largest
            entry of a block fixes its scale. One dimension, so that weight decay leaves it alone.
    """

    clipping: Tensor | None

    def __init__(self, weight: Tensor, bits: int, block_size: int) -> None:
        super().__init__()
        self.bits, self.block_size = bits, block_size
        self.weight = nn.Parameter(weight)
        self.rounding = True
        self.register_buffer("clipping", None)

    def use_clipping(self, clipping: Clipping) -> None:
        """Search the factors of the scales; where they are learned, training goes on from there."""
        del self.clipping
        if clipping == "auto":
            clipping = "searched" if self.bits == 2 else "none"
        if clipping == "none":
            self.register_buffer("clipping", None)
        elif clipping == "searched":
            self.register_buffer("clipping", self._search())
        else:
            self.clipping = nn.Parameter(self._search())

    def load_clipping(self, clipping: Tensor | None) -> None:
        """Take factors that were found before, or none."""
        del self.clipping
        self.register_buffer("clipping", None if clipping is None else clipping.detach().clone())

    @torch.no_grad()
    def search_clipping(self) -> None:
        """Search the factors again, for the weights as they are now."""
        if self.clipping is not None:
            self.clipping.copy_(self._search())

    def _search(self) -> Tensor:
        return search_clipping(self.weight, self.bits, self.block_size).flatten()

    def _factors(self) -> Tensor | None:
        """[rows, blocks]"""
        if self.clipping is None:
            return None
        return self.clipping.view(-1, block_count(self.weight.shape[1], self.block_size))

    @torch.no_grad()
    def _quantized(self) -> tuple[Tensor, Tensor]:
        factors = self._factors()
        weight = self.weight.detach().float().cpu()
        return quantize(weight, self.bits, self.block_size, None if factors is None else factors.float().cpu())


class QuantizedLinear(QuantizedWeight):
    """`x W^T + b` with W [outputs, inputs] fake-quantised in blocks along the inputs (`MatMulNBits`)."""

    def __init__(self, inputs: int, outputs: int, bits: int, block_size: int) -> None:
        super().__init__(torch.empty(outputs, inputs), bits, block_size)
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        if self.rounding:
            weight = fake_quantize(weight, self.bits, self.block_size, self._factors())
        return linear(x, weight, self.bias)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        q, scale = self._quantized()
        return {
            f"{name}.q": pack(q, self.bits),
            f"{name}.scale": scale.squeeze(-1).numpy(),
            f"{name}.bias": to_numpy(self.bias),
        }


class QuantizedEmbedding(QuantizedWeight):
    """Rows of a table [rows, width], fake-quantised in blocks along the width (`GatherBlockQuantized`)."""

    def __init__(self, rows: int, width: int, bits: int, block_size: int) -> None:
        super().__init__(torch.randn(rows, width) * 0.02, bits, block_size)

    def forward(self, ids: Tensor) -> Tensor:
        # Blocks lie within a row, so that only the rows looked up need rounding.
        found, factors = functional.embedding(ids, self.weight), self._factors()
        if not self.rounding:
            return found
        if factors is not None:
            factors = functional.embedding(ids, factors)
        return fake_quantize(found, self.bits, self.block_size, factors)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The table as the file stores it; rows carry no filling of the last block."""
        q, scale = self._quantized()
        rows = q.flatten(-2)[:, : self.weight.shape[1]]
        return {f"{name}.q": pack(rows, self.bits), f"{name}.scale": scale.squeeze(-1).numpy()}


def to_numpy(parameter: Tensor) -> np.ndarray:
    """A parameter as float32."""
    array: np.ndarray = parameter.detach().float().cpu().numpy()
    return array
