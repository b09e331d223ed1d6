"""AdamW and its schedule, the same for teachers and students."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: matrices decay, while biases and the gains of norms do not."""
    found = list(parameters)
    return [
        {"params": [value for value in found if value.ndim >= 2], "weight_decay": weight_decay},
        {"params": [value for value in found if value.ndim < 2], "weight_decay": 0.0},
    ]


def warm_up_then_decay(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: rises linearly over a share `warmup` of the steps, then falls linearly to zero."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return max(0.0, (steps - step) / max(1.0, steps - rising))
