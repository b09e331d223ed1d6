"""Read a study from an archive."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from runners.bundle import new_folder
from search.direct_storage import DirectStorage
from search.exchange.archive import Archive, open_archive
from search.exchange.check import check_contents, check_distributions
from search.exchange.content import (
    StudyContent,
    TrialContent,
    attributes_for,
    contents,
    frozen_trial,
    read_contents,
)
from search.exchange.send import MEMBERS
from search.lock import only_one_on_study
from search.storage import create_study, default_url, find_study, masked, open_storage
from search.study import IMPORTED, STUDY_FILE, half_made, read_file, study_folder
from search.study_file import NAME
from space.errors import InputError

STAGED = ".import-bundles"
_OPEN = ("RUNNING", "WAITING")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        name: of the study.
        trials: in the archive, of all states.
        bundles: numbers of the trials whose bundles were added.
        existed: whether the study was here before.
        further: how many trials the study here has beyond the archive's.
    """

    name: str
    trials: int
    bundles: tuple[int, ...]
    existed: bool
    further: int = 0


def import_study(path: Path, name: str | None = None, storage: str | None = None) -> Imported:
    """Put the study of an archive into the storage, and its bundles into its folder.

    The study appears when all of it is there: an import that was killed counts as none, and the next one (or a search
    of that name) starts again. Importing once more changes nothing, apart from bundles that are missing. Paths of data,
    teacher and device profile stay as the study file has them.

    Args:
        path: of the archive.
        name: of the study; default that in the archive.
        storage: URL; default `home()/studies.db`.

    Raises:
        InputError: the archive cannot be read, is damaged or was changed, or is of another version; there is another
            study of that name; it is being searched.
        OutputError: a bundle cannot be written (disk full); nothing is left behind.
    """
    with open_archive(path, MEMBERS) as archive:
        missing = [member for member in ("study.json", "trials.jsonl") if member not in archive.manifest.members]
        if missing:
            raise InputError(f"{path} is no archive of a study: it has no {missing[0]}.")
        name = archive.manifest.study if name is None else name
        if not re.fullmatch(NAME, name):
            raise InputError(f"{name!r} is no name of a study.", "Names have letters, digits, dots, dashes, and _.")
        content, trials = read_contents(archive.read("study.json"), archive.read("trials.jsonl"), str(path))
        if STUDY_FILE not in content.attributes:
            raise InputError(f"{path}: study.json lacks the study file.")
        attributes = attributes_for(content, name)
        file = read_file(name, attributes[STUDY_FILE])
        if len(content.directions) != len(file.objectives):
            raise InputError(f"{path}: study.json has other objectives than its study file.")
        folder = study_folder(name)
        check_contents(content, trials, str(path))
        frozen = [frozen_trial(trial, content.distributions, folder) for trial in trials]
        check_distributions(frozen, str(path))
        refusal = f"Study {name!r} is being searched or imported by another process right now."
        url = storage or default_url()
        opened = open_storage(url)
        with only_one_on_study(name, url, refusal):
            return _enter(archive, name, opened, url, content, trials, frozen)


def _enter(
    archive: Archive,
    name: str,
    opened: RDBStorage,
    url: str,
    content: StudyContent,
    trials: list[TrialContent],
    frozen: Sequence[FrozenTrial],
) -> Imported:
    folder = study_folder(name)
    _remove_staged(folder)  # of an import that was killed
    existing = find_study(opened, name)
    if existing is not None and not half_made(existing):
        further = _check_same(existing, content, trials, url)
        return Imported(name, len(trials), _add_bundles(archive, folder), existed=True, further=further)
    if existing is not None:
        if IMPORTED in existing.user_attrs:
            shutil.rmtree(folder / "trials", ignore_errors=True)
        optuna.delete_study(study_name=name, storage=opened)
    bundles = folder / "trials"
    if bundles.is_dir() and any(bundles.iterdir()):
        raise InputError(
            f"{bundles} holds bundles of another study named {name!r}.",
            "Remove that folder, or import this study by --name NAME.",
        )
    # First the bundles, out of sight; then the study, which counts as none until it has its study file.
    with new_folder(folder / STAGED) as staged:
        added = _extract(archive, staged, _bundles(archive))
    try:
        _create(opened, name, content, frozen, archive, folder)
    finally:
        _remove_staged(folder)
    return Imported(name, len(trials), added, existed=False)


def _create(
    opened: RDBStorage,
    name: str,
    content: StudyContent,
    frozen: Sequence[FrozenTrial],
    archive: Archive,
    folder: Path,
) -> None:
    versions = archive.manifest.made_with
    study = create_study(opened, name, content.directions, {IMPORTED: {"from": archive.manifest.study, **versions}})
    bundles = folder / "trials"
    try:
        _add(opened, study._study_id, frozen)
        for key, value in content.system_attributes.items():
            opened.set_study_system_attr(study._study_id, key, value)
        attributes = attributes_for(content, name)
        for key, value in attributes.items():
            if key != STUDY_FILE:
                study.set_user_attr(key, value)
        if bundles.is_dir():
            bundles.rmdir()  # empty, as was checked
        (folder / STAGED).rename(bundles)
        study.set_user_attr(STUDY_FILE, attributes[STUDY_FILE])
    except BaseException:
        shutil.rmtree(bundles, ignore_errors=True)
        optuna.delete_study(study_name=name, storage=opened)
        raise


def _add(opened: RDBStorage, study_id: int, frozen: Sequence[FrozenTrial]) -> None:
    if isinstance(opened, DirectStorage):
        opened.add_trials(study_id, frozen)
        return
    for trial in frozen:
        opened.create_new_trial(study_id, template_trial=trial)


def _remove_staged(folder: Path) -> None:
    """Remove bundles that wait for their study, whole or half written."""
    for pattern in (STAGED, f".{STAGED}.*"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _check_same(existing: optuna.Study, content: StudyContent, trials: list[TrialContent], url: str) -> int:
    """Check that a study is that of the archive, or went on from it; answers by how many trials."""
    here, found = contents(existing)
    name = existing.study_name
    if here.directions == content.directions:
        if _goes_on(here, found, content, trials):
            return len(found) - len(trials)
        if _goes_on(content, trials, here, found):
            raise InputError(
                f"The archive holds a later state of study {name!r} than {masked(url)}: {_ended(trials)} of its trials "
                f"have ended, {_ended(found)} here. Nothing was changed.",
                f"Import it under another name (--name NAME), or first remove the earlier state: {study_folder(name)}, "
                f"and `optuna delete-study --study-name {name} --storage {masked(url)}`.",
            )
    raise InputError(
        f"There is another study {name!r} in {masked(url)}.", "Import this one under another name: --name NAME."
    )


def _goes_on(
    later: StudyContent, further: list[TrialContent], earlier: StudyContent, trials: list[TrialContent]
) -> bool:
    """Whether one state of a study may have come from another one: all that had ended is in it as it was.

    What had not ended, and the attributes of the study, a search that went on has changed.
    """
    ended = [number for number, trial in enumerate(trials) if trial.state not in _OPEN]
    if not ended:  # trials tell by their times that they are the same, but there are none
        return later.attributes.get(STUDY_FILE) == earlier.attributes.get(STUDY_FILE)
    return len(further) >= len(trials) and all(
        _comparable(trials[number], earlier.distributions) == _comparable(further[number], later.distributions)
        for number in ended
    )


def _ended(trials: Sequence[TrialContent]) -> int:
    return sum(trial.state not in _OPEN for trial in trials)


def _comparable(trial: TrialContent, distributions: Sequence[object]) -> str:
    """Text that is the same for equal trials, NaN included."""
    named = {name: distributions[place] for name, place in sorted(trial.distributions.items())}
    rest = trial.model_copy(update={"distributions": {}, "params": dict(sorted(trial.params.items()))})
    return f"{rest!r} {named!r}"


def _bundles(archive: Archive) -> dict[int, list[str]]:
    """Members of the bundles, by the number of the trial."""
    found: dict[int, list[str]] = {}
    for member in archive.manifest.members:
        if member.startswith("trials/"):
            found.setdefault(int(member.split("/")[1]), []).append(member)
    return found


def _extract(archive: Archive, folder: Path, bundles: dict[int, list[str]]) -> tuple[int, ...]:
    for number, members in bundles.items():
        (folder / f"{number:05d}").mkdir()
        for member in members:
            archive.extract(member, folder / f"{number:05d}" / member.rpartition("/")[2])
    return tuple(sorted(bundles))


def _add_bundles(archive: Archive, folder: Path) -> tuple[int, ...]:
    """Add those bundles to a study that it lacks."""
    added = []
    for number, members in _bundles(archive).items():
        target = folder / "trials" / f"{number:05d}"
        if target.exists():
            continue
        with new_folder(target) as part:
            for member in members:
                archive.extract(member, part / member.rpartition("/")[2])
        added.append(number)
    return tuple(sorted(added))
