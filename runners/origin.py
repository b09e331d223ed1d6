"""Where a student comes from: its text and its teacher's licence, as a bundle's card tells them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import yaml

from runners.bundle import BundleOrigin
from runners.plan import TrialPlan
from runners.task.spec import FilesData, FolderData, GrammarData, HubData, TaskSpec
from runners.teacher.model import OFFLINE_MODEL, OFFLINE_PACKAGE
from space.paths import expanded


def origin_of(plan: TrialPlan) -> BundleOrigin:
    """What the card of a trial's bundle tells of its origin."""
    plans = plan.task_plans
    return BundleOrigin(
        data={name: data_in_words(found.task) for name, found in plans.items()},
        columns={name: text_columns(found.task) for name, found in plans.items()},
        teacher_licence=licence_of(plan.teacher.model),
    )


def data_in_words(task: TaskSpec) -> str:
    """A task's data source, fit to be published: of local files the name, not the folder that they lie in."""
    match task.data:
        case GrammarData():
            found = f"{task.data.train:,} sentences that Shoebox made from its {task.data.grammar} grammar"
        case HubData():
            part = f" ({task.data.config})" if task.data.config else ""
            found = f"{task.data.hub}{part} of the Hugging Face hub, split {task.data.train}"
        case FolderData():
            found = f"local files, folder {Path(task.data.path).name}"
        case FilesData():
            found = f"local files, {Path(task.data.train).name} and {Path(task.data.validation).name}"
    if task.where:
        found = f"{found}, where {', '.join(f'{column} is {value}' for column, value in task.where.items())}"
    if task.target is not None:
        return f"{found}, for {task.domain} {task.target}"
    return found if task.unseen is None else f"{found}, for {task.domain} {task.unseen}, which is left out of training"


def text_columns(task: TaskSpec) -> tuple[str, ...]:
    """The columns that a student reads."""
    return (task.tokens,) if task.per_token else task.text_columns


def licence_of(model: str) -> str | None:
    """The licence that a model's own card names; None if it names none or no card is on this machine.

    No network is asked.
    """
    card = _card_of(model)
    try:
        text = card.read_text(encoding="utf-8") if card is not None else ""
        head = text.split("---\n")[1] if text.startswith("---\n") else ""
        described = yaml.safe_load(head)
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return None
    licence = described.get("license") if isinstance(described, dict) else None
    return licence if isinstance(licence, str) and licence.strip() else None


def _card_of(model: str) -> Path | None:
    folder = expanded(model)
    if not folder.is_dir() and model == OFFLINE_MODEL and importlib.util.find_spec(OFFLINE_PACKAGE) is not None:
        folder = Path(importlib.import_module(OFFLINE_PACKAGE).get_model_path())
    if folder.is_dir():
        return folder / "README.md"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "README.md")
    except HFValidationError:  # no id of the hub
        return None
    return Path(found) if isinstance(found, str) else None
