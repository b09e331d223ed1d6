"""A private Ray on this machine for one search, without a word on the screen and nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil
import ray

from search.processes import is_running

# An AF_UNIX path has at most 107 characters; Ray adds up to 70 to its folder and ours has up to 25.
LONGEST_TEMPORARY_FOLDER = 12
PATIENCE = 5.0  # seconds until killed processes are gone, and what they wrote
OBJECT_STORE_BYTES = 100 * 2**20  # only settings and assignments go through it

# How many workers Tune starts at a time. By its own choice it is one, so that a thousand would take hours.
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no result files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the storage is the checkpoint
    "TUNE_WARN_THRESHOLD_S": "1000000000",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # GPUs stay visible to workers that reserve none
    "RAY_worker_niceness": "0",  # workers are the search: at Ray's 15 they starve beside any other job
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads steal from the other workers
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Session:
    """A Ray that is ready for a search.

    Attributes:
        folder: for Ray Tune's files; every worker can write there.
        workers: trials at a time.
        threads: torch threads per worker.
    """

    folder: Path
    workers: int
    threads: int


@contextlib.contextmanager
def local_ray(workers: int, threads: int, cpus: float = 1.0) -> Iterator[Session]:
    """Start Ray with `cpus` CPUs per worker, as Ray counts them, and stop it at the end.

    Workers inherit this process's environment, with `threads` OpenMP threads each. If the calling program
    has started Ray itself, that one is used and left running.
    """
    changes = {**ENVIRONMENT, PENDING: str(workers), "OMP_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    folder = _temporary_folder()
    started = False
    try:
        if not ray.is_initialized():
            with quiet(), own_signals():
                ray.init(
                    address="local",
                    num_cpus=ceil(workers * cpus),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                )
            started = True
        with quiet():
            yield Session(folder / "tune", workers, threads)
    finally:
        if started:
            processes = _raylet_processes()
            with own_signals():
                ray.shutdown()
            _kill(processes)
        _remove(folder)
        restore_environment(before)


def restore_environment(before: Mapping[str, str | None]) -> None:
    """Give environment variables the values that they had; None for those that were not set."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Put back the SIGTERM handler that Ray replaces, at its start and at its end; the caller's may end the search in
    order."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray's own log lines and its copies of worker errors off the screen."""
    ray_logger = logging.getLogger("ray")
    level = ray_logger.level
    ray_logger.setLevel(logging.CRITICAL + 1)
    # Ray prints "(raylet) A worker died ..." to the driver's screen even with log_to_driver=False. The
    # searcher records a dead worker as its trial's error, so the print is dropped.
    worker_module = ray._private.worker
    print_to_stream = getattr(worker_module, "print_to_stdstream", None)
    if print_to_stream is not None:
        worker_module.print_to_stdstream = lambda *arguments, **options: None
    try:
        yield
    finally:
        ray_logger.setLevel(level)
        if print_to_stream is not None:
            worker_module.print_to_stdstream = print_to_stream


def _raylet_processes() -> list[psutil.Process]:
    """The raylets that this process has started, and all that descends from them: agents, workers, what those run."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "raylet":
                found += [child, *child.children(recursive=True)]
    return found


def _kill(processes: Sequence[psutil.Process]) -> None:
    """Kill what still runs of them.

    Ray gives a raylet one second to end in order, then kills it; its agents and workers go on for a while, keep cores
    busy and write to a folder that is being removed.
    """
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=PATIENCE)


def _remove(folder: Path) -> None:
    """Remove a folder, again and again if something is still writing there; what is left then is the next search's."""
    until = time.monotonic() + PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_folder() -> Path:
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_TEMPORARY_FOLDER:
        base = Path("/tmp")
    _remove_leftovers(base)
    return Path(tempfile.mkdtemp(prefix=f"shoebox-{os.getpid()}-", dir=base))


def _remove_leftovers(base: Path) -> None:
    """Remove the folders of searches that were killed."""
    for folder in base.glob("shoebox-*-*"):
        owner = folder.name.split("-")[1]
        if owner.isdigit() and folder.is_dir() and not is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
