"""Torch layers that train on the very grid that ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from space.product import linear
from space.quantization import fake_quantize, pack, quantize


class QuantizedLinear(nn.Module):
    """`x W^T + b` with W [outputs, inputs] fake-quantised in blocks along the inputs (`MatMulNBits`)."""

    def __init__(self, inputs: int, outputs: int, bits: int, block_size: int) -> None:
        super().__init__()
        self.bits, self.block_size = bits, block_size
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, fake_quantize(self.weight, self.bits, self.block_size), self.bias)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The weights as the file stores them."""
        q, scale = quantize(self.weight.detach().float(), self.bits, self.block_size)
        return {
            f"{name}.q": pack(q, self.bits),
            f"{name}.scale": scale.squeeze(-1).numpy(),
            f"{name}.bias": to_numpy(self.bias),
        }


class QuantizedEmbedding(nn.Module):
    """Rows of a table [rows, width], fake-quantised in blocks along the width (`GatherBlockQuantized`)."""

    def __init__(self, rows: int, width: int, bits: int, block_size: int) -> None:
        super().__init__()
        self.bits, self.block_size = bits, block_size
        self.weight = nn.Parameter(torch.randn(rows, width) * 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        # Blocks lie within a row, so that only the rows looked up need rounding.
        return fake_quantize(functional.embedding(ids, self.weight), self.bits, self.block_size)

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The table as the file stores it; rows carry no filling of the last block."""
        q, scale = quantize(self.weight.detach().float(), self.bits, self.block_size)
        rows = q.flatten(-2)[:, : self.weight.shape[1]]
        return {f"{name}.q": pack(rows, self.bits), f"{name}.scale": scale.squeeze(-1).numpy()}


def to_numpy(parameter: Tensor) -> np.ndarray:
    """A parameter as float32."""
    array: np.ndarray = parameter.detach().float().cpu().numpy()
    return array
