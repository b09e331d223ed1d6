"""A study of the storage as text, and back.

`study.json` holds directions and attributes, `trials.jsonl` one trial a line with all that Optuna knows of it. What
differs from place to place is left out: the study's name stands in the manifest, and a record's bundle is named by its
folder below the study's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from objectives.pareto import Direction
from search.states import DRIVERS, RECORD
from search.study import BUNDLES_OWNER, IMPORTED, OVERRIDES, STUDY_FILE
from search.trial_reader import described
from space.errors import InputError

_NAME = "name"
_STEPS = 2**31  # what an integer of a database holds
_STATES = "^(RUNNING|COMPLETE|PRUNED|FAIL|WAITING)$"


class StudyContent(BaseModel):
    """What `study.json` holds.

    Attributes:
        directions: of the objectives.
        attributes, system_attributes: the study's own, and Optuna's.
        distributions: all that occur, as Optuna writes them; trials name them by their place in this list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directions: list[Direction] = Field(min_length=1)
    attributes: dict[str, Any]
    system_attributes: dict[str, Any]
    distributions: list[Any]


class TrialContent(BaseModel):
    """A line of `trials.jsonl`.

    Attributes:
        number: of the trial; the lines are in this order, from 0.
        state: in Optuna's words.
        values: of the objectives, or None.
        params: values by name.
        distributions: place in the study's list, by name of the parameter.
        attributes, system_attributes: the trial's own, and Optuna's (constraints among them).
        intermediate: values by step.
        started, ended: local time without a zone, as Optuna keeps them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    state: Annotated[str, Field(pattern=_STATES)]
    values: list[float] | None
    params: dict[str, int | float | str]
    distributions: dict[str, Annotated[int, Field(ge=0)]]
    attributes: dict[str, Any]
    system_attributes: dict[str, Any]
    intermediate: dict[Annotated[int, Field(ge=-_STEPS, lt=_STEPS)], float]
    started: datetime | None
    ended: datetime | None


def bundle_name(number: int) -> str:
    """Folder of a trial's bundle, below that of its study."""
    return f"trials/{number:05d}"


def contents(study: optuna.Study) -> tuple[StudyContent, list[TrialContent]]:
    """All that the storage holds of a study."""
    distributions: dict[str, int] = {}
    trials = []
    for trial in study.get_trials(deepcopy=False):
        places = {
            name: distributions.setdefault(distribution_to_json(distribution), len(distributions))
            for name, distribution in trial.distributions.items()
        }
        attributes = {key: trial.user_attrs[key] for key in sorted(trial.user_attrs)}
        if RECORD in attributes:
            attributes[RECORD] = {**attributes[RECORD], "bundle": bundle_name(trial.number)}
        trials.append(
            TrialContent(
                number=trial.number,
                state=trial.state.name,
                values=trial.values,
                params=dict(trial.params),
                distributions=places,
                attributes=attributes,
                system_attributes={key: trial.system_attrs[key] for key in sorted(trial.system_attrs)},
                intermediate=dict(trial.intermediate_values),
                started=trial.datetime_start,
                ended=trial.datetime_complete,
            )
        )
    told = {key: value for key, value in sorted(study.user_attrs.items()) if key not in (IMPORTED, BUNDLES_OWNER)}
    attributes = _named({key: value for key, value in told.items() if not key.startswith(DRIVERS)}, None)
    directions: list[Direction] = ["maximize" if d.name == "MAXIMIZE" else "minimize" for d in study.directions]
    return (
        StudyContent(
            directions=directions,
            attributes=attributes,
            system_attributes=dict(sorted(study._storage.get_study_system_attrs(study._study_id).items())),
            distributions=[json.loads(text) for text in distributions],
        ),
        trials,
    )


def attributes_for(content: StudyContent, name: str) -> dict[str, Any]:
    """The attributes of a study of that name."""
    return _named(content.attributes, name)


def _named(attributes: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Attributes with another name of the study where they tell it, or with none."""
    found = dict(attributes)
    if isinstance(found.get(STUDY_FILE), Mapping):
        rest = {key: value for key, value in found[STUDY_FILE].items() if key != _NAME}
        found[STUDY_FILE] = rest if name is None else {_NAME: name, **rest}
    # A study is resumed with the options that it was made with, and the name may be one of them.
    if isinstance(found.get(OVERRIDES), Mapping):
        rest = {key: value for key, value in found[OVERRIDES].items() if key != _NAME}
        found[OVERRIDES] = rest if name is None else {**rest, _NAME: name}
    return found


def frozen_trial(trial: TrialContent, distributions: Sequence[Any], folder: Path) -> FrozenTrial:
    """A trial as Optuna takes it.

    Args:
        trial: from an archive.
        distributions: of its study.
        folder: of the study that it goes into, where its bundle is.

    Raises:
        InputError: it contradicts itself.
    """
    attributes = dict(trial.attributes)
    try:
        if RECORD in attributes:
            if attributes[RECORD]["bundle"] != bundle_name(trial.number):
                raise ValueError(f"its bundle is {attributes[RECORD]['bundle']!r}, not {bundle_name(trial.number)!r}")
            attributes[RECORD] = {**attributes[RECORD], "bundle": str(folder / bundle_name(trial.number))}
        found = FrozenTrial(
            number=trial.number,
            state=TrialState[trial.state],
            value=None,
            values=trial.values,
            datetime_start=trial.started,
            datetime_complete=trial.ended,
            params=dict(trial.params),
            distributions={
                name: described(json.dumps(distributions[place]))  # one object for all trials
                for name, place in trial.distributions.items()
            },
            user_attrs=attributes,
            system_attrs=trial.system_attributes,
            intermediate_values=trial.intermediate,
            trial_id=trial.number,
        )
        _check(found)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error).rstrip(".")
        raise InputError(f"Trial {trial.number} of the archive contradicts itself: {reason}.") from None
    return found


def _check(trial: FrozenTrial) -> None:
    """Optuna's own check, which asks of all that did not wait when they began.

    What is withdrawn from the queue has ended but never began.

    Raises:
        ValueError: it contradicts itself.
    """
    began = trial.datetime_start
    if trial.state == TrialState.FAIL and began is None:
        trial.datetime_start = trial.datetime_complete
    trial._validate()
    trial.datetime_start = began


def study_text(content: StudyContent) -> bytes:
    return _encoded(json.dumps(content.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def trials_text(trials: Sequence[TrialContent]) -> bytes:
    return _encoded("".join(json.dumps(_plain(trial), ensure_ascii=False) + "\n" for trial in trials))


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # of an unpaired surrogate: JSON's own escape


def _plain(trial: TrialContent) -> dict[str, Any]:
    found = dict(trial)
    for name in ("started", "ended"):
        found[name] = found[name].isoformat() if found[name] is not None else None
    return found


def read_contents(study: bytes, trials: bytes, source: str) -> tuple[StudyContent, list[TrialContent]]:
    """Inverse of `study_text` and `trials_text`.

    Raises:
        InputError: they are not what these write (names the member, and the line).
    """
    where = "study.json"
    try:
        content = StudyContent.model_validate(json.loads(study))
        found = []
        for number, line in enumerate(_lines(trials)):
            where = f"trials.jsonl, line {number + 1}"
            found.append(TrialContent.model_validate(json.loads(line)))
            if found[-1].number != number:
                raise ValueError(f"holds trial {found[-1].number}, not {number}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        else:
            reason = str(error)
        raise InputError(f"{source}: {where}: {reason}.", "Another version of Shoebox may have written it.") from None
    return content, found


def _lines(text: bytes) -> Iterator[bytes]:
    yield from text.splitlines()
