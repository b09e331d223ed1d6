"""What a trial needs to know of its study."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from objectives.limits import Limits
from runners.latency import DeviceSpec
from runners.pretraining import PretrainingSpec
from runners.task import TaskSpec
from runners.teacher import TeacherSpec
from runners.transfer import TransferSpec


class FidelitySpec(BaseModel):
    """Section `fidelity:` of a study file: how long each student trains.

    Attributes:
        epochs: passes over the train split; a fraction is allowed.
        batch_size: examples per step.
        train_examples: train on a seeded sample of so many examples; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(default=2, gt=0, le=1000)
    batch_size: int = Field(default=64, ge=1, le=4096)
    train_examples: int | None = Field(default=None, ge=1)


class TrialPlan(BaseModel):
    """The sections of a study file that a trial depends on, beside its own configuration and recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    task: TaskSpec
    teacher: TeacherSpec
    device: DeviceSpec
    limits: Limits
    fidelity: FidelitySpec
    transfer: TransferSpec | None = None
    pretraining: PretrainingSpec | None = None
