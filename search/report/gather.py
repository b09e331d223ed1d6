"""All that a report tells of a study, read once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from objectives.latency import LatencyModel, load_profile
from objectives.limits import broken
from objectives.pareto import hypervolume, non_dominated
from runners.bundle import BundleConfig, deployed_size, read_config, read_vocabulary
from runners.card import card
from runners.record import TrialRecord, library_versions
from search.bundles import find_bundle
from search.report.importance import Importance, importances
from search.report.shares import bytes_by_part, milliseconds_by_operator, without_small
from search.report.traits import kinds_of
from search.states import FAILED_AFTER
from search.storage import find_study, masked, open_storage
from search.study import Study, StudyTrial, directions, reference_point
from space.errors import InputError
from space.secrets import without_passwords

MOST_SHOWN = 10  # students of a front that are looked into: more bars cannot be read
MOST_PARTS = 8  # of a bar: more colours cannot be told apart
_STATES = ("finished", "stopped", "failed", "infeasible", "running", "waiting", "orphaned")
_USER = re.compile(r"(?<=://)[^/@\s'\"]+@")


@dataclass(frozen=True)
class Progress:
    """How far a search had come when a trained trial ended.

    Attributes:
        trial: its number.
        trained: trained trials so far.
        seconds: wall time of these trials, added up as if one had run after the other.
        hypervolume: of the feasible ones so far.
    """

    trial: int
    trained: int
    seconds: float
    hypervolume: float


@dataclass(frozen=True)
class Bundle:
    """What is read of a trial's bundle."""

    folder: Path
    config: BundleConfig


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same reason."""

    reason: str
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Report:
    """What is told of a study.

    Attributes:
        study: itself.
        records: feasible finished trials in order.
        front: those that no other dominates, best quality first.
        shown: of the front, at most `MOST_SHOWN`, evenly chosen, both ends among them.
        progress: one for each trained trial, in the order in which they ended.
        importances: of the parameters, by objective.
        bytes_of: deployed bytes by part, of the trials shown whose bundle is there.
        milliseconds_of: estimated milliseconds by operator, likewise; empty where nothing is known of the device.
        cards: Markdown, of the trials of the front whose bundle is there.
        states: number of trials by state.
        broken_limits: infeasible trials by the limit that they broke.
        failures: why trials failed, most frequent reason first.
        provenance: names and values of what the study was made of and with.
        study_file: the study file as YAML, secrets masked.
    """

    study: Study
    records: list[TrialRecord]
    front: list[TrialRecord]
    shown: list[TrialRecord]
    progress: list[Progress]
    importances: list[Importance]
    bytes_of: dict[int, dict[str, int]]
    milliseconds_of: dict[int, dict[str, float]]
    cards: dict[int, str]
    states: dict[str, int]
    broken_limits: dict[str, int]
    failures: list[Failure]
    provenance: list[tuple[str, str]]
    study_file: str


def gather(study: Study) -> Report:
    """Read what a report tells.

    Raises:
        InputError: the study has no feasible finished trial, or another version of Shoebox made it.
    """
    front = study.pareto()
    if not front:
        raise InputError(f"Study {study.name!r} has no finished trial that keeps its limits yet.")
    found = find_study(open_storage(study.url), study.name)
    frozen = [] if found is None else found.get_trials(deepcopy=False)
    trials, shown = study.trials(), spread_evenly(front, MOST_SHOWN)
    bundles = {record.trial: bundle for record in front if (bundle := _bundle_of(record)) is not None}
    with_bundle = [record for record in shown if record.trial in bundles]
    counted = Counter(str(trial.state) for trial in trials)
    return Report(
        study=study,
        records=study.records(),
        front=front,
        shown=shown,
        progress=progress_of(study, frozen),
        importances=importances(study, frozen),
        bytes_of={record.trial: _bytes_of(bundles[record.trial]) for record in with_bundle},
        milliseconds_of=_milliseconds(study, with_bundle, bundles),
        cards={record.trial: card(bundles[record.trial].config, record) for record in front if record.trial in bundles},
        states={state: counted[state] for state in sorted(counted, key=_place_of)},
        broken_limits=dict(
            Counter(name for trial in trials if trial.state == "infeasible" for name in broken(trial.constraints))
        ),
        failures=_failures(trials),
        provenance=_provenance(study, frozen, front),
        study_file=without_secrets(yaml.safe_dump(_told(study), sort_keys=False, allow_unicode=True)),
    )


def spread_evenly(front: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """At most so many of a front, first and last among them."""
    if len(front) <= most:
        return list(front)
    return [front[round(index * (len(front) - 1) / (most - 1))] for index in range(most)]


def without_secrets(text: str) -> str:
    """Text without passwords, what stands before the @ of a URL, and the name of the user's own folder."""
    found = _USER.sub("***@", without_passwords(text))
    home = str(Path.home())
    # Containers run without a home have the root; and one user's name may begin another's.
    return found if home == "/" else re.sub(rf"{re.escape(home)}(?![\w.-])", "~", found)


def progress_of(study: Study, frozen: Sequence[FrozenTrial]) -> list[Progress]:
    """How the hypervolume grew with trials and with time."""
    ended = {trial.number: trial for trial in frozen}
    trained = [trial for trial in study.trials() if trial.state in ("finished", "failed", "stopped")]
    trained.sort(key=lambda trial: _end_of(trial, ended.get(trial.number)))
    ways = directions(study.objectives)
    reference = reference_point(study.objectives, study.file.limits)
    found: list[Progress] = []
    kept: list[list[float]] = []
    seconds = reached = 0.0
    for count, trial in enumerate(trained, 1):
        seconds += _seconds_of(trial, ended.get(trial.number))
        if trial.feasible and trial.record is not None:
            points = [*kept, study.values(trial.record)]
            keep = non_dominated(points, ways)
            if len(points) - 1 in keep:
                kept = [points[index] for index in keep]
                reached = hypervolume(kept, reference, ways)
        found.append(Progress(trial.number, count, seconds, reached))
    return found


def _end_of(trial: StudyTrial, frozen: FrozenTrial | None) -> datetime:
    """When a trial ended; a stopped one at its last rung.

    Nobody knows of a trial at a rung that it will not go on until the search closes, which is when Optuna is told. When
    the rung was reached is not stored: it is taken to have trained without a break.
    """
    if frozen is None or frozen.datetime_complete is None:
        return datetime.max
    if trial.state != "stopped" or frozen.datetime_start is None:
        return frozen.datetime_complete
    return min(frozen.datetime_start + timedelta(seconds=_seconds_of(trial, frozen)), frozen.datetime_complete)


def _seconds_of(trial: StudyTrial, frozen: FrozenTrial | None) -> float:
    """What a trial's record, a stopped one's last rung or a failed one's worker says that it took; else the time
    between start and end."""
    if trial.record is not None and trial.record.seconds:
        return sum(trial.record.seconds.values())
    if trial.state == "stopped":
        return float(sum(trial.rungs[-1]["seconds"].values()))
    if frozen is None:
        return 0.0
    if FAILED_AFTER in frozen.user_attrs:  # without the time that it waited at rungs
        return float(frozen.user_attrs[FAILED_AFTER])
    return 0.0 if frozen.duration is None else max(0.0, frozen.duration.total_seconds())


def _place_of(state: str) -> int:
    return _STATES.index(state) if state in _STATES else len(_STATES)


def _bundle_of(record: TrialRecord) -> Bundle | None:
    try:
        folder = find_bundle(record.bundle)
        if folder is None:
            return None
        read_vocabulary(folder)  # whether it is whole; those of a large front are not kept
        return Bundle(folder, read_config(folder))
    except InputError:  # moved, deleted, damaged or out of reach: the report says of how many that is so
        return None


def _bytes_of(bundle: Bundle) -> dict[str, int]:
    return bytes_by_part(
        bundle.config.student, bundle.config.shape, read_vocabulary(bundle.folder), deployed_size(bundle.folder)
    )


def _milliseconds(
    study: Study, records: Sequence[TrialRecord], bundles: dict[int, Bundle]
) -> dict[int, dict[str, float]]:
    if study.file.device.latency == "native":
        return {}
    try:
        model = LatencyModel(load_profile(study.file.device.profile))
    except InputError:  # a profile of the user's own, of which no costs are recorded
        return {}
    found = {}
    for record in records:
        bundle = bundles[record.trial]
        size = len(read_vocabulary(bundle.folder))
        found[record.trial] = milliseconds_by_operator(model, record.config, bundle.config.shape, size, record.latency)
    return without_small(found, MOST_PARTS)


def _failures(trials: Sequence[StudyTrial]) -> list[Failure]:
    reasons: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state == "failed":
            reasons.setdefault(trial.error or "no reason is recorded", []).append(trial.number)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[1]))
    return [Failure(without_secrets(reason), tuple(numbers)) for reason, numbers in ordered]


def _told(study: Study) -> dict[str, Any]:
    """The study file without what it leaves to defaults."""
    told: dict[str, Any] = study.file.model_dump(mode="json", exclude_defaults=True)
    return told


def _storage_in_words(url: str) -> str:
    """A storage without passwords and without folders of this machine."""
    return f"SQLite file {Path(url).name}" if url.startswith("sqlite:") else masked(url)


def _provenance(study: Study, frozen: Sequence[FrozenTrial], front: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    file, latency = study.file, front[0].latency
    starts = [trial.datetime_start for trial in frozen if trial.datetime_start is not None]
    ends = [trial.datetime_complete for trial in frozen if trial.datetime_complete is not None]
    kept = ", ".join(f"{name} at most {limit:,}" for name, limit in file.limits.given().items())
    versions: dict[str, set[str]] = {}
    records = study.records()
    all_kinds, kinds = kinds_of(records), kinds_of(front)
    shares = ", ".join(f"{kind} {kinds.get(kind, 0)} of {count}" for kind, count in all_kinds.items())
    for record in records:
        for name, version in record.versions.items():
            versions.setdefault(name, set()).add(version)
    emulator = ", ".join(f"{name} {version}" for name, version in latency.versions.items())
    rows = [
        ("study", study.name),
        ("started from", Path(study.source).name),
        ("storage", _storage_in_words(study.url)),
        ("first trial", f"{min(starts):%Y-%m-%d %H:%M}" if starts else ""),
        ("last trial", f"{max(ends):%Y-%m-%d %H:%M}" if ends else ""),
        ("objectives", ", ".join(study.objectives)),
        ("limits", kept),
        ("sampler and seed", f"{file.search.sampler}, {file.search.seed}"),
        ("students on the front", shares if len(all_kinds) > 1 else ""),
        ("teacher", file.teacher.model),
        ("device", f"{latency.device}, {latency.backend}, {'calibrated' if latency.calibrated else 'uncalibrated'}"),
        ("latency tools", emulator),
        ("libraries", ", ".join(f"{name} {'/'.join(sorted(found))}" for name, found in versions.items())),
        ("report by", f"shoebox {library_versions()['shoebox']}"),
    ]
    return [(name, without_secrets(value)) for name, value in rows if value]
