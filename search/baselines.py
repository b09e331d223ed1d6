"""Published methods as fixed points of the space, to compare a search with.

Each is a page of YAML in `studies/baselines`: what of a paper it keeps and what it leaves. A baseline of a study is a
study of its own beside it, with the same task, teacher, limits, device and length of training, so that
`shoebox pareto STUDY STUDY-NAME` shows both in one table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search.study_file import StudyFile
from search.validation import closest, explain, parse_yaml
from space.errors import InputError

FOLDER = Path(__file__).resolve().parents[1] / "studies" / "baselines"


class Baseline(BaseModel):
    """A published method in the terms of a study file.

    Attributes:
        description: one line for people.
        space: section `space:`, every dimension one value but for those that a differentiable search chooses.
        transfer_share: share of the examples from transfer text, where the study has any.
        differentiable: the cells that `space` leaves open come from a differentiable search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    space: dict[str, Any]
    transfer_share: float = Field(default=0.0, ge=0, lt=1)
    differentiable: bool = False


def baselines() -> dict[str, Baseline]:
    """All baselines by name."""
    return {
        file.stem: Baseline.model_validate(parse_yaml(file.read_text(encoding="utf-8"), f"Baseline {file.stem}"))
        for file in sorted(FOLDER.glob("*.yaml"))
    }


def baseline_study(name: str, file: StudyFile, seeds: int = 1) -> StudyFile:
    """The study that trains a baseline on the task of another one, so many times with different seeds.

    Raises:
        InputError: there is no such baseline, or it cannot serve the study's task.
    """
    known = baselines()
    if name not in known:
        raise InputError(f"There is no baseline {name!r}.", closest(name, list(known)))
    baseline = known[name]
    data = file.model_dump(mode="json", exclude={"space", "pretraining", "supernet"})
    space = {**baseline.space, "recipe": dict(baseline.space["recipe"])}
    tells = [data, *(data["tasks"] or {}).values()]  # several tasks have transfer text each
    if baseline.transfer_share and any(each["transfer"] is not None for each in tells):
        space["recipe"]["transfer_share"] = baseline.transfer_share
    else:
        for each in tells:
            each["transfer"] = None
    data |= {"name": f"{file.name}-{name}", "description": baseline.description, "space": space}
    propose = {"differentiable": {"cells": seeds}} if baseline.differentiable else None
    data["search"] |= {"sampler": "random", "trials": seeds, "repeats": seeds, "propose": propose}
    data["search"] |= {"hours": None, "training_hours": None, "early_stopping": None}
    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        raise explain(error, StudyFile, data, f"Baseline {name} of study {file.name!r}", {}) from None
