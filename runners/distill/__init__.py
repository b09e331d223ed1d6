"""Distillation of a student from a teacher's cached answers."""

from __future__ import annotations

from runners.distill.courses import Course
from runners.distill.loop import Distillation, DivergedError, TrainingLog, distil
from runners.distill.losses import CrossDistillation

__all__ = ["Course", "CrossDistillation", "Distillation", "DivergedError", "TrainingLog", "distil"]
