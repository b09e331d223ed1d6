"""What is remembered of a finished trial."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from objectives.latency import LatencyReading
from space.config import Recipe
from space.families import AnyStudentConfig

LATENCIES = ("latency_ms", "long_latency_ms")  # costs by the readings of a trial, shorter text first
RETENTION = "retention"  # quality of a student of several tasks, in percent
SOURCE_QUALITY = "source_quality"  # of the bundle that another was made from by rounding its weights to other bits


class TaskQuality(BaseModel):
    """How well a student does one of several tasks.

    Attributes:
        metric, quality: the task's own metric on its validation split.
        teacher_quality: of the task's teacher.
        retention: quality over the teacher's, in percent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    quality: float
    teacher_quality: float
    retention: float

    @classmethod
    def of(cls, metric: str, quality: float, teacher_quality: float) -> TaskQuality:
        """With the retention that follows; 0 where the teacher's quality is not positive."""
        retention = 100 * quality / teacher_quality if teacher_quality > 0 else 0.0
        return cls(metric=metric, quality=quality, teacher_quality=teacher_quality, retention=retention)


def mean_retention(tasks: Mapping[str, TaskQuality]) -> float:
    """Mean over the tasks of the share of the teacher's quality that a student keeps, in percent.

    Metrics of different tasks cannot be added up; their shares of what the teacher reaches can.
    """
    return sum(task.retention for task in tasks.values()) / len(tasks)


class ArmQuality(BaseModel):
    """Quality with the kernels of the study's ARM core, beside that with this machine's, on the same examples.

    Attributes:
        device: name of the device profile whose kernels ran, under emulation.
        examples: of the validation split, evenly spaced.
        quality, quality_here: the study's metric with the kernels of that core and of this machine.
        agreement: share of the examples with the same answer (for a regression: within 1e-2; of tags: of the words).
        largest_difference, median_difference: between logits of the same example (its worst logit).
        versions: of the emulator's tools.
        tasks: of a study of several tasks, what each of them found on its share of the examples; `quality` and
            `quality_here` are mean retentions then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    device: str
    examples: int
    quality: float
    quality_here: float
    agreement: float
    largest_difference: float
    median_difference: float
    versions: dict[str, str]
    tasks: dict[str, ArmQuality] = {}

    def beside(self, quality: float) -> str:
        """The quality as text for a place beside that of the whole validation split, which this machine measured.

        Where the same texts give another one than the split on this machine too, that follows in brackets: what
        differs is the texts then, more than the kernels.
        """
        told, here = f"{self.quality:.4f}", f"{self.quality_here:.4f}"
        return told if here == f"{quality:.4f}" else f"{told} ({here} here, {self.examples:,} texts)"

    @model_serializer(mode="wrap")
    def _without_tasks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _leave_out_no_tasks(serialize(self))


class TrialRecord(BaseModel):
    """Result of one trained trial; the same content stands in its bundle's `metrics.json`.

    Attributes:
        trial: number in the study.
        config, recipe, seed: what was built, how it was trained.
        metric, quality: the study's metric on the validation split, measured on the file by ONNX Runtime; of several
            tasks the mean retention.
        tasks: of several tasks, the quality of each by its own metric.
        metrics: further measures: `teacher_quality`, `retention` (quality over the teacher's, in percent); with
            quantisation after training, `quality_before_quantization` of the torch student in full precision, and
            `quantization_loss`, that less `quality`.
        deployed_bytes: size of `model.onnx` and `vocab.txt` on disk.
        latency: of one inference on a text of median length, with backend and device.
        long_latency: on a text of the 95th percentile of length; None where the study times one length.
        on_arm: quality with ARM kernels; measured once a search has ended, for the trials of its front.
        seconds: wall time of each step of the trial.
        losses: of training, averaged over each tenth of its steps; empty where older versions made the record.
        validation_examples: texts of the validation split that quality was measured on, by task; empty likewise.
        bundle: folder of the bundle.
        versions: of the libraries that made it, and the machine kind.
    """

    # A quality that is not a number must stay one: it tells a trial that failed.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    trial: int
    config: AnyStudentConfig
    recipe: Recipe
    seed: int
    metric: str
    quality: float
    tasks: dict[str, TaskQuality] = {}
    metrics: dict[str, float]
    deployed_bytes: int
    latency: LatencyReading
    long_latency: LatencyReading | None = None
    seconds: dict[str, float]
    losses: tuple[float, ...] = ()
    validation_examples: dict[str, int] = {}
    bundle: str
    versions: dict[str, str]
    on_arm: ArmQuality | None = None

    @model_serializer(mode="wrap")
    def _without_tasks(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _leave_out_no_tasks(serialize(self))

    def costs(self) -> dict[str, float]:
        """What objectives and limits are about, beside quality."""
        return costs(self.deployed_bytes, (self.latency, self.long_latency))


def _leave_out_no_tasks(found: dict[str, Any]) -> dict[str, Any]:
    """What is said of a single task does not name tasks."""
    if not found.get("tasks"):
        found.pop("tasks", None)
    return found


def costs(deployed_bytes: int, readings: Sequence[LatencyReading | None]) -> dict[str, float]:
    """Costs from the size and the readings at the shorter and, where there is one, the longer length."""
    found: dict[str, float] = {"deployed_bytes": deployed_bytes}
    for name, reading in zip(LATENCIES, readings, strict=False):
        if reading is not None:
            found[name] = reading.milliseconds
            if reading.peak_heap_bytes is not None:
                found["peak_heap_bytes"] = max(reading.peak_heap_bytes, found.get("peak_heap_bytes", 0))
    return found


def library_versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    names = ("shoebox", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")
    found = {name: metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "machine": platform.machine()}
