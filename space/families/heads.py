"""Ends of graphs that families share: heads on pooled or on all hidden states, and the logits of several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from space.families.pieces import node, vector
from space.graph import MICROSOFT, Item, Part, Tensor
from space.shape import TaskShape


def head(shape: TaskShape, width: int, depth: int, stage: int) -> Part:
    """From `x<depth>`, after `stage` prunings, to `logits`."""
    if shape.per_token:
        return token_head(width, shape.outputs, f"x{depth}")
    return _head(width, shape.outputs, depth, stage)


@lru_cache(maxsize=4096)
def token_head(width: int, outputs: int, states: str) -> Part:
    """A linear map of each hidden state to its `logits`."""

    def items() -> Iterator[Item]:
        yield Tensor("head.weight", (outputs, width))
        yield Tensor("head.bias", (outputs,))
        yield node("FusedMatMul", f"{states} head.weight", "head", MICROSOFT, transB=1)
        yield node("Add", "head head.bias", "logits")

    return Part.of(items())


@lru_cache(maxsize=4096)
def _head(width: int, outputs: int, depth: int, stage: int) -> Part:
    """Mean of the hidden states that are left, then a linear map to `logits`."""

    def items() -> Iterator[Item]:
        yield vector("middle_axis", 1)
        yield node("LpNormalization", f"mask{stage}", "shares", axis=-1, p=1)
        yield node("Squeeze", "shares middle_axis", "rows")
        yield node("MatMul", f"rows x{depth}", "means")
        yield node("Squeeze", "means middle_axis", "pooled")
        yield Tensor("head.weight", (outputs, width))
        yield Tensor("head.bias", (outputs,))
        yield node("Gemm", "pooled head.weight head.bias", "logits", transB=1)

    return Part.of(items())


@lru_cache(maxsize=4096)
def answers(shape: TaskShape) -> tuple[Part, ...]:
    """Of several tasks, the logits of each under its own name; nothing of one.

    The heads of all tasks are one product, and this is one operator more, whatever the number of tasks: on ARM each
    operator costs some 3,000 instructions before it does anything, more than a head has weights.
    """
    if not shape.tasks:
        return ()
    widths = vector("task_outputs", *(task.outputs for task in shape.tasks.values()))
    names = " ".join(f"logits.{name}" for name in shape.tasks)
    return (Part((widths, node("Split", "logits task_outputs", names, axis=-1))),)
