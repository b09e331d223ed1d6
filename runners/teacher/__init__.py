"""Teachers: fine-tuned once per task, their outputs cached on disk and memory-mapped."""

from __future__ import annotations

from runners.teacher.model import Teacher
from runners.teacher.prepare import load_teacher, prepare_teacher
from runners.teacher.spec import FineTuningSpec, TeacherSpec
from runners.teacher.store import TeacherOutputs

__all__ = ["FineTuningSpec", "Teacher", "TeacherOutputs", "TeacherSpec", "load_teacher", "prepare_teacher"]
