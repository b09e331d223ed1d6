"""Bundles of students with random weights: what they answer is arbitrary, but it is always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives.latency import LatencyReading
from runners.bundle import BundleConfig, BundleOrigin, deployed_size, write_model, write_results
from runners.record import TaskQuality, TrialRecord, library_versions
from space import JointSpace, SpaceSpec, TaskShape
from space.families import Student, build_student
from space.vocabulary import SPECIAL_TOKENS

WORDS = ("the", "film", "was", "great", "dull", "not", "very", "ada", "met", "##s", "a", "of", "text", "yours")
TOKENS = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz.,", *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"), *WORDS]
TOKENS = list(dict.fromkeys(TOKENS))
_PART = {"outputs": 2, "segments": 1, "max_length": 24}
SHAPES = {
    "texts": TaskShape(**_PART),
    "pairs": TaskShape(outputs=1, segments=2, max_length=24),
    "tags": TaskShape(outputs=3, segments=1, max_length=24, per_token=True),
    "several": TaskShape.joint(
        {"mood": TaskShape(**_PART), "gap": TaskShape(outputs=1, segments=2, max_length=24)},
    ),
}
LABELS: dict[str, Any] = {
    "texts": ("bad", "good"),
    "pairs": None,
    "tags": ("O", "B-PER", "I-PER"),
    "several": {"mood": ("bad", "good"), "gap": None},
}
COLUMNS = {
    "texts": {"task": ("review",)},
    "pairs": {"task": ("first", "second")},
    "tags": {"task": ("tokens",)},
    "several": {"mood": ("review",), "gap": ("first", "second")},
}


def write_bundle(folder: Path, kind: str, seed: int = 0, **more: Any) -> Path:
    """A bundle of a kind (`SHAPES`) with a record and a card; `more` are fields of its configuration."""
    shape = SHAPES[kind]
    keep: Any = [1.0] if shape.per_token else [0.5]
    transformer = {"depth": 2, "width": 32, "heads": 2, "ffn_width": [32, 64], "token_keep": keep}
    spec = SpaceSpec(embedding_width=[32], accuracy_level=0, transformer=transformer)
    config, recipe = JointSpace(spec).draw(np.random.default_rng(seed))
    torch.manual_seed(seed)
    student = build_student(config, shape, len(TOKENS))
    _tell_apart(student, shape)
    fields = {
        "study": "small",
        "teacher": "some/teacher",
        "label_names": LABELS[kind],
        "lower_case": True,
        "shape": shape,
        "student": config,
        "recipe": recipe,
        "origin": BundleOrigin(
            data=dict.fromkeys(COLUMNS[kind], "local files, folder films"), columns=COLUMNS[kind], teacher_licence="mit"
        ),
    }
    described = BundleConfig(**{**fields, **more})
    folder.mkdir(parents=True)
    write_model(folder, student, described, TOKENS)
    write_results(folder, described, record_of(folder, kind, described))
    return folder


@torch.no_grad()
def _tell_apart(student: Student, shape: TaskShape) -> None:
    """Give different inputs different answers, which random weights hardly do: the head looks at what distinguishes."""
    ids = torch.randint(5, len(TOKENS), (64, 6))
    more = (torch.zeros_like(ids),) if shape.segments == 2 else ()
    states = student.encode(ids, torch.ones_like(ids), *more).flatten(0, -2)
    mean = states.mean(0)
    weight = (states[: shape.outputs] - mean) * 8 / (states - mean).norm(dim=1).mean() ** 2
    student.head.weight.copy_(weight)
    student.head.bias.copy_(-weight @ mean)


def record_of(folder: Path, kind: str, described: BundleConfig) -> TrialRecord:
    """What might have been measured."""
    metric = {"pairs": "spearman", "tags": "entity_f1", "several": "retention"}.get(kind, "accuracy")
    tasks = {}
    if kind == "several":
        tasks = {"mood": TaskQuality.of("accuracy", 0.8, 0.9), "gap": TaskQuality.of("spearman", 0.7, 0.8)}
    return TrialRecord(
        trial=3,
        config=described.student,
        recipe=described.recipe,
        seed=5,
        metric=metric,
        quality=0.85,
        tasks=tasks,
        metrics={"teacher_quality": 0.9, "examples_seen": 640.0},
        deployed_bytes=deployed_size(folder),
        latency=LatencyReading(milliseconds=1, backend="estimated", device="cortex-a53", calibrated=False, tokens=16),
        seconds={"train": 12.0},
        losses=(2.0, 1.0),
        validation_examples=dict.fromkeys(COLUMNS[kind], 400),
        bundle=str(folder),
        versions=library_versions(),
    )
