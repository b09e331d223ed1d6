"""The grid of ONNX Runtime's block quantisation, for training and for the file.

`MatMulNBits` and `GatherBlockQuantized` store a weight as an unsigned whole number q of b bits and one float32
scale per block of consecutive weights along the input dimension; without zero points the weight is
`(q - 2^(b-1)) * scale`. The grid has one more step on its negative side; the scale takes the sign that gives
this step to the entry of largest magnitude, so that this entry is stored exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def quantize(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Round to the grid, in blocks along the last dimension.

    Args:
        weight: float [..., K].
        bits: 2, 4 or 8.
        block_size: weights per scale; the last block is filled up with zeros where K is no multiple.

    Returns:
        q: float [..., blocks, block_size], whole numbers in [0, 2^bits).
        scale: float [..., blocks, 1].
    """
    half = 1 << (bits - 1)
    blocks, scale = _scaled_blocks(weight, bits, block_size)
    return (blocks / scale).round_().add_(half).clamp_(0, 2 * half - 1), scale


def _scaled_blocks(weight: Tensor, bits: int, block_size: int) -> tuple[Tensor, Tensor]:
    """The weights in blocks [..., blocks, block_size], and their scales [..., blocks, 1]."""
    padding = -weight.shape[-1] % block_size
    blocks = functional.pad(weight, (0, padding)) if padding else weight
    blocks = blocks.unflatten(-1, (-1, block_size))
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    extreme = torch.where(-low > high, low, high)
    scale = extreme / -(1 << (bits - 1))
    return blocks, torch.where(scale == 0, torch.ones_like(scale), scale)


def dequantize(q: Tensor, scale: Tensor, bits: int, width: int) -> Tensor:
    """The weights [..., width] that a runtime sees for `quantize`'s answer."""
    return ((q - (1 << (bits - 1))) * scale).flatten(-2)[..., :width]


def fake_quantize(weight: Tensor, bits: int, block_size: int) -> Tensor:
    """The quantised weights with the gradient of the identity (straight-through estimator)."""
    rounded: Tensor = _StraightThrough.apply(weight, bits, block_size)
    return rounded


class _StraightThrough(torch.autograd.Function):
    """What a runtime sees of the weights, to the last bit: adding a difference to them would round once more."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, block_size: int) -> Tensor:
        blocks, scale = _scaled_blocks(weight, bits, block_size)
        half = 1 << (bits - 1)
        # Without the shift of `quantize`: one pass over all weights less, and every pass counts.
        return (blocks / scale).round_().clamp_(-half, half - 1).mul_(scale).flatten(-2)[..., : weight.shape[-1]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def pack(q: Tensor, bits: int) -> np.ndarray:
    """Whole numbers [..., n] as bytes [..., n * bits / 8], the first in the lowest bits."""
    numbers = q.to(torch.uint8).numpy()
    per_byte = 8 // bits
    groups = numbers.reshape(*numbers.shape[:-1], -1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    return np.bitwise_or.reduce(groups << shifts, axis=-1).astype(np.uint8)


def packed_width(width: int, bits: int) -> int:
    """Bytes of one row of `width` packed entries."""
    return width * bits // 8


def block_count(width: int, block_size: int) -> int:
    """Scales of one row."""
    return -(-width // block_size)
