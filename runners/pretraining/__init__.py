"""Encoders that are distilled from an untuned teacher, once for all trials and tasks."""

from __future__ import annotations

# Corpus and encoder are imported from their modules: they need the training loop, which needs `runners.plan`, which
# needs this section of a study file.
from runners.pretraining.spec import PretrainingSpec

__all__ = ["PretrainingSpec"]
