"""A search on a Ray cluster that is there already: connect, check, and give trials their share of it."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from search.cluster.nodes import Node, alive_nodes, check_nodes, trials_at_once
from search.local_ray import ENVIRONMENT, PENDING, Session, own_signals, quiet, restore_environment
from search.storage import STORAGE, is_sqlite, masked
from search.study_file import StudyFile
from space.errors import InputError
from space.paths import cache, home

logger = logging.getLogger("shoebox.search.cluster")

ANSWER_SECONDS = 10.0
LEFTOVER_SECONDS = 7 * 24 * 3600  # a search that wrote nothing for so long is dead
HERE = "auto"  # the cluster that this machine belongs to


@dataclass(frozen=True)
class Cluster:
    """A connected cluster whose hosts have been checked for a study.

    Attributes:
        session: where and how trials run.
        cpus, gpus: of one trial.
        ours: whether this search connected to it.
    """

    session: Session
    cpus: float
    gpus: float
    ours: bool

    def prepare(self, pipeline: str, plan: Any) -> None:
        """Fill the shared cache (teacher, its outputs) once, on a host that has what a trial gets.

        Raises:
            InputError: as the pipeline's `prepare`.
        """
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=2)(_fill_cache)
        try:
            ray.get(task.remote(pipeline, plan))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:  # it has been tried on other hosts
            reason = " ".join(str(error).split())
            raise InputError(f"No host of the cluster got the teacher and its outputs ready: {reason[:300]}") from None

    def stop(self) -> None:
        """End this search's workers, unless the calling program had connected itself."""
        if self.ours:
            with own_signals():
                ray.shutdown()


def _fill_cache(pipeline: str, plan: Any) -> None:
    from search.worker import load_pipeline

    load_pipeline(pipeline).prepare(plan)


@contextlib.contextmanager
def connected(address: str, file: StudyFile, url: str) -> Iterator[Cluster]:
    """Connect to a cluster for one search. If the calling program is connected already, that is used and kept.

    Workers get this process's SHOEBOX_... variables, with the folders as absolute paths; the storage's URL goes to
    them by itself, for variables are shown in Ray's dashboard.

    Args:
        address: `auto` for the cluster that this machine belongs to, or HOST:PORT of its head (port 6379).
        file: the study.
        url: of its storage.

    Raises:
        InputError: no cluster answers; a SQLite storage or native latency with several hosts; too little for a trial;
            a host does not see what it has to.
    """
    host_and_port = _checked(address)
    threads = max(1, int(file.search.cpus_per_trial))
    environment = worker_environment(threads)
    changes = {**ENVIRONMENT, "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
    before = {name: os.environ.get(name) for name in (*changes, PENDING)}
    os.environ.update(changes)
    started = False
    folder = cache() / "tune" / f"{file.name}-{uuid.uuid4().hex[:12]}"
    try:
        if not ray.is_initialized():
            _connect(address, host_and_port, environment)
            started = True
        nodes = [node for node in alive_nodes() if node.cpus > 0]
        _check_suits(file, url, nodes)
        fit = trials_at_once(nodes, file.search.cpus_per_trial, file.search.gpus_per_trial)
        # More workers than fit today are the user's word: a cluster that grows starts hosts for those that wait.
        workers = 1 if file.device.latency == "native" else file.search.workers or fit
        with quiet():
            shared = [cache()] if file.bundles else [home(), cache()]
            check_nodes(nodes, shared, named_paths(file.plan().model_dump(mode="json")), url)
            _remove_leftovers(folder.parent)
            logger.info("Ray cluster: %d hosts, %d trials at a time.", len(nodes), workers)
            session = Session(folder, workers, threads)
            os.environ[PENDING] = str(workers)
            yield Cluster(session, file.search.cpus_per_trial, file.search.gpus_per_trial, ours=started)
    finally:
        if started:
            with own_signals():
                ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        restore_environment(before)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables of workers on other hosts: those that start a local worker, and the user's for Shoebox."""
    given = {name: value for name, value in os.environ.items() if name.startswith("SHOEBOX_") and name != STORAGE}
    ours = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("TUNE_")}
    folders = {"SHOEBOX_HOME": str(home()), "SHOEBOX_CACHE": str(cache())}
    return {**ours, **given, **folders, "OMP_NUM_THREADS": str(threads)}


def named_paths(section: Any) -> list[str]:
    """Absolute paths anywhere in a study that exist here, and so have to exist on every host."""
    if isinstance(section, Mapping):
        return sorted({path for value in section.values() for path in named_paths(value)})
    if isinstance(section, (list, tuple)):
        return sorted({path for value in section for path in named_paths(value)})
    # A text of the study may begin with a slash, and be too long for a path.
    with contextlib.suppress(OSError, ValueError):
        if isinstance(section, str) and section.startswith("/") and Path(section).exists():
            return [section]
    return []


def _checked(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None for `auto`."""
    if address == HERE:
        return None
    scheme, separator, _ = address.partition("://")
    if separator:
        submit = "Use `shoebox submit` from outside the cluster, or --address auto on one of its machines."
        raise InputError(f"--address {scheme}://... is no address of a Ray cluster.", submit)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--address: {address!r} is not HOST:PORT.", "Write auto, or the head's, as in 10.0.0.1:6379.")
    return host.strip("[]"), int(port)


def _connect(address: str, host_and_port: tuple[str, int] | None, environment: dict[str, str]) -> None:
    hint = (
        "Run this on a machine of the cluster (ray start --address=HEAD:6379 makes it one), "
        "or hand the study over with `shoebox submit`."
    )
    if host_and_port is not None:  # Ray itself would try for minutes
        try:
            socket.create_connection(host_and_port, ANSWER_SECONDS).close()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"No Ray cluster answers at {address}: {reason}.", hint) from None
    try:
        with quiet(), own_signals():
            ray.init(
                address=address,
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split(". ")[0].split())
        raise InputError(f"There is no connection to a Ray cluster at {address}: {reason}.", hint) from None


def _check_suits(file: StudyFile, url: str, nodes: list[Node]) -> None:
    here = ray.get_runtime_context().get_node_id()
    others = [node.address for node in nodes if node.id != here]
    if not others:
        return
    if is_sqlite(url):
        raise InputError(
            f"The storage {masked(url)} is a file, which trials on other hosts ({', '.join(others[:3])}) cannot write "
            "to safely.",
            "Give a server: --storage postgresql://user@host/name, or SHOEBOX_STORAGE.",
        )
    if file.device.latency == "native":
        raise InputError(
            "device.latency: native times on one machine, but the cluster has several.",
            "Leave out --address, or use emulated or estimated.",
        )


def _remove_leftovers(folder: Path) -> None:
    """Remove Ray Tune's folders of searches that were killed."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
