"""What a study starts from, decided once and kept in the study."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna
from pydantic import BaseModel, ConfigDict, ValidationError

from search.states import FROM
from search.storage import find_study, masked, study_names
from search.study import STUDY_FILE, Study, half_made
from search.study_file import StudyFile
from search.validation import closest
from search.warm_start.adapt import flat_values
from search.warm_start.candidates import Candidate, Costs, OldTrial, Tally, candidates, diverse
from search.warm_start.fingerprint import FINGERPRINT, Fingerprint, similarity
from space.errors import InputError
from space.joint import JointSpace

logger = logging.getLogger("shoebox.search.warm_start")

AUTO = "auto"  # in place of names: the most similar studies of the storage
WARM_START = "warm_start"  # attribute of a study: its `WarmStart`
SHARE = 4  # one trial in so many may be an older study's configuration,
FEWEST = 4  # but so many may be in a small study, up to half of it
MOST_STUDIES = 4  # with `auto`
LEAST_SIMILAR = 0.05  # with `auto`
MOST_KNOWN = 64  # older qualities of a study that are kept for the sampler


class Source(BaseModel):
    """An older study: its name, how similar its task is, how many of its configurations are tried first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    similarity: float
    chosen: int


class Configuration(BaseModel):
    """A configuration to try: where it comes from, its quality there, and its parameters here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    trial: int
    quality: float
    params: dict[str, Any]


class Knowledge(BaseModel):
    """Qualities of an older study's configurations in the new space.

    Attributes:
        study: its name.
        names: of the parameters.
        rows: values in the order of the names, None where a configuration has no such parameter.
        qualities: of each row, by the older study's metric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    names: list[str]
    rows: list[list[Any]]
    qualities: list[float]

    def params(self) -> list[dict[str, Any]]:
        """Flat parameters of each row."""
        return [
            {name: value for name, value in zip(self.names, row, strict=True) if value is not None} for row in self.rows
        ]


class WarmStart(BaseModel):
    """What a study starts from.

    Attributes:
        sources: the older studies, most similar first.
        configurations: to be tried first, in this order.
        knowledge: what the sampler may learn from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: list[Source]
    configurations: list[Configuration]
    knowledge: list[Knowledge]


class OlderStudy(NamedTuple):
    """A study to start from: what may be used of it, and its task if it says."""

    name: str
    trials: list[OldTrial]
    task: Fingerprint | None


def older_studies(names: Sequence[str], new: str, storage: Any, url: str) -> list[OlderStudy]:
    """Read the studies that a new one starts from.

    Args:
        names: of studies in the storage, or `AUTO` for all that have a trial to offer.
        new: name of the new one.
        storage, url: of the studies.

    Raises:
        InputError: there is no such study, or it is the new one, or it has no finished trial that keeps its limits;
            `AUTO` beside another name.
    """
    present = [name for name in study_names(storage) if name != new]
    automatic = list(names) == [AUTO]
    if AUTO in names and not automatic and AUTO not in present:
        raise InputError(
            f"--warm-start: {AUTO} chooses among all older studies, so that it stands alone.",
            f"Leave out the others, or {AUTO}.",
        )
    found = []
    for name in present if automatic else dict.fromkeys(names):
        if name == new:
            raise InputError(f"--warm-start: {name!r} is the study that is to be started.", "Name older ones.")
        study = find_study(storage, name)
        if study is None or half_made(study) or (automatic and STUDY_FILE not in study.user_attrs):
            if automatic:
                continue
            hint = closest(name, present) if present else "There are none yet."
            raise InputError(f"--warm-start: there is no study {name!r} in {masked(url)}.", hint)
        trials = old_trials(Study(study, url))
        if trials:
            found.append(OlderStudy(name, trials, _fingerprint(study.user_attrs)))
        elif not automatic:
            raise InputError(f"--warm-start: study {name!r} has no finished trial that keeps its limits.")
    return found


def plan_warm_start(
    olds: Sequence[OlderStudy], file: StudyFile, task: Fingerprint, space: JointSpace, costs: Costs, automatic: bool
) -> WarmStart:
    """Choose what a new study tries first; logs it in two lines.

    Args:
        olds: what it may start from.
        file: of the new study.
        task: the new study's.
        space: of the new study.
        costs: of its configurations, exact or predicted.
        automatic: leave out all but a few similar ones.
    """
    similarities = {old.name: similarity(task, old.task) for old in olds}
    best = sorted(olds, key=lambda old: (-similarities[old.name], old.name))
    if automatic:
        best = [old for old in best if similarities[old.name] >= LEAST_SIMILAR][:MOST_STUDIES]
    return choose_start(
        {old.name: (similarities[old.name], old.trials) for old in best},
        space,
        costs,
        file.objectives,
        file.limits.given(),
        file.search.trials,
    )


def choose_start(
    olds: dict[str, tuple[float, Sequence[OldTrial]]],
    space: JointSpace,
    costs: Costs,
    objectives: Sequence[str],
    limits: dict[str, float],
    budget: int,
) -> WarmStart:
    """The same for older studies that were read: similarity and trials by name, in the order of their turn."""
    tally = Tally()
    found = {
        name: candidates(name, trials, space, costs, objectives, limits, tally) for name, (_, trials) in olds.items()
    }
    chosen = _share_out(found, {name: value for name, (value, _) in olds.items()}, most_tried(budget))
    sources = [
        Source(study=name, similarity=value, chosen=sum(c.study == name for c in chosen))
        for name, (value, _) in olds.items()
    ]
    _tell(sources, tally)
    return WarmStart(
        sources=sources,
        configurations=[
            Configuration(study=c.study, trial=c.number, quality=c.quality, params=dict(c.params)) for c in chosen
        ],
        knowledge=[_knowledge(name, some) for name, some in found.items() if some],
    )


def most_tried(budget: int) -> int:
    """How many older configurations a study of so many trials may try first."""
    return max(math.ceil(budget / SHARE), min(FEWEST, budget // 2))


def old_trials(study: Study) -> list[OldTrial]:
    """Feasible finished trials of an older study; none if another version made it."""
    try:
        records = study.records()
    except InputError:
        logger.warning("Study %s was made by another version of Shoebox and is left out of the warm start.", study.name)
        return []
    return [OldTrial(record.trial, flat_values(record.config, record.recipe), record.quality) for record in records]


def enqueue_missing(study: optuna.Study) -> int:
    """Queue those configurations of the study's warm start that were not yet, ahead of all proposals.

    Each trial says which one it is, so that a search that was killed in between, or is resumed, queues none twice.

    Returns:
        How many were queued.
    """
    stored = study.user_attrs.get(WARM_START)
    if stored is None:
        return 0
    queued = {t.user_attrs[FROM]["place"] for t in study.get_trials(deepcopy=False) if FROM in t.user_attrs}
    count = 0
    for place, configuration in enumerate(WarmStart.model_validate(stored).configurations):
        if place not in queued:
            origin = {"study": configuration.study, "trial": configuration.trial, "place": place}
            study.enqueue_trial(configuration.params, user_attrs={FROM: origin})
            count += 1
    return count


def known_qualities(study: optuna.Study) -> list[tuple[float, list[dict[str, Any]], list[float]]]:
    """For the sampler: similarity, flat parameters and qualities of every older study that a study started from."""
    stored = study.user_attrs.get(WARM_START)
    if stored is None:
        return []
    start = WarmStart.model_validate(stored)
    weights = {source.study: source.similarity for source in start.sources}
    return [(weights[known.study], known.params(), known.qualities) for known in start.knowledge]


def _fingerprint(attributes: dict[str, Any]) -> Fingerprint | None:
    try:
        return Fingerprint.model_validate(attributes[FINGERPRINT])
    except (KeyError, ValidationError):  # it was made before there were any
        return None


def _share_out(found: dict[str, list[Candidate]], weights: dict[str, float], count: int) -> list[Candidate]:
    """So many candidates, each study's share after its similarity; the most similar study's come first."""
    total = sum(max(weights[name], 1e-6) for name in found) or 1.0
    chosen: list[Candidate] = []
    taken: set[tuple[tuple[str, Any], ...]] = set()
    left = count
    for name, some in found.items():
        share = math.ceil(count * max(weights[name], 1e-6) / total)
        fresh = [c for c in some if tuple(sorted(c.params.items())) not in taken]
        mine = diverse(fresh, min(share, left))
        taken |= {tuple(sorted(c.params.items())) for c in mine}
        chosen += mine
        left = count - len(chosen)
    return chosen


def _knowledge(study: str, some: Sequence[Candidate]) -> Knowledge:
    # Where there are too many, the best and the worst of them and all between, evenly.
    order = sorted(some, key=lambda c: (-c.quality, c.number))
    kept = [order[round(i)] for i in (_evenly(len(order), MOST_KNOWN))]
    names = sorted({name for c in kept for name in c.params})
    return Knowledge(
        study=study,
        names=names,
        rows=[[c.params.get(name) for name in names] for c in kept],
        qualities=[c.quality for c in kept],
    )


def _evenly(length: int, most: int) -> list[float]:
    if length <= most:
        return [float(i) for i in range(length)]
    return [i * (length - 1) / (most - 1) for i in range(most)]


def _tell(sources: Sequence[Source], tally: Tally) -> None:
    if not sources:
        logger.info("Warm start: no study in the storage is similar enough; this one starts cold.")
        return
    if any(source.chosen for source in sources):
        parts = ", ".join(f"{s.chosen} of {s.study} (similarity {s.similarity:.2f})" for s in sources)
        logger.info("Warm start: configurations of older studies are tried first: %s.", parts)
    else:
        names = ", ".join(source.study for source in sources)
        logger.warning("Warm start: no trial of %s is of use here; this study starts cold.", names)
    remarks = []
    if tally.infeasible:
        remarks.append(f"{tally.infeasible} break a limit here")
    if tally.unfit:
        remarks.append(f"{tally.unfit} cannot be built in this space")
    if tally.moved:
        remarks.append(f"{sum(tally.moved.values())} values were moved into this space ({_most(tally.moved)})")
    if tally.filled:
        remarks.append(f"{sum(tally.filled.values())} missing ones have its first value ({_most(tally.filled)})")
    if remarks:
        logger.info("Of their %d trials, %s.", tally.trials, "; ".join(remarks))


def _most(counts: dict[str, int]) -> str:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
