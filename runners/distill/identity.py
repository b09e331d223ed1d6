"""What tells a training from another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runners.distill.courses import Course
from runners.lessons import Lessons
from runners.plan import FidelitySpec
from space.config import Recipe


def training_digest(
    courses: Sequence[Course],
    recipe: Recipe,
    fidelity: FidelitySpec,
    tokens: Sequence[str],
    seed: int,
) -> str:
    """SHA-256, in hexadecimal, of what a student is taught and how: a checkpoint of another training may have tensors
    of the same names and shapes. The student itself is no part of it.

    The teacher's hidden states, which are hundreds of times as large as all the rest, are not read: a teacher that has
    others has other logits too.

    Args:
        courses, recipe, fidelity, tokens, seed: as of `runners.distill.Distillation`.
    """
    # Without defaults, so that one which a newer Shoebox adds is no difference.
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in (recipe, fidelity)]
    taught = [[course.regression, list(map(float, course.shares)), len(course.sources)] for course in courses]
    digest = hashlib.sha256(json.dumps([models, list(tokens), seed, taught], sort_keys=True).encode())
    for course in courses:
        for lessons in course.sources:
            for values in _arrays(lessons):
                if values is None:
                    digest.update(b"none")
                    continue
                digest.update(f"{values.dtype.str}{values.shape}".encode())
                digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _arrays(lessons: Lessons) -> Iterable[npt.NDArray[Any] | None]:
    encoded = lessons.encoded
    yield from (encoded.ids, encoded.segments, encoded.starts)
    yield from (lessons.logits, lessons.labels, lessons.weights, lessons.chosen, lessons.origins)
