"""A latency figure with everything needed to judge it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from objectives.latency.counts import ExecutionCounts
from objectives.latency.cycles import cost_model_version, milliseconds
from objectives.latency.profile import DeviceProfile

Backend = Literal["emulated", "native", "estimated"]


class LatencyReading(BaseModel):
    """One latency figure.

    Attributes:
        milliseconds: of one inference, batch 1.
        backend: where it comes from; figures of different backends must never be compared.
        device: name of the device profile.
        calibrated: whether the profile was fitted to a board. If not, trust the order, not the value.
        tokens: length of the input.
        instructions: executed AArch64 instructions.
        instruction_classes: the same by kind; empty where they are not known (estimated).
        cache_misses: in lines of 64 bytes, by cache; empty where they are not known.
        versions: of the tools that it depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    milliseconds: NonNegativeFloat
    backend: Backend
    device: str
    calibrated: bool
    tokens: PositiveInt
    instructions: NonNegativeInt
    instruction_classes: dict[str, NonNegativeInt] = {}
    cache_misses: dict[str, NonNegativeInt] = {}
    versions: dict[str, str] = {}


def reading_from_counts(
    counts: ExecutionCounts, profile: DeviceProfile, tokens: int, versions: dict[str, str]
) -> LatencyReading:
    """The reading of an emulated run."""
    return LatencyReading(
        milliseconds=milliseconds(counts, profile),
        backend="emulated",
        device=profile.name,
        calibrated=profile.calibrated,
        tokens=tokens,
        instructions=counts.instructions,
        instruction_classes=counts.instruction_classes(),
        cache_misses=counts.caches.misses(),
        versions={**versions, "cost_model": cost_model_version()},
    )
