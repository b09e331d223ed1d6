"""Products of activations and weights in training, in float32 or with operands rounded to bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_REDUCED: ContextVar[bool] = ContextVar("bfloat16_products", default=False)


@contextlib.contextmanager
def bfloat16_products(enabled: bool = True) -> Iterator[None]:
    """Within, `linear` rounds its operands and results to bfloat16, forward and backward; all else stays float32.

    On CPUs with instructions for bfloat16 a product then takes half the time. Autocast, which also runs what lies
    between the products in bfloat16, loses more there than it gains: measured with a student of 3 layers, 192 wide, at
    batches of 32 of 12 and 40 word pieces, steps take 0.80 and 0.68 of their time with these products and 1.10 and
    1.0 with autocast.
    """
    token = _REDUCED.set(enabled)
    try:
        yield
    finally:
        _REDUCED.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x W^T + b` for x [..., inputs], W [outputs, inputs], b [outputs]."""
    if not _REDUCED.get():
        return functional.linear(x, weight, bias)
    found: Tensor = _ReducedLinear.apply(x, weight, bias)
    return found


class _ReducedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, weight = x.reshape(-1, x.shape[-1]).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        return (rows @ weight.T).float().add_(bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        rows, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        reduced = gradient.bfloat16()
        back = (reduced @ weight).float().view(ctx.shape) if ctx.needs_input_grad[0] else None
        return back, (reduced.T @ rows).float(), gradient.sum(0)
