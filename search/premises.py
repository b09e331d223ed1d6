"""What is known of a study before any of its trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from objectives.limits import Limits, broken, constraint_values
from space.config import StudentConfig
from space.families import deployed_bytes
from space.joint import JointSpace

if TYPE_CHECKING:
    from runners.plan import TrialPlan
    from runners.prepared import Prepared


@dataclass(frozen=True)
class Premises:
    """What students can be proposed from.

    Attributes:
        limits: that they have to keep.
        seed: of the study.
        plan: of its trials.
        prepared: its tasks and teachers.
        space: of the study.
        predict: what else a configuration costs, by name, in milliseconds; nothing where that cannot be foreseen.
    """

    limits: Limits
    seed: int
    plan: TrialPlan
    prepared: Prepared
    space: JointSpace
    predict: Callable[[StudentConfig], dict[str, float]]

    def size(self, config: StudentConfig) -> int:
        """Deployed bytes."""
        return deployed_bytes(config, self.prepared.shape, self.prepared.vocabulary)

    def keeps_limits(self, config: StudentConfig) -> bool:
        """Whether a configuration breaks no limit that can be foreseen."""
        costs = {"deployed_bytes": self.size(config), **self.predict(config)}
        return not broken(constraint_values(self.limits, costs))
