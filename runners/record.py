"""What is remembered of a finished trial."""

from __future__ import annotations

import platform
from importlib import metadata

from pydantic import BaseModel, ConfigDict

from objectives.latency import LatencyReading
from space.config import Recipe
from space.families import AnyStudentConfig


class TrialRecord(BaseModel):
    """Result of one trained trial; the same content stands in its bundle's `metrics.json`.

    Attributes:
        trial: number in the study.
        config, recipe, seed: what was built, how it was trained.
        metric, quality: the study's metric on the validation split, measured on the file by ONNX Runtime.
        metrics: further measures: `teacher_quality`, `retention` (quality over the teacher's, in percent).
        deployed_bytes: size of `model.onnx` and `vocab.txt` on disk.
        latency: of one inference, with backend and device.
        seconds: wall time of each step of the trial.
        bundle: folder of the bundle.
        versions: of the libraries that made it, and the machine kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: int
    config: AnyStudentConfig
    recipe: Recipe
    seed: int
    metric: str
    quality: float
    metrics: dict[str, float]
    deployed_bytes: int
    latency: LatencyReading
    seconds: dict[str, float]
    bundle: str
    versions: dict[str, str]


def library_versions() -> dict[str, str]:
    """Versions of what shapes a result."""
    names = ("shoebox", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy")
    found = {name: metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "machine": platform.machine()}
