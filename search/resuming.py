"""What stands in the way of starting or resuming a study."""

from __future__ import annotations

import logging
import shlex
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import optuna

from runners.bundle_store import names, owner_of, set_owner
from runners.latency import DeviceSpec
from runners.plan import TaskSections
from runners.task import Task, load_task
from runners.transfer.read import identity
from search.states import PROPOSED
from search.storage import find_study
from search.study import BUNDLES_OWNER, DATA, IMPORTED, STUDY_FILE, TIMED_WITH, half_made, read_file, study_folder
from search.study_file import StudyFile
from search.warm_start import AUTO, WARM_START, WarmStart
from space.errors import InputError
from space.secrets import passwords, url_without_passwords

logger = logging.getLogger("shoebox.search.resuming")

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
    check_place(file.bundles)
    folder = study_folder(file.name) / "trials"
    if (folder.is_dir() and any(folder.iterdir())) or (file.bundles and names(file.bundles)):
        raise InputError(
            f"{file.bundles or folder} holds bundles of another study named {file.name!r}.",
            "Remove that folder, or start this study by --name NAME.",
        )
    if file.bundles and owner_of(file.bundles) is not None:  # whose first bundle may still be to come
        raise InputError(
            f"{file.bundles} is the place for the bundles of another study named {file.name!r}.",
            f"Start this one by --name NAME; if that study is gone, remove {file.bundles}/owner.json.",
        )


def check_bundles_own(existing: optuna.Study, file: StudyFile) -> None:
    """A study that was imported, or whose bundles go to another URL now, must not write over those of another one."""
    if not file.bundles:
        return
    moved = have_moved(existing, file)
    if moved:
        check_place(file.bundles)
    owner, own = owner_of(file.bundles), existing.user_attrs.get(BUNDLES_OWNER)
    if owner is not None:
        is_own = owner == own
    else:  # nothing is there, or what a study left of before places had owners
        arrived = moved or (own is None and IMPORTED in existing.user_attrs)
        is_own = not arrived or not names(file.bundles)
    if not is_own:
        raise InputError(
            f"{file.bundles} holds bundles of another study named {file.name!r}.",
            "Keep those of this one elsewhere: --bundles URL.",
        )


def have_moved(existing: optuna.Study, file: StudyFile) -> bool:
    """Whether bundles are to be kept elsewhere than when the study was last searched."""
    return read_file(existing.study_name, existing.user_attrs[STUDY_FILE]).bundles != file.bundles


def check_place(bundles: str | None) -> None:
    """Refuse a URL for bundles that holds a password, or that does not say the same to everybody.

    Raises:
        InputError: it does, or is no URL; the message does not hold the password.
    """
    if bundles is None:
        return
    try:
        urlsplit(bundles)
    except ValueError as error:
        raise InputError(f"search.bundles, {url_without_passwords(bundles)}, is no URL: {error}.") from None
    if passwords(bundles):
        raise InputError(
            f"search.bundles, {url_without_passwords(bundles)}, should hold no password: records name the place of "
            "every bundle.",
            "Give it to fsspec, in its configuration folder or as FSSPEC_FTP_PASSWORD for ftp://.",
        )
    protocol, _, path = bundles.partition("://")
    if protocol == "memory":
        raise InputError(f"search.bundles, {bundles}, is in the memory of each worker: nobody else finds it.")
    if protocol in ("file", "local") and not path.startswith(("/", "~")):
        raise InputError(
            f"search.bundles, {bundles}, is another folder for each who reads it.", "Name it from the root: file:///..."
        )


def claim_bundles(existing: optuna.Study, file: StudyFile) -> None:
    """Say at the URL of a study's bundles whose they are."""
    owner = existing.user_attrs.get(BUNDLES_OWNER)
    if file.bundles and (owner is None or owner_of(file.bundles) != owner):
        owner = owner or uuid.uuid4().hex
        existing.set_user_attr(BUNDLES_OWNER, owner)
        set_owner(file.bundles, owner)


def check_warm_start(existing: optuna.Study, names: Sequence[str]) -> None:
    """Refuse to resume a study with other older studies than those that it was started with."""
    if not names:
        return
    if WARM_START not in existing.user_attrs:
        raise InputError(
            f"Study {existing.study_name!r} was started without --warm-start.",
            "Resume it without, or start another one.",
        )
    kept = WarmStart.model_validate(existing.user_attrs[WARM_START]).sources
    sources = {source.study for source in kept}
    if set(names) not in (sources, {AUTO}):  # what was chosen automatically stays chosen
        told = ", ".join(sorted(sources)) or "no older study"
        raise InputError(
            f"--warm-start: study {existing.study_name!r} was started with {told}, not {', '.join(names)}.",
            "Resume it without, or start another one.",
        )


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


def data_digests(sections: TaskSections, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What tells the data of a study from other data, by the section of the study file that names it.

    Where the data lies is no part of it. Of transfer and pre-training text on the hub only the names count, as in the
    cache of it.

    Raises:
        InputError: a file of text is missing or cannot be read; the data of the teacher's intermediate task are wrong.
    """
    found: dict[str, Any] = {}
    plans = sections.task_plans
    for name, plan in plans.items():
        # An only task has its transfer text beside it, one of several in its own section.
        task, transfer = ("task", "transfer") if len(plans) == 1 else (f"tasks.{name}", f"tasks.{name}.transfer")
        found[f"{task}.data"] = tasks[name].fingerprint
        if plan.transfer is not None and plan.transfer.sources:
            found[f"{transfer}.sources"] = [identity(source) for source in plan.transfer.sources]
    if sections.teacher.intermediate is not None:
        found["teacher.intermediate.data"] = load_task(sections.teacher.intermediate).fingerprint
    if sections.pretraining is not None:
        for name in ("sources", "exclude"):
            found[f"pretraining.{name}"] = [identity(source) for source in getattr(sections.pretraining, name)]
    return found


def check_data_unchanged(existing: optuna.Study, digests: Mapping[str, Any]) -> None:
    """Refuse to resume a study whose data holds something else by now: qualities would be of two tasks, and trainings
    would go on with other texts than they began with.

    Args:
        existing: a study, of which an older version may have kept no digests, or not all.
        digests: of `data_digests`, now.
    """
    before = existing.user_attrs.get(DATA, {})
    changed = [section for section, digest in digests.items() if before.get(section, digest) != digest]
    if changed:
        raise InputError(
            f"The data of study {existing.study_name!r} holds something else than when it was started: "
            f"{', '.join(changed)} changed since.",
            "Set it back to resume, or start another study by --name NAME.",
        )


def tell_other_tools(existing: optuna.Study, device: DeviceSpec, tools: Mapping[str, str]) -> None:
    """Warn where trials were timed with other tools than those to come will be. No reason to refuse: who has upgraded
    could not go on."""
    before = existing.user_attrs.get(TIMED_WITH, tools)  # unknown of studies that older versions made
    changed = _differences(dict(before), dict(tools))
    if not changed:
        return
    again = ["shoebox", "pareto", existing.study_name, "--device", device.profile, "--latency", device.latency]
    remedy = f"To compare all of them, time them again: {shlex.join(again)}"
    if device.latency == "native":  # by no other clock than that of a search
        remedy = "Another study, by --name NAME, has all of them alike."
    logger.warning(
        "Study %r was timed with other tools until now (%s changed): the latencies of its earlier trials and of those "
        "to come are not quite comparable. %s",
        existing.study_name,
        ", ".join(sorted(changed)),
        remedy,
    )


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in {**before, **after}:
            found += _differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
        return found
    return [] if before == after else [path]
