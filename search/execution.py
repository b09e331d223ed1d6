"""Ray Tune carries out the trials that the ledger hands out, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.cores import usable_cores
from search.ledger import Ledger
from search.progress import Display, Monitor
from search.states import State
from search.study_file import StudyFile
from search.warm_start import withdraw

if TYPE_CHECKING:
    from search.cluster.connection import Cluster
    from search.local_ray import Session


@contextlib.contextmanager
def on_cluster(address: str | None, file: StudyFile, url: str) -> Iterator[Cluster | None]:
    """The cluster at an address, connected and checked before anything slow begins; None without an address."""
    if address is None:
        yield None
        return
    from search.cluster.connection import connected

    with connected(address, file, url) as cluster:
        yield cluster


def run_trials(
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
                if state == "finished" and ledger.counts.waiting:
                    with ledger.turn():
                        withdrawn = withdraw(ledger.study)
                    ledger.counts.add("waiting", -withdrawn)
                    ledger.counts.add("orphaned", withdrawn)
                monitor(number, state)

            searcher = StudySearcher(ledger, url, min(session.workers, file.search.trials), on_change)
            settings = WorkerSettings(pipeline, plan, url, session.threads, tuple(sys.path), file.bundles)
            _tune(TrialWorker, settings, searcher, session.folder, file.search.resources)
            if searcher.failure is not None:
                raise searcher.failure
            if ledger.exhausted:
                ledger.close(monitor)
    except BaseException:
        # Ray and its workers are gone by now: settle what they finished, queue the rest for a resume.
        ledger.recover()
        ledger.time.keep()
        raise
    finally:
        display.stop()
    if not ledger.exhausted:
        raise RuntimeError("Ray Tune stopped before the budget of the study was spent")


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
