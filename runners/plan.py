"""What a trial needs to know of its study."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from objectives.limits import Limits
from runners.latency import DeviceSpec
from runners.pretraining import PretrainingSpec
from runners.record import RETENTION
from runners.supernet import SupernetSpec
from runners.task import TaskSpec
from runners.teacher import FineTuningSpec, TeacherSpec
from runners.transfer import TransferSpec
from space.joint import SpaceSpec

ONLY = "task"  # what the task is called of a study that has no more
TaskName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]


class FidelitySpec(BaseModel):
    """Section `fidelity:` of a study file: how long each student trains.

    Attributes:
        epochs: passes over the train split; a fraction is allowed. With several tasks, so many batches as passes over
            the train splits of all would be; `space.config.Recipe.task_exponent` divides them among the tasks.
        batch_size: examples per step.
        train_examples: train on a seeded sample of so many examples of each task; all by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(default=2, gt=0, le=1000)
    batch_size: int = Field(default=64, ge=1, le=4096)
    train_examples: int | None = Field(default=None, ge=1)


class NamedTaskSpec(TaskSpec):
    """One of several tasks; see `TaskSpec`.

    Attributes:
        teacher: where the fine-tuning of this task's teacher differs from section `teacher`.
        transfer: unlabelled text for this task.
    """

    teacher: FineTuningSpec = FineTuningSpec()
    transfer: TransferSpec | None = None


class TaskPlan(NamedTuple):
    """One task of a study, who teaches it, and with which further text."""

    task: TaskSpec
    teacher: TeacherSpec
    transfer: TransferSpec | None


class TaskSections(BaseModel):
    """The sections of a study file that say what students learn, and from whom.

    Attributes:
        task: text, labels, metric (`runners.task.TaskSpec`); or
        tasks: several of them by name (`NamedTaskSpec`), which one student learns together.
        teacher: what the students learn from (`runners.teacher.TeacherSpec`); it is fine-tuned for each task.
        transfer: unlabelled text that students also learn from (`runners.transfer.TransferSpec`).
        pretraining: text and recipe of encoders that students may start from (`runners.pretraining.PretrainingSpec`).
        supernet: how one student is trained whose weights trials may inherit (`runners.supernet.SupernetSpec`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: TaskSpec | None = None
    tasks: dict[TaskName, NamedTaskSpec] | None = None
    teacher: TeacherSpec
    transfer: TransferSpec | None = None
    pretraining: PretrainingSpec | None = None
    supernet: SupernetSpec | None = None

    @model_validator(mode="after")
    def _one_or_several(self) -> TaskSections:
        if self.task is None and self.tasks is None:
            raise ValueError("task is missing: describe one task under task, or several by name under tasks")
        if self.tasks is None:
            return self
        if self.task is not None:
            raise ValueError("a study has task or tasks, not both: put all tasks under tasks")
        if len(self.tasks) < 2:
            raise ValueError("tasks should name two tasks or more; describe a single one under task")
        for name, task in self.tasks.items():
            if task.per_token:
                raise ValueError(f"tasks.{name} tags words, which a student of other tasks cannot: study it by itself")
        if self.transfer is not None:
            raise ValueError("transfer is text for one task: put it into that task's section, tasks.NAME.transfer")
        return self

    @property
    def task_plans(self) -> dict[str, TaskPlan]:
        """Each task by its name; the only one of a study is called `ONLY`."""
        if self.task is not None:
            return {ONLY: TaskPlan(self.task, self.teacher, self.transfer)}
        return {
            name: TaskPlan(task, self.teacher.changed(task.teacher), task.transfer)
            for name, task in (self.tasks or {}).items()
        }

    @property
    def metric(self) -> str:
        """What quality is: the metric of the only task, or the mean retention of several."""
        return RETENTION if self.task is None else self.task.metric


class TrialPlan(TaskSections):
    """The sections of a study file that a trial depends on, beside its own configuration and recipe.

    Attributes:
        space: what can be built, where a supernet is trained for it; else None.
    """

    study: str
    device: DeviceSpec
    limits: Limits
    fidelity: FidelitySpec
    space: SpaceSpec | None = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _has_sizes(self) -> TrialPlan:
        if self.supernet is not None and self.space is None:
            raise ValueError("a supernet needs the space that it is trained for")
        return self
