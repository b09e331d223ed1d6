"""Run a search: Ray Tune carries out the trials that the ledger hands out."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch

from runners.bundle_store import names, remove_others
from runners.cores import usable_cores
from runners.latency import LatencyMeter
from runners.task import load_task
from search.arm_check import check_front_on_arm
from search.assignment import Proposal
from search.ledger import Ledger
from search.lock import only_one
from search.progress import Display, Monitor, NoDisplay
from search.propose import enqueue_proposals
from search.samplers import study_sampler
from search.states import RECORD, State
from search.storage import create_study, default_url, find_study, masked, open_storage
from search.study import OVERRIDES, SOURCE, STUDY_FILE, TIMED_ON, Study, directions, half_made, read_file, study_folder
from search.study_file import StudyFile, load_study_file
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
    withdraw,
)
from search.worker import load_pipeline
from space.errors import InputError
from space.families import deployed_bytes
from space.joint import JointSpace

if TYPE_CHECKING:
    from search.cluster.connection import Cluster
    from search.local_ray import Session

logger = logging.getLogger("shoebox.search.run")

PIPELINE = "runners.trial"
# What may change when a study is resumed: how long it is, what is kept of it, and where it runs.
_LENGTH = ("trials", "hours", "training_hours", "repeats")
_PLACE = ("workers", "cpus_per_trial", "gpus_per_trial", "keep_bundles")
# Bits can be guided by what was found: proposals that are asked for later are queued then.
_LATER = ("propose", "propose.guided_bits")
_MAY_CHANGE = {"description", *(f"search.{name}" for name in (*_LENGTH, *_PLACE, *_LATER))}


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
        overrides: changes to the study file, by the names of `search.study_file.OVERRIDES`. A resumed study
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
            it), is being searched by another process, or was changed; wrong data; an unknown device; the
            limit is below the smallest student.
        OutputError: a bundle could not be written; what finished is kept, and `resume` goes on.
        KeyboardInterrupt: stopped by the user; what finished is kept, what ran is queued again.
    """
    pipeline = pipeline or PIPELINE
    url = storage or default_url()
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    if str(given.get("device")).endswith((".yaml", ".yml")):  # a resume may come from another folder
        given["device"] = str(Path(given["device"]).expanduser().absolute())
    source = "" if isinstance(study, StudyFile) else str(study)
    file = study if isinstance(study, StudyFile) else load_study_file(study, given)
    opened = open_storage(url)
    existing = _find_whole(opened, file.name)
    if existing is not None and not resume:
        raise InputError(
            f"There is a study {file.name!r} in {masked(url)} already.",
            "Go on with it by --resume, or start another one by --name NAME.",
        )
    if existing is None and resume:
        raise InputError(
            f"There is no study {file.name!r} in {masked(url)} to resume.", "Leave out --resume to start it."
        )
    if warm_start and existing is not None and WARM_START not in existing.user_attrs:
        raise InputError(
            f"Study {file.name!r} was started without --warm-start.", "Resume it without, or start another one."
        )
    if existing is not None:
        given = {**existing.user_attrs.get(OVERRIDES, {}), **given}
        file = study if isinstance(study, StudyFile) else load_study_file(study, given)
        _check_unchanged(existing, file)
    with _only_driver(file.name), _on_cluster(address, file, url) as cluster:
        plan = file.plan()
        # What can be wrong is said before anything slow begins: an unknown device, data that does not fit.
        if existing is None:
            _check_no_bundles(file)
        olds = older_studies(warm_start, file.name, opened, url) if warm_start and existing is None else []
        meter = LatencyMeter(file.device)
        if existing is not None and existing.user_attrs.get(TIMED_ON, meter.identity) != meter.identity:
            raise InputError(
                f"The device {file.device.profile} says something else than when study {file.name!r} was started.",
                "Set its profile back to resume, or start another study by --name NAME.",
            )
        tasks = {name: load_task(plan.task) for name, plan in file.task_plans.items()}
        meter.prepare()  # here, not in the workers, so that the emulator is set up once
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
            STUDY_FILE: file.model_dump(mode="json"),
            OVERRIDES: {key: str(value) if isinstance(value, Path) else value for key, value in given.items()},
            SOURCE: source or file.name,
            TIMED_ON: meter.identity,
        }
        predict = load_pipeline(pipeline).cost_predictor(plan, prepared)
        attributes[FINGERPRINT] = (task := fingerprint(prepared, file.metric)).as_json()
        if warm_start and existing is None:

            def costs(params: Mapping[str, Any]) -> dict[str, float]:
                config = space.config_from(params)
                size = deployed_bytes(config, prepared.shape, prepared.vocabulary)
                return {**predict(config), "deployed_bytes": size}

            start = plan_warm_start(olds, file, task, space, costs, automatic=list(warm_start) == [AUTO])
            attributes = {WARM_START: start.model_dump(mode="json"), **attributes}
        if existing is None:
            left = find_study(opened, file.name)
            if left is not None and half_made(left):
                optuna.delete_study(study_name=file.name, storage=opened)
            names = [file.label_of(name) for name in file.objectives]
            existing = create_study(opened, file.name, directions(list(file.objectives)), attributes, names)
        else:
            for key, value in attributes.items():
                existing.set_user_attr(key, value)
        enqueue_missing(existing)
        if file.search.sampler == "known-cost":
            foreseen = {"quality", "deployed_bytes", *predict(space.draw(np.random.default_rng(0))[0])}
            if unknown := {*file.objectives, *file.limits.given()} - foreseen:
                logger.warning("known-cost cannot foresee %s here and leaves it out.", ", ".join(sorted(unknown)))
        if file.search.propose is not None:
            with _all_cores():
                enqueue_proposals(
                    existing, file.search.propose, file.limits, file.search.seed, plan, prepared, space, predict
                )
        known = (space, prepared.shape, prepared.vocabulary, file.objectives, file.limits.given(), predict)
        existing.sampler = study_sampler(file.search.sampler, file.search.seed, *known, known_qualities(existing))

        def propose(trial: optuna.Trial) -> Proposal:
            config, recipe = space.suggest(trial)
            return Proposal(config, recipe, deployed_bytes(config, prepared.shape, prepared.vocabulary))

        ledger = Ledger(
            study=existing,
            propose=propose,
            limits=file.limits,
            objectives=list(file.objectives),
            seed=file.search.seed,
            budget=file.search.trials,
            bundles=study_folder(file.name) / "trials",
            hours=file.search.hours,
            training_hours=file.search.training_hours,
            early_stopping=file.search.early_stopping,
            repeats=file.search.repeats,
            keep_bundles=file.search.keep_bundles,
        )
        repeated = ledger.recover()
        if file.bundles:  # of trials that were killed before their record was written
            trials = existing.get_trials(deepcopy=False)
            remove_others(file.bundles, {f"{trial.number:05d}" for trial in trials if RECORD in trial.user_attrs})
        if repeated:
            logger.info("Trials that had not ended and are run again: %d.", repeated)
        if not ledger.exhausted:
            _run(file, ledger, url, pipeline, plan, display or NoDisplay(), cluster)
            tell_agreement(existing)
        ledger.close()
        check_front_on_arm(existing, url, tasks, file.device)
    return Study(existing, url)


def _run(
    file: StudyFile, ledger: Ledger, url: str, pipeline: str, plan: Any, display: Display, cluster: Cluster | None
) -> None:
    """Run Ray Tune on a ledger until its budget is spent."""
    monitor = Monitor(ledger, list(file.objectives), file.limits, file.metric, display)
    display.start(file.name)
    try:
        with _ray(file, cluster) as session:
            from search.searcher import StudySearcher
            from search.worker import TrialWorker, WorkerSettings

            def on_change(number: int | None, state: State | None) -> None:
                if state == "finished" and (withdrawn := withdraw(ledger.study)):
                    ledger.counts.waiting -= withdrawn
                    ledger.counts.orphaned += withdrawn
                monitor(number, state)

            searcher = StudySearcher(ledger, url, min(session.workers, file.search.trials), on_change)
            settings = WorkerSettings(pipeline, plan, url, session.threads, tuple(sys.path), file.bundles)
            _tune(TrialWorker, settings, searcher, session.folder, file.search.resources)
            if searcher.failure is None and ledger.exhausted:
                ledger.close(monitor)
    except BaseException:
        # Ray and its workers are gone by now: settle what they finished, queue the rest for a resume.
        ledger.recover()
        raise
    finally:
        display.stop()
    if searcher.failure is not None:
        ledger.recover()
        raise searcher.failure
    if not ledger.exhausted:
        raise RuntimeError("Ray Tune stopped before the budget of the study was spent")


@contextlib.contextmanager
def _on_cluster(address: str | None, file: StudyFile, url: str) -> Iterator[Cluster | None]:
    """The cluster at an address, connected and checked before anything slow begins; None without an address."""
    if address is None:
        yield None
        return
    from search.cluster.connection import connected

    with connected(address, file, url) as cluster:
        yield cluster


@contextlib.contextmanager
def _ray(file: StudyFile, cluster: Cluster | None) -> Iterator[Session]:
    """A Ray of this machine's own, unless a cluster is connected."""
    if cluster is not None:
        try:
            yield cluster.session
        except BaseException:
            cluster.stop()  # what comes next takes the workers for gone
            raise
        return
    # Ray takes more than a second to import: only a search pays for it.
    from search.local_ray import local_ray

    # By the clock, one trial's training would disturb another one's timing.
    most = 1 if file.device.latency == "native" else file.search.worker_count()
    workers = min(most, file.search.trials)
    with local_ray(workers, max(1, usable_cores() // workers), file.search.cpus_per_trial) as session:
        if file.search.gpus_per_trial > 0:
            from search.cluster.nodes import alive_nodes, trials_at_once

            trials_at_once(alive_nodes(), file.search.cpus_per_trial, file.search.gpus_per_trial)
        yield session


def _tune(worker: type, settings: Any, searcher: Any, folder: Path, resources: dict[str, float]) -> None:
    from ray import tune

    from search.scheduler import RungScheduler

    tune.Tuner(
        tune.with_resources(tune.with_parameters(worker, settings=settings), resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RungScheduler(searcher),
            num_samples=-1,  # the searcher says when it is over
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()


@contextlib.contextmanager
def _only_driver(name: str) -> Iterator[None]:
    """Hold the study's lock: a second driver would take the first one's running trials for orphans."""
    refusal = f"Study {name!r} is being searched by another process right now."
    with only_one(study_folder(name) / "driver.lock", refusal):
        yield


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Let torch use every core while the driver works alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _find_whole(storage: Any, name: str) -> optuna.Study | None:
    """The study of that name; one that a search was killed in making counts as none."""
    found = find_study(storage, name)
    return None if found is None or half_made(found) else found


def _check_no_bundles(file: StudyFile) -> None:
    """A new study must not write over the bundles of another one, in another storage or deleted."""
    folder = study_folder(file.name) / "trials"
    if (folder.is_dir() and any(folder.iterdir())) or (file.bundles and names(file.bundles)):
        raise InputError(
            f"{file.bundles or folder} holds bundles of another study named {file.name!r}.",
            "Remove that folder, or start this study by --name NAME.",
        )


def _check_unchanged(existing: optuna.Study, file: StudyFile) -> None:
    """Refuse to resume a study whose file says something else by now, budget and workers aside."""
    before = existing.user_attrs.get(STUDY_FILE)
    if before is None:
        raise InputError(f"{existing.study_name!r} is an Optuna study that Shoebox did not make.")
    # Through the model, so that a default which a newer Shoebox added is no difference.
    before = read_file(existing.study_name, before).model_dump(mode="json")
    changed = [path for path in _differences(before, file.model_dump(mode="json")) if path not in _MAY_CHANGE]
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
