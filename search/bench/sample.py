"""A sample of a task's train split, in files of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from runners.task import load_task
from runners.task.spec import FolderData
from search.study_file import StudyFile


def with_sample(file: StudyFile, folder: Path, examples: int) -> StudyFile:
    """The study with a sample of its train split, which is written to a folder first.

    Args:
        file: of one task, with one text per example; the sample follows from its seed.
        folder: for `train.jsonl` and `validation.jsonl`; taken as they are where they exist.
        examples: of the train split.
    """
    spec = file.task
    assert spec is not None
    assert isinstance(spec.text, str)
    assert spec.label is not None
    if not (folder / "validation.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        task = load_task(spec)
        count = len(task.train)
        rows = np.sort(np.random.default_rng(file.search.seed).permutation(count)[: min(examples, count)])
        # Where the study names the classes, its data has their indices.
        labels = range(len(spec.labels)) if isinstance(spec.labels, tuple) else task.label_names
        assert labels is not None
        for name, split in (("train", task.train.take(rows)), ("validation", task.validation)):
            pairs = zip(split.texts, split.labels.tolist(), strict=True)
            lines = [json.dumps({spec.text: text, spec.label: labels[int(label)]}) for text, label in pairs]
            part = folder / f"{name}.part"
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
            part.rename(folder / f"{name}.jsonl")
    data = FolderData(path=str(folder.absolute()))
    return file.model_copy(update={"task": spec.model_copy(update={"data": data})})
