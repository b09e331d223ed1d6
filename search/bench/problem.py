"""What a benchmark of samplers needs to know of a problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from space.joint import JointSpace


class Problem(Protocol):
    """A search whose trials take no time.

    Attributes:
        name: for tables.
        space: that is searched.
        objectives: `quality` and costs, in the order of the study's directions.
        rungs: shares of a training at which its quality can be asked for, the last one 1.
        limits: most of a cost, by name.
        reference: worst values of interest by objective, for the hypervolume.
    """

    name: str
    space: JointSpace
    objectives: tuple[str, ...]
    rungs: tuple[float, ...]

    @property
    def limits(self) -> Mapping[str, float]: ...

    @property
    def reference(self) -> Mapping[str, float]: ...

    def costs(self, params: Mapping[str, Any]) -> Mapping[str, float]:
        """What is known of a configuration before training; every objective but quality, every limit."""
        ...

    def evaluate(self, params: Mapping[str, Any], seed: int) -> tuple[float, ...]:
        """Quality that one training has at each rung, noise included."""
        ...

    def quality(self, params: Mapping[str, Any]) -> float:
        """Quality that the configuration has on average over whole trainings: what a sampler is judged by."""
        ...

    def seconds(self, params: Mapping[str, Any]) -> float:
        """How long a whole training takes, for the virtual clock and the training cost."""
        ...
