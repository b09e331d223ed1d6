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
        device: name of the device profile; for native ones the CPU of this machine and its architecture.
        calibrated: whether milliseconds are those of a real ARM device: of a profile that was fitted to a board, or
            of an AArch64 machine's own clock. If not, trust the order, not the value.
        tokens: length of the input.
        instructions: executed AArch64 instructions; None where nobody counts them (native).
        instruction_classes: the same by kind; empty where they are not known (estimated).
        cache_misses: in lines of 64 bytes, by cache; empty where they are not known.
        peak_heap_bytes: most heap that the process held at once between the start of the session's creation and
            the end of its first run; None where it is not known (estimated). Counted are all blocks of malloc and
            its kin, each with its usable size (that asked for, rounded up by the allocator): ONNX Runtime's own, with
            1.31 about 7.4 MB for any model (6.1 MB once it is loaded, 1.3 MB since its first session), the model's
            weights and graph, the inputs and all activations. Not counted are program code, stacks and mapped files.
            Emulated, a small model ran in the process before, so that all 7.4 MB are there from the start; an app's
            first session may stay up to 1.3 MB below. ONNX Runtime runs without its memory arena and memory pattern,
            as an app that is short of memory would have it; milliseconds are of the same setting.
        interval_ms: 95 % bootstrap interval of milliseconds; None for figures that do not vary.
        repeats: timed runs behind milliseconds; None where nothing was timed by a clock.
        uncosted_calls: operator calls that an estimate has no record of and takes at a generic cost.
        versions: of the tools that it depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    milliseconds: NonNegativeFloat
    backend: Backend
    device: str
    calibrated: bool
    tokens: PositiveInt
    instructions: NonNegativeInt | None = None
    instruction_classes: dict[str, NonNegativeInt] = {}
    cache_misses: dict[str, NonNegativeInt] = {}
    peak_heap_bytes: NonNegativeInt | None = None
    interval_ms: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    repeats: PositiveInt | None = None
    uncosted_calls: NonNegativeInt = 0
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
