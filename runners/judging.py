"""Quality on the validation splits of one task, or of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runners.batches import Encoded
from runners.record import RETENTION, TaskQuality, mean_retention
from runners.task import Examples, Task
from space.shape import TaskShape

BEFORE, LOSS = "quality_before_quantization", "quantization_loss"


def judge(
    answer: Callable[[Encoded], np.ndarray],
    encode: Callable[[str, Examples], Encoded],
    shape: TaskShape,
    tasks: Mapping[str, Task],
    teachers: Mapping[str, float],
    most: int | None = None,
) -> dict[str, TaskQuality]:
    """Quality of each task.

    Args:
        answer: gives the logits of inputs, those of all tasks side by side.
        encode: gives the inputs of examples of a task.
        shape: of the student.
        tasks: by name.
        teachers: quality of each task's teacher.
        most: examples of each validation split, evenly spaced; all by default.
    """
    found = {}
    for name, task in tasks.items():
        examples = task.validation if most is None else task.validation.evenly(most)
        logits = answer(encode(name, examples))
        _, columns = shape.part(name)
        quality = task.quality(examples, logits[:, columns])
        found[name] = TaskQuality.of(task.metric, quality, teachers[name])
    return found


def overall(judged: Mapping[str, TaskQuality]) -> float:
    """The quality of the only task, or the mean retention of several."""
    return mean_retention(judged) if len(judged) > 1 else next(iter(judged.values())).quality


def quality_fields(judged: dict[str, TaskQuality], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Fields `metric`, `quality`, `tasks` and `metrics` of a `TrialRecord`; `metrics` are what else was measured."""
    found, quality = dict(metrics), overall(judged)
    if BEFORE in found:
        found[LOSS] = found[BEFORE] - quality
    if len(judged) > 1:
        return {"metric": RETENTION, "quality": quality, "tasks": judged, "metrics": found}
    only = next(iter(judged.values()))
    found = {"teacher_quality": only.teacher_quality, **found}
    if only.teacher_quality > 0:
        found[RETENTION] = only.retention
    return {"metric": only.metric, "quality": quality, "metrics": found}
