"""Hand a study over to a Ray cluster as a job: nothing has to stay connected while it runs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import posixpath
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from runners.task import FilesData, FolderData
from search.resuming import check_place
from search.storage import STORAGE, url_problem
from search.study_file import ResumedFile, StudyFile, load_study_file, resumed_file, shipped_studies
from space.errors import InputError
from space.paths import expanded

ENTRY = ("shoebox",)  # the command on the cluster
STUDY = "study.yaml"
TOKEN = "~/.ray/auth_token"  # where Ray keeps the token that its clusters ask for


class Job(NamedTuple):
    """A job that was started.

    Attributes:
        name: Ray's id of it.
        asks_for_token: whether the cluster did, so that Ray's own commands have to be told to send one.
    """

    name: str
    asks_for_token: bool


def job_folder(folder: Path, study: str, overrides: Mapping[str, Any], resume: bool = False) -> str:
    """Write what the cluster has to be sent of a study, which is the study file; neither data nor results.

    Relative paths in the file are made absolute as on this machine: every host has to see them there.

    Args:
        folder: to write to.
        study: a shipped study's name or the path of a study file.
        overrides: changes to it, by the names of `search.overrides.OVERRIDES`; `data` as the hosts see it.
        resume: the search keeps the options that it was started with, so that the file may lack what they gave.

    Returns:
        What `shoebox search` is told to search.

    Raises:
        InputError: a wrong study file or override; data at a relative path; a password in the URL for bundles.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    file = sent_file(study, given, resume)
    check_place(file.bundles)
    if isinstance(file, StudyFile):
        check_data(file)
    if study in shipped_studies() and not given:
        return study
    (folder / STUDY).write_text(study_text(file), encoding="utf-8")
    return STUDY


def sent_file(study: str, overrides: Mapping[str, Any], resume: bool) -> StudyFile | ResumedFile:
    """The study file to send, of which all is checked when the study is to be started, and little when it is resumed.

    Args:
        study, overrides, resume: as of `job_folder`.

    Raises:
        InputError: a wrong study file or override.
    """
    return resumed_file(study, overrides) if resume else load_study_file(study, overrides, elsewhere=True)


def study_text(file: StudyFile | ResumedFile) -> str:
    """The study as a file of its own, paths absolute and overrides entered."""
    content = file.content if isinstance(file, ResumedFile) else file.model_dump(mode="json")
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def check_data(file: StudyFile) -> None:
    """Refuse data at a path that is relative to the folder in which a command runs, as a shipped study may name it.

    Raises:
        InputError: there are such.
    """
    for plan in file.task_plans.values():
        data = plan.task.data
        files = (data.train, data.validation) if isinstance(data, FilesData) else ()
        for path in (data.path,) if isinstance(data, FolderData) else files:
            if not Path(path).is_absolute() and "://" not in path:
                raise InputError(
                    f"Study {file.name!r} reads {path}, which hosts would look for in folders of their own.",
                    "Name the folder as they all see it: --data DIR.",
                )


def job_environment(storage: str | None, shared: str | None) -> dict[str, str]:
    """Variables of the job. What is not given is as in the environment of the cluster's hosts.

    Args:
        storage: URL, which may hold a password: it is in the job's environment, never in its command line or log.
        shared: folder that all hosts share, as they see it.

    Raises:
        InputError: the storage is no URL, or the folder none that hosts can share.
    """
    url = storage or os.environ.get(STORAGE)
    if url and (problem := url_problem(url)):
        raise problem
    if shared is not None:
        check_shared(shared)
    return {**({STORAGE: url} if url else {}), **(shared_folders(shared) if shared else {})}


def check_shared(shared: str) -> None:
    """Refuse a path that no folder can have which hosts share.

    Raises:
        InputError: it is not absolute, cannot be printed, or is the root.
    """
    if not shared.startswith("/") or not shared.isprintable():
        raise InputError(f"--shared {shared!r} is no absolute path.", "Name the folder as all hosts see it.")
    if plain_path(shared) == "/":
        raise InputError(f"--shared {shared} is the root of every host.", "Name a folder that all hosts share.")


def plain_path(path: str) -> str:
    """An absolute path without what changes nothing in it."""
    return "/" + posixpath.normpath(path).lstrip("/")


def shared_folders(shared: str) -> dict[str, str]:
    """Variables that put results and cache into a folder that all hosts share."""
    base = shared.rstrip("/")
    return {"SHOEBOX_HOME": f"{base}/home", "SHOEBOX_CACHE": f"{base}/cache"}


def search_command(
    study: str, resume: bool, overrides: Mapping[str, Any] | None = None, warm_start: Sequence[str] = ()
) -> list[str]:
    """The command that the job runs on the head.

    Args:
        study: that it is told to search.
        resume: whether that is there already.
        overrides: changes that the study was written with. They are named once more, so that the storage knows them and
            a resume need not name them again.
        warm_start: older studies that this one starts from.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None and name != "name"}
    if str(given.get("device")).endswith((".yaml", ".yml")):
        given["device"] = expanded(given["device"]).absolute()
    if "data" in given:
        given["data"] = expanded(given["data"]).absolute()
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    options += [text for older in warm_start for text in ("--warm-start", older)]
    return [*ENTRY, "search", study, *options, "--address", "auto", *(["--resume"] if resume else [])]


def submit(
    study: str,
    address: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    storage: str | None = None,
    shared: str | None = None,
    warm_start: Sequence[str] = (),
) -> Job:
    """Start a search on a cluster. One that asks for a token gets the one that Ray keeps (`ray get-auth-token`).

    Args:
        study: a shipped study's name or the path of a study file.
        address: of the cluster's dashboard, like http://head:8265.
        overrides: changes to the study file, by the names of `search.overrides.OVERRIDES`.
        resume: go on with a study that was stopped or killed.
        storage: URL of the storage, as the hosts reach it.
        shared: folder that all hosts share, as they see it.
        warm_start: older studies in the storage whose good configurations are tried first, or `auto`.

    Raises:
        InputError: a wrong study file or option; no cluster answers, or it wants another token; `ray[default]` is not
            installed.
    """
    environment = job_environment(storage, shared)
    with tempfile.TemporaryDirectory(prefix="shoebox-job-") as folder:
        name = job_folder(Path(folder), study, overrides or {}, resume)
        client, asks_for_token = _client(address)
        runtime: dict[str, Any] = {"env_vars": environment} if environment else {}
        if name == STUDY:
            runtime["working_dir"] = folder
        try:
            command = shlex.join(search_command(name, resume, overrides, warm_start))
            return Job(client.submit_job(entrypoint=command, runtime_env=runtime), asks_for_token)
        except RuntimeError as error:
            raise _refused(address, error) from None


def follow(address: str, job: str, write: Callable[[str], None]) -> bool:
    """Pass on a job's log until the job ends; whether it succeeded.

    Raises:
        InputError: no cluster answers, or it has no such job.
    """
    client, _ = _client(address)

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            write(lines)

    try:
        asyncio.run(tail())
        return str(client.get_job_status(job).value) == "SUCCEEDED"
    except RuntimeError as error:
        raise _refused(address, error) from None


def _client(address: str) -> tuple[Any, bool]:
    """A client of the cluster, and whether that asked for a token."""
    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"--address: {address!r} is no URL of a Ray dashboard.", "Write the head's, as in http://10.0.0.1:8265."
        )
    if any(importlib.util.find_spec(name) is None for name in ("aiohttp", "requests", "aiohttp_cors")):
        raise InputError("Ray Jobs need more of Ray than a search does.", "Install it: pip install 'shoebox[cluster]'.")
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    def connected(headers: dict[str, str] | None = None) -> Any:
        """A client; None where the cluster asks for a token, or for another one."""
        try:
            return JobSubmissionClient(address, headers=headers)
        except RayError:
            return None
        except (ConnectionError, RuntimeError, OSError) as error:
            raise _refused(address, error) from None

    client = connected()
    if client is not None:
        return client, False
    token = _token()  # only a cluster that asks for one gets it, whatever RAY_AUTH_MODE says here
    client = connected({"Authorization": f"Bearer {token}"}) if token else None
    if client is not None:
        return client, True
    said = "takes another token than the one here" if token else "asks for a token, and there is none here"
    raise InputError(
        f"The Ray cluster at {address} {said}.",
        f"Give the cluster's in RAY_AUTH_TOKEN, or in the file that RAY_AUTH_TOKEN_PATH names ({TOKEN} by default).",
    )


def _token() -> str | None:
    """The token of Ray's clusters where Ray itself looks for it, if there is one."""
    given = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    try:
        file = expanded(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN)
        return given or file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _refused(address: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"The Ray cluster at {address} does not take the job: {reason[:500]}")
