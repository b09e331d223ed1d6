"""Ask a study in storage: its trials, its front, its best."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from objectives.pareto import Direction, hypervolume, non_dominated
from search.fields import Content, measured
from search.retention import bundle_now
from search.states import (
    ERROR,
    PROPOSED,
    RECORD,
    RUNGS,
    Objective,
    State,
    objective_values,
    read_record,
    state_of,
    unreadable,
)
from search.storage import default_url, find_study, masked, open_storage, storage_exists, study_names
from search.stored_trials import read_parameters, read_trials
from search.validation import closest
from space.errors import InputError
from space.paths import home

if TYPE_CHECKING:
    from objectives.limits import Limits
    from runners.record import TrialRecord
    from search.study_file import StudyFile

# Attributes of a study in storage.
STUDY_FILE = "study_file"  # the whole study file (JSON)
OVERRIDES = "overrides"  # command-line values that it was made with
BUNDLES_OWNER = "bundles_owner"  # what the place of its bundles at a URL is marked with
SOURCE = "source"  # name or path that it was loaded from
DATA = "data"  # digests of its data (JSON of `search.resuming.data_digests`)
TIMED_ON = "timed_on"  # identity of the device (`LatencyMeter.identity`)
TIMED_WITH = "timed_with"  # what else its readings depend on (JSON of `LatencyMeter.tools`), at its last start
IMPORTED = "imported"  # where a study of an archive came from; set first, as `STUDY_FILE` is last
ON_ARM = "on_arm"  # quality with ARM kernels (JSON of `ArmQuality`) by the number of the trial

# Where a study sets no limit on a cost, its worst for the hypervolume.
REFERENCE_COSTS = {"latency_ms": 100.0, "long_latency_ms": 400.0, "peak_heap_bytes": 16e6}


def directions(objectives: list[Objective]) -> list[Direction]:
    """Quality is raised, costs are lowered."""
    return ["maximize" if name == "quality" else "minimize" for name in objectives]


def reference_point(objectives: list[Objective], limits: Limits) -> list[float]:
    """The reference of a study's hypervolume: quality 0, and of each cost the limit or `REFERENCE_COSTS`."""
    worst: dict[str, float] = {"quality": 0.0, **REFERENCE_COSTS, **limits.given()}
    return [worst[name] for name in objectives]


def reference_in_words(objectives: list[Objective], limits: Limits, volume: float) -> str:
    """What a hypervolume was taken against, and that all lie beyond it where that is why there is none."""
    worst = zip(objectives, reference_point(objectives, limits), strict=True)
    told = "against " + ", ".join(f"{name} {value:,.10g}" for name, value in worst)
    return told if volume else f"{told}: every student lies beyond"


def study_folder(name: str) -> Path:
    """Where a study's bundles and lock are."""
    return home() / "studies" / name


def study_of(bundle: Path) -> str | None:
    """Name of the study in whose folder a bundle lies, which imported it by that name; None of a copy elsewhere."""
    trials = bundle.resolve().parent
    return trials.parent.name if trials == (study_folder(trials.parent.name) / "trials").resolve() else None


def half_made(study: optuna.Study) -> bool:
    """Whether a search or an import was killed while it made the study: it counts as none."""
    attributes = study.user_attrs
    return STUDY_FILE not in attributes and (IMPORTED in attributes or not study.get_trials(deepcopy=False))


def read_file(name: str, data: Any) -> StudyFile:
    """The study file of a study in storage.

    Raises:
        InputError: another version of Shoebox made it, and this one cannot read it.
    """
    from search.study_file import StudyFile

    try:
        return StudyFile.model_validate(data)
    except ValidationError as error:
        raise unreadable(name, error) from None


@dataclass(frozen=True)
class StudyTrial:
    """One trial of a study.

    Attributes:
        number: in the study.
        state: finished, failed, stopped (early: its training was not worth going on with), infeasible (broke a limit,
            never trained), answered (its configuration is another trial's), orphaned (its worker or driver went away;
            another trial repeats it), running, paused (may go on from its rung) or waiting.
        params: flat parameters, as the sampler proposed them.
        constraints: relative excess over each limit; 0 or less is kept.
        record: what was measured, of a finished trial.
        error: why a failed trial failed.
        rungs: how it stood at each rung that it passed (`runners.rungs.RungResult`).
    """

    number: int
    state: State
    params: dict[str, Any]
    constraints: dict[str, float]
    record: TrialRecord | None
    error: str | None
    rungs: list[dict[str, Any]]

    @property
    def feasible(self) -> bool:
        """Whether the trial finished and kept every limit."""
        return self.state == "finished" and all(value <= 0 for value in self.constraints.values())


class Study:
    """A study in storage, read once at construction.

    Args:
        study: the Optuna study.
        url: of its storage.
    """

    def __init__(self, study: optuna.Study, url: str) -> None:
        self.name = study.study_name
        self.url = url
        self.source: str = study.user_attrs.get(SOURCE, self.name)
        self._file: dict[str, Any] | None = study.user_attrs.get(STUDY_FILE)
        self._on_arm: dict[str, Any] = study.user_attrs.get(ON_ARM, {})
        self._study = study
        self._frozen = read_trials(study)
        self._records: dict[int, TrialRecord] = {}
        if self._file is None:
            raise InputError(f"{self.name!r} in {masked(url)} is an Optuna study that Shoebox did not make.")

    @cached_property
    def file(self) -> StudyFile:
        """The study file that the study was made from, options of the command line included.

        Raises:
            InputError: another version of Shoebox made it, and this one cannot read it.
        """
        return read_file(self.name, self._file)

    @property
    def objectives(self) -> list[Objective]:
        assert self._file is not None
        return list(self._file["objectives"])

    @property
    def folder(self) -> Path:
        """Where the study's bundles are."""
        return study_folder(self.name)

    @cached_property
    def measurements(self) -> dict[int, Content]:
        """What was measured of each feasible finished trial (the JSON of its record) by its number.

        Who proposed it is added. It is not checked: `record` does that, and takes a hundred times as long.
        """
        return {
            trial.number: {
                **trial.user_attrs[RECORD],
                "bundle": self._bundle_now(trial.user_attrs),
                "on_arm": self._on_arm.get(str(trial.number)),
                PROPOSED: trial.user_attrs.get(PROPOSED, "sampler"),
            }
            for trial in self._frozen
            if RECORD in trial.user_attrs
            and state_of(trial) == "finished"
            and all(excess <= 0 for excess in trial.constraints.values())
        }

    def record(self, number: int) -> TrialRecord:
        """The record of a finished trial.

        Raises:
            InputError: another version of Shoebox wrote it.
            KeyError: the trial has none.
        """
        if number not in self._records:
            attributes = self._by_number[number].user_attrs
            record = read_record(self.name, attributes, self._on_arm.get(str(number)))
            self._records[number] = record.model_copy(update={"bundle": self._bundle_now(attributes)})
        return self._records[number]

    def _bundle_now(self, attributes: dict[str, Any]) -> str:
        return bundle_now(attributes[RECORD], self.folder / "trials")

    @cached_property
    def _by_number(self) -> dict[int, FrozenTrial]:
        return {trial.number: trial for trial in self._frozen}

    @cached_property
    def _trials(self) -> list[StudyTrial]:
        parameters = read_parameters(self._study)
        found = []
        for trial in self._frozen:
            state = state_of(trial)
            has_record = state == "finished" and RECORD in trial.user_attrs
            found.append(
                StudyTrial(
                    number=trial.number,
                    state=state,
                    params=parameters.get(trial.number, {}),
                    constraints=trial.constraints,
                    record=self.record(trial.number) if has_record else None,
                    error=trial.user_attrs.get(ERROR),
                    rungs=trial.user_attrs.get(RUNGS) or [],
                )
            )
        return found

    def states(self) -> list[State]:
        """The state of every trial, in order."""
        return [state_of(trial) for trial in self._frozen]

    def trials(self, state: State | None = None) -> list[StudyTrial]:
        """All trials in order, or those of one state."""
        return [trial for trial in self._trials if state is None or trial.state == state]

    def trial(self, number: int) -> StudyTrial:
        """The trial of that number.

        Raises:
            InputError: there is none.
        """
        if not 0 <= number < len(self._trials):
            raise InputError(f"Study {self.name!r} has no trial {number}; it has {len(self._trials)}.")
        return self._trials[number]

    def records(self) -> list[TrialRecord]:
        """Records of the feasible finished trials, in order."""
        return [self.record(number) for number in self.measurements]

    def values(self, record: TrialRecord) -> list[float]:
        """A record's values in the order of the study's objectives."""
        return objective_values(record, self.objectives)

    def _points(self) -> list[list[float]]:
        """The values of `measurements` in the order of the study's objectives; NaN where a trial lacks one."""
        readers = [measured(name) for name in self.objectives]
        points = []
        for content in self.measurements.values():
            values = [None if read is None else read(content) for read in readers]
            points.append([math.nan if value is None else float(value) for value in values])
        return points

    def pareto(self) -> list[TrialRecord]:
        """The front: feasible finished trials that no other dominates, best quality first."""
        numbers = list(self.measurements)
        kept = non_dominated(self._points(), directions(self.objectives))
        records = [self.record(numbers[index]) for index in kept]
        return sorted(records, key=lambda r: (-r.quality, r.latency.milliseconds, r.trial))

    def best(self) -> TrialRecord:
        """The trial of the front with the highest quality; of equals the faster one.

        Raises:
            InputError: no feasible trial has finished.
        """
        front = self.pareto()
        if not front:
            raise InputError(f"Study {self.name!r} has no finished trial that keeps its limits.")
        return front[0]

    def hypervolume(self) -> float:
        """Hypervolume of the feasible finished trials against `reference_point`."""
        return hypervolume(
            self._points(), reference_point(self.objectives, self.file.limits), directions(self.objectives)
        )


def load_study(name: str, storage: str | None = None) -> Study:
    """A study by name.

    Args:
        name: of the study.
        storage: URL; default `home()/studies.db`.

    Raises:
        InputError: there is none; lists those there are.
    """
    url = storage or default_url()
    found: optuna.Study | None = None
    names: list[str] = []
    if storage_exists(url):
        opened = open_storage(url)
        found, names = find_study(opened, name), study_names(opened)
    if found is None or half_made(found):
        names = [other for other in names if other != name]
        hint = closest(name, names) if names else "There are none yet: start one with `shoebox search STUDY`."
        raise InputError(f"There is no study {name!r} in {masked(url)}.", hint)
    return Study(found, url)


def list_studies(storage: str | None = None) -> list[Study]:
    """All studies of a storage that Shoebox made, by name."""
    url = storage or default_url()
    if not storage_exists(url):
        return []
    opened = open_storage(url)
    found = [find_study(opened, name) for name in study_names(opened)]
    return [Study(study, url) for study in found if study is not None and STUDY_FILE in study.user_attrs]
