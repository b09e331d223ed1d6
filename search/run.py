"""Run a search: from a study file to a study whose budget is spent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import RDBStorage

from runners.bundle_store import remove_all
from runners.cores import usable_cores
from runners.latency import LatencyMeter
from runners.task.matching import load_tasks
from search.arm_check import check_front_on_arm
from search.assignment import Proposal
from search.drivers import Drivers
from search.execution import on_cluster, run_trials
from search.ledger import Ledger
from search.lock import only_one_on_study
from search.premises import Premises
from search.progress import Display, NoDisplay
from search.propose import enqueue_proposals
from search.resuming import (
    check_bundles_own,
    check_data_unchanged,
    check_no_bundles,
    check_unchanged,
    check_warm_start,
    claim_bundles,
    data_digests,
    find_whole,
    have_moved,
    tell_other_tools,
)
from search.samplers import costs_of, fitting_sampler, study_sampler
from search.shared_ledger import SharedLedger
from search.states import RECORD
from search.storage import create_study, default_url, find_study, is_postgresql, masked, open_storage
from search.study import (
    DATA,
    OVERRIDES,
    SOURCE,
    STUDY_FILE,
    TIMED_ON,
    TIMED_WITH,
    Study,
    directions,
    half_made,
    study_folder,
)
from search.study_file import StudyFile, load_study_file, study_name
from search.warm_start import (
    AUTO,
    FINGERPRINT,
    WARM_START,
    enqueue_missing,
    fingerprint,
    known_qualities,
    older_studies,
    plan_warm_start,
    tell_agreement,
)
from search.worker import load_pipeline
from space.errors import InputError
from space.families import deployed_bytes
from space.joint import JointSpace
from space.paths import expanded

logger = logging.getLogger("shoebox.search.run")

PIPELINE = "runners.trial"
_ANOTHER = "another one by --name NAME (in Python: overrides={'name': NAME})"
_NOT_RESUMED = "Leave out --resume (in Python: resume=True) to start it."


def run_study(
    study: str | Path | StudyFile,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    storage: str | None = None,
    display: Display | None = None,
    pipeline: str | None = None,
    address: str | None = None,
    warm_start: Sequence[str] = (),
) -> Study:
    """Search until one of the study's budgets is spent.

    Args:
        study: a shipped study's name, the path of a study file, or a `StudyFile`.
        overrides: changes to the study file, by the names of `search.overrides.OVERRIDES`. A resumed study
            keeps those that it was started with.
        resume: go on with a study that was stopped or killed. More `trials` than before make it longer.
        storage: URL of the storage; default `home()/studies.db`.
        display: shows progress; nothing by default.
        pipeline: name of the module whose functions carry out a trial (`search.worker.Pipeline`); default `PIPELINE`.
        address: of a Ray cluster, `auto` or HOST:PORT (`search.cluster.connection.connected`); by default trials run
            on this machine.
        warm_start: older studies in the storage whose good configurations a new study tries first, or `auto` for the
            most similar ones. A resumed study keeps those that it was started with.

    Raises:
        InputError: a wrong study file or option; the study exists (without `resume`), does not exist (with
            it), is being searched by another process, or was changed; wrong or changed data; an unknown device;
            the limit is below the smallest student.
        OutputError: a bundle could not be written; what finished is kept, and `resume` goes on.
        KeyboardInterrupt: stopped by the user; what finished is kept, what ran is queued again.
    """
    pipeline = pipeline or PIPELINE
    url = storage or default_url()
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    for option in ("data", "device"):  # a resume may come from another folder
        if option in given and (option == "data" or str(given[option]).endswith((".yaml", ".yml"))):
            given[option] = str(expanded(given[option]).absolute())
    source = "" if isinstance(study, StudyFile) else str(study)
    # Of what a study was started with, options may be what makes its file whole.
    if isinstance(study, StudyFile) or not resume:
        name = _file(study, given).name
    else:
        name = study_name(study, given)
    opened = open_storage(url)
    existing = find_whole(opened, name)
    if existing is not None and not resume:
        raise _already_there(name, url)
    if existing is None and resume:
        raise InputError(f"There is no study {name!r} in {masked(url)} to resume.", _NOT_RESUMED)
    if existing is not None:
        check_warm_start(existing, warm_start)
        given = {**existing.user_attrs.get(OVERRIDES, {}), **given}
    file = _file(study, given)
    if existing is not None:
        check_unchanged(existing, file)
    with _sharing(file.name, url) as drivers, on_cluster(address, file, url) as cluster:
        plan = file.plan()
        # What can be wrong is said before anything slow begins: an unknown device, data that does not fit.
        if existing is None:
            check_no_bundles(file)
        else:
            check_bundles_own(existing, file)
        olds = older_studies(warm_start, file.name, opened, url) if warm_start and existing is None else []
        meter = LatencyMeter(file.device)
        if existing is not None and existing.user_attrs.get(TIMED_ON, meter.identity) != meter.identity:
            raise InputError(
                f"The device {file.device.profile} says something else than when study {file.name!r} was started.",
                f"Set its profile back to resume, or start {_ANOTHER}.",
            )
        tasks = load_tasks({name: plan.task for name, plan in file.task_plans.items()})
        digests = data_digests(file, tasks)
        if existing is not None:
            check_data_unchanged(existing, digests)
        meter.prepare()  # here, not in the workers, so that the emulator is set up once
        if existing is not None:
            tell_other_tools(existing, file.device, meter.tools)
        if cluster is not None:
            cluster.prepare(pipeline, plan)  # once, where trials run; what follows reads the shared cache
        with _all_cores():
            prepared = load_pipeline(pipeline).prepare(plan)
        space = JointSpace(file.space)
        smallest = space.smallest_bytes(prepared.shape, prepared.vocabulary)
        if smallest > file.limits.deployed_bytes:
            raise InputError(
                f"limits.deployed_bytes is {file.limits.deployed_bytes:,}, but the smallest student of this "
                f"space takes {smallest:,} bytes.",
                "Raise the limit, or let the space have smaller students (vocabulary_keep counts most).",
            )
        attributes = {
            OVERRIDES: {key: str(value) if isinstance(value, Path) else value for key, value in given.items()},
            SOURCE: source or file.name,
            DATA: digests,
            TIMED_ON: meter.identity,
            TIMED_WITH: meter.tools,
        }
        predict = load_pipeline(pipeline).cost_predictor(plan, prepared)
        attributes[FINGERPRINT] = (task := fingerprint(prepared, file.metric)).as_json()
        with nullcontext() if drivers is None else drivers.turn("starts it"):
            if existing is None and find_whole(opened, file.name) is not None:
                raise _already_there(file.name, url)  # another process has made it meanwhile
            if warm_start and existing is None:
                costs = costs_of(space, prepared.shape, prepared.vocabulary, predict)
                start = plan_warm_start(olds, file, task, space, costs, automatic=list(warm_start) == [AUTO])
                attributes[WARM_START] = start.model_dump(mode="json")
            attributes[STUDY_FILE] = file.model_dump(mode="json")  # last: what has it is whole
            resumed = existing
            existing = resumed or _make(opened, file, attributes)
            if drivers is not None:
                moved = resumed is not None and have_moved(resumed, file)
                drivers.join(existing, file.bundles, unshared(file), moved)
            claim_bundles(existing, file)
            if resumed is not None:
                for key, value in attributes.items():
                    existing.set_user_attr(key, value)
            enqueue_missing(existing)
            sampler = file.search.sampler
            if sampler == "known-cost":  # the first prediction splits the task's texts into word pieces
                foreseen = {"quality", "deployed_bytes", *predict(space.draw(np.random.default_rng(0))[0])}
                sampler = fitting_sampler(foreseen, file.objectives, file.limits.given())
            if file.search.propose is not None:
                with _all_cores():
                    premises = Premises(file.limits, file.search.seed, plan, prepared, space, predict)
                    enqueue_proposals(existing, file.search.propose, premises)
            known = (space, prepared.shape, prepared.vocabulary, file.objectives, file.limits.given(), predict)
            existing.sampler = study_sampler(sampler, file.search.seed, *known, known_qualities(existing))

            def propose(trial: optuna.Trial) -> Proposal:
                config, recipe = space.suggest(trial)
                return Proposal(config, recipe, deployed_bytes(config, prepared.shape, prepared.vocabulary))

            ledger = ledger_of(file, existing, propose, drivers)
            repeated = ledger.recover()
            # Of trials that were killed before their record was written; those of other drivers may be about to be.
            if file.bundles and (drivers is None or not drivers.others()[0]):
                trials = existing.get_trials(deepcopy=False)
                left = {f"{trial.number:05d}" for trial in trials if RECORD not in trial.user_attrs}
                remove_all(file.bundles, left)
            if repeated:
                logger.info("Trials that had not ended and are run again: %d.", repeated)
        if not ledger.exhausted:
            run_trials(file, ledger, url, pipeline, plan, display or NoDisplay(), cluster)
            tell_agreement(existing)
        if ledger.time.spent and ledger.counts.trained < ledger.budget:
            logger.info(
                "The search ends after %d of %d trials: %s is spent. Go on by --resume with more.",
                ledger.counts.trained,
                ledger.budget,
                ledger.time.spent,
            )
        ledger.close()
        with nullcontext() if drivers is None else drivers.front_turn():
            check_front_on_arm(existing, url, tasks, file.device)
    return Study(existing, url)


def _file(study: str | Path | StudyFile, given: dict[str, Any]) -> StudyFile:
    return study if isinstance(study, StudyFile) else load_study_file(study, given)


@contextlib.contextmanager
def _sharing(name: str, url: str) -> Iterator[Drivers | None]:
    """Those that search a study at a time, in PostgreSQL; elsewhere, hold the study: a second driver would take the
    first one's running trials for orphans."""
    if is_postgresql(url):
        drivers = Drivers(name, url, study_folder(name))
        try:
            yield drivers
        finally:
            drivers.leave()
        return
    refusal = f"Study {name!r} is being searched by another process right now. In PostgreSQL several may share one."
    with only_one_on_study(name, url, refusal):
        yield None


def _make(storage: RDBStorage, file: StudyFile, attributes: Mapping[str, Any]) -> optuna.Study:
    """A new study, in the place of one that a search was killed in making."""
    left = find_study(storage, file.name)
    if left is not None and half_made(left):
        optuna.delete_study(study_name=file.name, storage=storage)
    names = [file.label_of(name) for name in file.objectives]
    return create_study(storage, file.name, directions(list(file.objectives)), attributes, names)


def ledger_of(
    file: StudyFile, study: optuna.Study, propose: Callable[[Any], Proposal], drivers: Drivers | None = None
) -> Ledger:
    """The ledger of a study as its file says, shared with other drivers where there may be some."""
    settings: dict[str, Any] = {
        "study": study,
        "propose": propose,
        "limits": file.limits,
        "objectives": list(file.objectives),
        "seed": file.search.seed,
        "budget": file.search.trials,
        "bundles": study_folder(file.name) / "trials",
        "hours": file.search.hours,
        "training_hours": file.search.training_hours,
        "early_stopping": file.search.early_stopping,
        "repeats": file.search.repeats,
        "keep_bundles": file.search.keep_bundles,
    }
    return Ledger(**settings) if drivers is None else SharedLedger(**settings, drivers=drivers)


def unshared(file: StudyFile) -> str | None:
    """What of a study several drivers cannot share: files that all of them had to see, or the clock of one machine."""
    if file.search.early_stopping is not None:
        return "search.early_stopping"
    if file.device.latency == "native":
        return "device.latency: native"
    return None if file.search.keep_bundles == "all" else f"search.keep_bundles: {file.search.keep_bundles}"


def _already_there(name: str, url: str) -> InputError:
    return InputError(
        f"There is a study {name!r} in {masked(url)} already.",
        f"Go on with it by --resume (in Python: resume=True), or start {_ANOTHER}.",
    )


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use every core while the driver works alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
