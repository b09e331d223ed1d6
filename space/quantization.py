"""The grid of ONNX Runtime's block quantisation, for training and for the file.

`MatMulNBits` and `GatherBlockQuantized` store a weight as an unsigned whole number q of b bits and one float32
scale per block of consecutive weights along the input dimension; without zero points the weight is
`(q - 2^(b-1)) * scale`. The grid has one more step on its negative side; the scale takes the sign that gives
this step to the entry of largest magnitude, so that this entry is stored exactly. Clipping multiplies that scale
by a factor of the block's own, below 1 to round most entries finer and cut off the largest ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Factors of the scale that a search tries. In blocks of 32 normal weights they lower the squared error by 14 % with 2
# bits, by 10 % with 4; factors above 1 help where they move entries nearer to a step.
CLIPPING_FACTORS = {
    2: (0.55, 0.65, 0.72, 0.79, 0.86, 0.93, 1.0, 1.1, 1.2),
    4: (0.89, 0.92, 0.94, 0.96, 0.98, 1.0, 1.03, 1.08, 1.14),
    8: (1.0, 1.02, 1.05, 1.1),
}


def quantize(weight: Tensor, bits: int, block_size: int, log_factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round to the grid, in blocks along the last dimension.

    Args:
        weight: float [..., K].
        bits: 2, 4 or 8.
        block_size: weights per scale; the last block is filled up with zeros where K is no multiple.
        log_factor: float [..., blocks], natural logarithms of the factors of the scales; 1 by default.

    Returns:
        q: float [..., blocks, block_size], whole numbers in [0, 2^bits).
        scale: float [..., blocks, 1].
    """
    half = 1 << (bits - 1)
    blocks, scale = _scaled_blocks(weight, bits, block_size, log_factor)
    return (blocks / scale).round_().add_(half).clamp_(0, 2 * half - 1), scale


def _scaled_blocks(
    weight: Tensor, bits: int, block_size: int, log_factor: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weights in blocks [..., blocks, block_size], and their scales [..., blocks, 1]."""
    padding = -weight.shape[-1] % block_size
    blocks = functional.pad(weight, (0, padding)) if padding else weight
    blocks = blocks.unflatten(-1, (-1, block_size))
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    extreme = torch.where(-low > high, low, high)
    scale = extreme / -(1 << (bits - 1))
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return blocks, scale if log_factor is None else scale * log_factor.exp().unsqueeze(-1)


def dequantize(q: Tensor, scale: Tensor, bits: int, width: int) -> Tensor:
    """The weights [..., width] that a runtime sees for `quantize`'s answer."""
    return ((q - (1 << (bits - 1))) * scale).flatten(-2)[..., :width]


def fake_quantize(weight: Tensor, bits: int, block_size: int, log_factor: Tensor | None = None) -> Tensor:
    """The quantised weights with the gradient of the identity (straight-through estimator).

    A `log_factor` that needs a gradient gets that of a learned step size (LSQ, Esser et al. 2020, arXiv 1902.08153).
    """
    learns = log_factor is not None and log_factor.requires_grad and torch.is_grad_enabled()
    kind = _LearnedClipping if learns else _StraightThrough
    rounded: Tensor = kind.apply(weight, log_factor, bits, block_size)
    return rounded


class _StraightThrough(torch.autograd.Function):
    """What a runtime sees of the weights, to the last bit: adding a difference to them would round once more."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_factor: Tensor | None, bits: int, block_size: int) -> Tensor:
        blocks, scale = _scaled_blocks(weight, bits, block_size, log_factor)
        half = 1 << (bits - 1)
        # Without the shift of `quantize`: one pass over all weights less, and every pass counts.
        return (blocks / scale).round_().clamp_(-half, half - 1).mul_(scale).flatten(-2)[..., : weight.shape[-1]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient, None, None, None


class _LearnedClipping(torch.autograd.Function):
    """`fake_quantize` with a gradient for the logarithms of the factors.

    With v the weight in steps and q what it rounds to, the gradient of the scale is q - v within the grid and q beyond
    its ends. LSQ learns the scale itself and divides its gradient by the root of the block's size; here a factor of the
    largest entry is learned, so that steps of AdamW mean the same in every block.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_factor: Tensor, bits: int, block_size: int) -> Tensor:
        half = 1 << (bits - 1)
        blocks, scale = _scaled_blocks(weight, bits, block_size, log_factor)
        steps = blocks / scale
        q = steps.round().clamp_(-half, half - 1)
        inside = (steps >= -half) & (steps <= half - 1)
        ctx.save_for_backward(torch.where(inside, q - steps, q) * scale)
        ctx.block_size = block_size
        return (q * scale).flatten(-2)[..., : weight.shape[-1]]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        padding = -gradient.shape[-1] % ctx.block_size
        blocks = functional.pad(gradient, (0, padding)) if padding else gradient
        return gradient, (blocks.unflatten(-1, (-1, ctx.block_size)) * slope).sum(-1), None, None


@torch.no_grad()
def search_clipping(weight: Tensor, bits: int, block_size: int) -> Tensor:
    """Logarithms [..., blocks] of those `CLIPPING_FACTORS` that round the weights with the least squared error."""
    half = 1 << (bits - 1)
    blocks, scale = _scaled_blocks(weight, bits, block_size)
    steps = blocks / scale
    best = torch.full_like(steps[..., 0], torch.inf)
    found = torch.zeros_like(best)
    for factor in CLIPPING_FACTORS[bits]:
        rounded = (steps / factor).round_().clamp_(-half, half - 1).mul_(factor)
        error = rounded.sub_(steps).square_().sum(-1)
        found = torch.where(error < best, math.log(factor), found)
        best = torch.minimum(best, error)
    return found


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
