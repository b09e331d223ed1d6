"""Where an ablation starts from: a trial of a study, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from search.ablate.rows import Setup, prunes_tokens
from search.study import load_study
from search.study_file import StudyFile, load_study_file
from search.validation import explain, parse_yaml
from space.config import Recipe
from space.errors import InputError
from space.families import AnyStudentConfig, get_family
from space.paths import expanded


class _SetupFile(BaseModel):
    """A configuration and a recipe; other keys are left alone, so that bundles' files can be read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    config: AnyStudentConfig
    recipe: Recipe


def start_from_study(name: str, trial: int | None = None, storage: str | None = None) -> tuple[StudyFile, Setup]:
    """A study in storage with the configuration of one of its trials, by default the best.

    Raises:
        InputError: there is no such study or trial, or the trial has not finished.
    """
    study = load_study(name, storage)
    if trial is None:
        record = study.best()
    else:
        found = study.trial(trial)
        if found.record is None:
            raise InputError(f"Trial {trial} of study {name!r} has no configuration to train: it is {found.state}.")
        record = found.record
    return study.file, Setup(study.file.plan(), record.config, record.recipe)


def start_from_file(study: str, path: Path, overrides: Mapping[str, Any] | None = None) -> tuple[StudyFile, Setup]:
    """A study file, shipped or by its path, with a configuration and a recipe from a file of their own.

    Args:
        study: name or path, as `load_study_file` takes it.
        path: of the file; see `read_setup`.
        overrides: changes to the study file, as `load_study_file` takes them.

    Raises:
        InputError: one of the files cannot be read or says something wrong, or they do not fit together.
    """
    file = load_study_file(study, overrides)
    config, recipe = read_setup(path)
    setup = Setup(file.plan(), config, recipe)
    if problem := _misfit(setup):
        raise InputError(f"{path} does not fit study {file.name!r}: {problem}.")
    return file, setup


def _misfit(setup: Setup) -> str | None:
    """What keeps a configuration and a recipe from being trained in a study; None if nothing does."""
    plan, recipe = setup.plan, setup.recipe
    tasks = plan.task_plans.values()
    if recipe.transfer_share > 0 and all(task.transfer is None for task in tasks):
        return "recipe.transfer_share is above 0, but there is no section transfer"
    if recipe.initialization == "pretrained" and plan.pretraining is None:
        return "recipe.initialization is pretrained, but there is no section pretraining"
    if recipe.initialization == "pretrained" and "pretrained" not in get_family(setup.config.family).initializations:
        return f"recipe.initialization is pretrained, which students of {setup.config.family} cannot be"
    if recipe.initialization == "supernet" and plan.supernet is None:
        return "recipe.initialization is supernet, but there is no section supernet"
    if recipe.initialization == "supernet" and "supernet" not in get_family(setup.config.family).initializations:
        return f"recipe.initialization is supernet, which students of {setup.config.family} cannot be"
    if not any(task.task.per_token for task in tasks):
        return None
    if prunes_tokens(setup.config):
        return "config.layers should have token_keep 1.0: every token gets logits, and one that is pruned has none"
    if recipe.updates_encoder:
        return "recipe.teacher_update should be task_layer, or teacher_learning_rate 0: the study tags words"
    return None


def read_setup(path: Path) -> tuple[Any, Recipe]:
    """Configuration and recipe from a YAML or JSON file with the keys `config` and `recipe`.

    The files of a bundle will do, `metrics.json` as well as `config.json` (where the configuration is `student`), and
    so does the JSON that an ablation writes.

    Raises:
        InputError: the file cannot be read or says something wrong.
    """
    try:
        text = expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Configuration file {path} cannot be read: {reason}.") from None
    source = f"Configuration file {path}"
    data = parse_yaml(text, source)
    if "config" not in data and "student" in data:
        data["config"] = data["student"]
    try:
        found = _SetupFile.model_validate(data)
    except ValidationError as error:
        raise explain(error, _SetupFile, data, source) from None
    return found.config, found.recipe
