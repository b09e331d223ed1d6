"""Costs of a student, the hard limits that a study sets on them, and how far a student is from these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Cost = Literal["deployed_bytes", "latency_ms", "long_latency_ms", "peak_heap_bytes"]


class Limits(BaseModel):
    """Section `limits:` of a study file: no student above one of these enters the front.

    Attributes:
        deployed_bytes: most bytes that `model.onnx` and `vocab.txt` may take together.
        latency_ms: most milliseconds of one inference on a text of median length; none by default.
        long_latency_ms: the same on a long text (95th percentile); none by default.
        peak_heap_bytes: most bytes of heap that loading the model and running it on the longest timed text may take
            at once, ONNX Runtime's own share included; none by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    deployed_bytes: int = Field(default=2_000_000, gt=0)
    latency_ms: float | None = Field(default=None, gt=0)
    long_latency_ms: float | None = Field(default=None, gt=0)
    peak_heap_bytes: int | None = Field(default=None, gt=0)

    def given(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: limit for name, limit in self.model_dump().items() if limit is not None}


def constraint_values(limits: Limits, costs: Mapping[str, float]) -> dict[str, float]:
    """Relative excess over each limit that is set, at most 0 where it is kept (Optuna's convention).

    A cost that is not known yet counts as kept, so that every trial of a study has the same keys.
    """
    return {name: costs[name] / limit - 1 if name in costs else 0.0 for name, limit in limits.given().items()}


def broken(constraints: Mapping[str, float]) -> list[str]:
    """Names of the limits that are not kept; what is not a number keeps none."""
    return [name for name, value in constraints.items() if not value <= 0]
