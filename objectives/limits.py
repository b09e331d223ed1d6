"""Hard limits of a study and how far a configuration is from them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

DEPLOYED_BYTES, LATENCY_MS = "deployed_bytes", "latency_ms"


class Limits(BaseModel):
    """Section `limits:` of a study file.

    Attributes:
        deployed_bytes: most bytes that `model.onnx` and `vocab.txt` may take together.
        latency_ms: most milliseconds of one inference on the study's device; none by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployed_bytes: int = Field(default=2_000_000, gt=0)
    latency_ms: float | None = Field(default=None, gt=0)


def constraint_values(limits: Limits, deployed_bytes: int, latency_ms: float | None = None) -> dict[str, float]:
    """Relative excess over each limit, at most 0 where it is kept (Optuna's convention).

    A latency that is not known yet counts as kept, so that every trial of a study has the same keys.
    """
    values = {DEPLOYED_BYTES: deployed_bytes / limits.deployed_bytes - 1}
    if limits.latency_ms is not None:
        values[LATENCY_MS] = 0.0 if latency_ms is None else latency_ms / limits.latency_ms - 1
    return values


def broken(constraints: dict[str, float]) -> list[str]:
    """Names of the limits that are not kept."""
    return [name for name, value in constraints.items() if value > 0]
