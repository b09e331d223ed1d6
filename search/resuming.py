"""What stands in the way of starting or resuming a study."""

from __future__ import annotations

import uuid
from typing import Any

import optuna

from runners.bundle_store import names, owner_of, set_owner
from search.states import PROPOSED
from search.storage import find_study
from search.study import BUNDLES_OWNER, STUDY_FILE, half_made, read_file, study_folder
from search.study_file import StudyFile
from space.errors import InputError

# What may change when a study is resumed: how long it is, what is kept of it, and where it runs.
_LENGTH = ("trials", "hours", "training_hours", "repeats")
_PLACE = ("workers", "cpus_per_trial", "gpus_per_trial", "keep_bundles", "bundles")
# Bits can be guided by what was found: proposals that are asked for later are queued then.
_LATER = ("propose", "propose.guided_bits")
# Cells are searched when a study is started: what the search was like is of no effect later.
_SPENT = "search.propose.differentiable."
_MAY_CHANGE = {"description", *(f"search.{name}" for name in (*_LENGTH, *_PLACE, *_LATER))}


def find_whole(storage: Any, name: str) -> optuna.Study | None:
    """The study of that name; one that a search was killed in making counts as none."""
    found = find_study(storage, name)
    return None if found is None or half_made(found) else found


def check_no_bundles(file: StudyFile) -> None:
    """A new study must not write over the bundles of another one, in another storage or deleted."""
    folder = study_folder(file.name) / "trials"
    if (folder.is_dir() and any(folder.iterdir())) or (file.bundles and names(file.bundles)):
        raise InputError(
            f"{file.bundles or folder} holds bundles of another study named {file.name!r}.",
            "Remove that folder, or start this study by --name NAME.",
        )


def check_bundles_own(existing: optuna.Study, file: StudyFile) -> None:
    """A study that was imported must not write over the bundles that the one it came from keeps at a URL."""
    if file.bundles and owner_of(file.bundles) not in (None, existing.user_attrs.get(BUNDLES_OWNER)):
        raise InputError(
            f"{file.bundles} holds bundles of another study named {file.name!r}.",
            "Keep those of this one elsewhere: --bundles URL.",
        )


def claim_bundles(existing: optuna.Study, file: StudyFile) -> None:
    """Say at the URL of a study's bundles whose they are."""
    owner = existing.user_attrs.get(BUNDLES_OWNER)
    if file.bundles and (owner is None or owner_of(file.bundles) != owner):
        owner = owner or uuid.uuid4().hex
        existing.set_user_attr(BUNDLES_OWNER, owner)
        set_owner(file.bundles, owner)


def check_unchanged(existing: optuna.Study, file: StudyFile) -> None:
    """Refuse to resume a study whose file says something else by now, budget and workers aside."""
    before = existing.user_attrs.get(STUDY_FILE)
    if before is None:
        raise InputError(f"{existing.study_name!r} is an Optuna study that Shoebox did not make.")
    # Through the model, so that a default which a newer Shoebox added is no difference.
    before = read_file(existing.study_name, before).model_dump(mode="json")
    spent = PROPOSED in existing.user_attrs
    changed = [
        path
        for path in _differences(before, file.model_dump(mode="json"))
        if path not in _MAY_CHANGE and not (spent and path.startswith(_SPENT))
    ]
    if changed:
        raise InputError(
            f"Study {existing.study_name!r} was started with other settings: {', '.join(sorted(changed))} "
            "changed since.",
            "Set them back to resume, or start another study by --name NAME.",
        )


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in {**before, **after}:
            found += _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if before == after else [path]
