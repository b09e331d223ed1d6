"""Bundles where hosts share no folder: on any URL that fsspec knows (s3://, gs://, hdfs://, file://, ...).

A bundle there is its files and, written last, a list of them: without the list it is none, whatever else lies there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

import fsspec

from runners.cache_entry import make_once
from runners.record import TrialRecord
from space.errors import InputError, OutputError
from space.paths import cache

logger = logging.getLogger("shoebox.runners.bundle_store")

COMPLETE = "complete.json"
_OWNER = "owner.json"


def is_url(place: str) -> bool:
    """Whether a bundle's place is a URL, not a folder."""
    return "://" in place


def publish(folder: Path, url: str) -> None:
    """Copy a bundle to a URL; a bundle that is there already is replaced.

    Raises:
        InputError: the URL's protocol is unknown, or its package is not installed.
        OutputError: the bundle cannot be written.
    """
    system, path = _open(url)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    # The id tells a replaced bundle from the one before.
    listed = {"id": uuid.uuid4().hex, "files": {file.name: file.stat().st_size for file in files}}
    try:
        if system.exists(path):
            if system.exists(f"{path}/{COMPLETE}"):
                system.rm_file(f"{path}/{COMPLETE}")  # first, so that a mixture is never a bundle
            system.rm(path, recursive=True)
        system.makedirs(path, exist_ok=True)
        for file in files:
            system.put_file(str(file), f"{path}/{file.name}")
        system.pipe_file(f"{path}/{COMPLETE}", json.dumps(listed).encode())
    except Exception as error:  # each protocol has errors of its own
        raise OutputError(f"The bundle cannot be written to {url}: {_reason(error)}.") from error


def published(record: TrialRecord, url: str) -> TrialRecord:
    """Publish a record's bundle and answer the record with its new place; the folder stays.

    Raises:
        InputError, OutputError: as `publish`.
    """
    publish(Path(record.bundle), url)
    return record.model_copy(update={"bundle": url})


def fetch(place: str) -> Path:
    """A folder with the bundle: the place itself, or a copy in the cache of what is at a URL.

    Raises:
        InputError: there is no whole bundle, or it cannot be read.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    if not is_url(place):
        return Path(place)
    system, path = _open(place)
    try:
        listed = json.loads(system.cat_file(f"{path}/{COMPLETE}"))
        files = {str(name): int(size) for name, size in listed["files"].items()}
        key = hashlib.sha256(f"{place} {listed['id']}".encode()).hexdigest()[:24]
    except FileNotFoundError:
        raise InputError(f"There is no whole bundle at {place}.") from None
    except Exception as error:
        raise InputError(f"The bundle at {place} cannot be read: {_reason(error)}.") from error
    folder = cache() / "bundles" / key

    def check() -> Path:
        for name, size in files.items():
            if (folder / name).stat().st_size != size:
                raise ValueError(f"{name} has not its {size} bytes")
        return folder

    def copy(target: Path) -> None:
        for name, size in files.items():
            system.get_file(f"{path}/{name}", str(target / name))
            if (target / name).stat().st_size != size:
                raise InputError(f"The bundle at {place} is damaged: {name} has not its {size} bytes.")

    return make_once(folder, check, copy, "bundle", logger, keeps_sizes=False)  # it is copied as it is


def remove(place: str) -> None:
    """Remove a bundle, whether folder or URL; one that is gone is no error."""
    if not is_url(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    system, path = _open(place)
    if system.exists(f"{path}/{COMPLETE}"):
        system.rm_file(f"{path}/{COMPLETE}")
    if system.exists(path):
        system.rm(path, recursive=True)


def names(url: str) -> list[str]:
    """Names of the bundles at a URL, whole or not; none if nothing is there.

    Raises:
        InputError: it cannot be listed.
    """
    system, path = _open(url)
    try:
        system.invalidate_cache()
        found = {str(each).rstrip("/").rpartition("/")[2] for each in system.ls(path, detail=False)}
        return sorted(found - {_OWNER})
    except FileNotFoundError:
        return []
    except Exception as error:
        raise InputError(f"{url} cannot be listed: {_reason(error)}.") from error


def owner_of(url: str) -> str | None:
    """Who keeps bundles at a URL; None if nobody has said so.

    Raises:
        InputError: it cannot be read.
    """
    system, path = _open(url)
    try:
        return str(json.loads(system.cat_file(f"{path}/{_OWNER}"))["id"])
    except FileNotFoundError:
        return None
    except Exception as error:
        raise InputError(f"{url}/{_OWNER} cannot be read: {_reason(error)}.") from error


def set_owner(url: str, owner: str) -> None:
    """Say who keeps bundles at a URL.

    Raises:
        InputError: as `_open`.
        OutputError: nothing can be written there.
    """
    system, path = _open(url)
    try:
        system.makedirs(path, exist_ok=True)
        system.pipe_file(f"{path}/{_OWNER}", json.dumps({"id": owner}).encode())
    except Exception as error:
        raise OutputError(f"Bundles cannot be written to {url}: {_reason(error)}.") from error


def remove_all(url: str, given: Collection[str]) -> None:
    """Remove what killed trials left at a URL: the bundles of these names, where they are."""
    for name in names(url):
        if name in given:
            remove(f"{url}/{name}")


def _open(url: str) -> tuple[Any, str]:
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url} needs another package: {_reason(error)}.") from None
    except Exception as error:
        raise InputError(f"{url} is no place for bundles: {_reason(error)}.") from None
    return system, path.rstrip("/")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
