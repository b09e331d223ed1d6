"""Bundles where hosts share no folder: on any URL that fsspec knows (s3://, gs://, hdfs://, file://, ...).

A bundle there is its files and, written last, a list of them: without the list it is none, whatever else lies there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from runners.cache_entry import make_once
from runners.record import TrialRecord
from space.errors import DamagedError, InputError, OutputError
from space.paths import cache

logger = logging.getLogger("shoebox.runners.bundle_store")

COMPLETE = "complete.json"
_OWNER = "owner.json"


class _Listed(NamedTuple):
    """The list of a bundle.

    Attributes:
        id: tells a replaced bundle from the one before.
        files: size of each, in bytes; None while it is being replaced.
        sha256: digests of their content; older versions wrote none.
    """

    id: str
    files: dict[str, int | None]
    sha256: dict[str, str]

    @classmethod
    def of(cls, files: Iterable[Path]) -> _Listed:
        contents = {file.name: file.read_bytes() for file in files}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        return cls(uuid.uuid4().hex, {name: len(content) for name, content in contents.items()}, digests)

    def text(self) -> bytes:
        """As it is written."""
        return json.dumps(self._asdict()).encode()

    def but(self, changed: _Listed) -> _Listed:
        """This one with some files replaced."""
        digests = {name: digest for name, digest in self.sha256.items() if name not in changed.files}
        return _Listed(uuid.uuid4().hex, {**self.files, **changed.files}, {**digests, **changed.sha256})


def is_url(place: str) -> bool:
    """Whether a bundle's place is a URL, not a folder."""
    return "://" in place


def publish(folder: Path, url: str) -> None:
    """Copy a bundle to a URL; a bundle that is there already is replaced, and is gone if that is interrupted.

    Raises:
        InputError: the URL's protocol is unknown, or its package is not installed.
        OutputError: the bundle cannot be written.
    """
    system, path = _open(url)
    files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file()}
    with _or_else(f"The bundle cannot be written to {url}"):
        _remove(system, path)
        system.makedirs(path, exist_ok=True)
        for name, file in files.items():
            system.put_file(str(file), f"{path}/{name}")
        system.pipe_file(f"{path}/{COMPLETE}", _Listed.of(files.values()).text())


def amend(folder: Path, url: str, changed: Collection[str]) -> None:
    """Replace files of a bundle at a URL by those of a folder: such as tell of its student, and are not the student.

    Interrupted at any point, it leaves a bundle with a whole student, and with some of these files new, or of one a
    part where the store does not write files at once.

    Raises:
        InputError: there is no bundle, or as `publish`.
        OutputError: the files cannot be written.
    """
    system, path = _open(url)
    before, after = _listed(system, path, url), _Listed.of(folder / name for name in changed)
    meanwhile = before.but(_Listed("", dict.fromkeys(name for name in changed if name in before.files), {}))

    def relist(listed: _Listed) -> None:
        # At once where the protocol can: without the list there is no bundle.
        part = f"{path}/.{COMPLETE}.part"
        system.pipe_file(part, listed.text())
        try:
            system.mv(part, f"{path}/{COMPLETE}")
        except Exception:  # some move no file over another one, or may not remove any
            system.pipe_file(f"{path}/{COMPLETE}", listed.text())
            with contextlib.suppress(Exception):
                system.rm_file(part)

    with _or_else(f"The bundle cannot be written to {url}"):
        relist(meanwhile)
        for name in changed:
            system.put_file(str(folder / name), f"{path}/{name}")
        relist(before.but(after))


@contextlib.contextmanager
def _or_else(told: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each protocol has errors of its own
        raise OutputError(f"{told}: {_reason(error)}.") from error


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
        DamagedError: files of it are not there, or hold something else than was written.
        InputError: there is no whole bundle, or it cannot be read.
        OutputError: the disk is full, or the cache folder cannot be written.
    """
    if not is_url(place):
        return Path(place)
    system, path = _open(place)
    listed = _listed(system, path, place)
    folder = cache() / "bundles" / hashlib.sha256(f"{place} {listed.id}".encode()).hexdigest()[:24]

    def check() -> Path:
        for name, size in listed.files.items():
            if (folder / name).stat().st_size != size and size is not None:
                raise ValueError(f"{name} has not its {size} bytes")
        return folder

    def copy(target: Path) -> None:
        for name, size in listed.files.items():
            try:
                system.get_file(f"{path}/{name}", str(target / name))
            except FileNotFoundError:
                raise DamagedError(f"The bundle at {place} is damaged: {name} is not there.") from None
            content = (target / name).read_bytes()
            if size is not None and len(content) != size:
                raise DamagedError(f"The bundle at {place} is damaged: {name} has not its {size} bytes.")
            if (digest := listed.sha256.get(name)) and hashlib.sha256(content).hexdigest() != digest:
                raise DamagedError(f"The bundle at {place} is damaged: {name} is not what was written.")

    return make_once(folder, check, copy, "bundle", logger, keeps_sizes=False)  # it is copied as it is


def _listed(system: Any, path: str, place: str) -> _Listed:
    """The list of a bundle.

    Raises:
        DamagedError: it cannot be understood.
        InputError: there is no whole bundle, or it cannot be read.
    """
    try:
        content = system.cat_file(f"{path}/{COMPLETE}")
    except FileNotFoundError:
        raise InputError(f"There is no whole bundle at {place}.") from None
    except Exception as error:
        raise InputError(f"The bundle at {place} cannot be read: {_reason(error)}.") from error
    try:
        found = json.loads(content)
        return _Listed(str(found["id"]), dict(found["files"]), dict(found.get("sha256", {})))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"The bundle at {place} is damaged: {COMPLETE} cannot be understood.") from error


def remove(place: str) -> None:
    """Remove a bundle, whether folder or URL; one that is gone is no error.

    Raises:
        OutputError: it cannot be removed from the URL.
    """
    if not is_url(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    system, path = _open(place)
    with _or_else(f"The bundle at {place} cannot be removed"):
        _remove(system, path)


def _remove(system: Any, path: str) -> None:
    if system.exists(path):
        if system.exists(f"{path}/{COMPLETE}"):
            system.rm_file(f"{path}/{COMPLETE}")  # first, so that a mixture is never a bundle
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
    with _or_else(f"Bundles cannot be written to {url}"):
        system.makedirs(path, exist_ok=True)
        system.pipe_file(f"{path}/{_OWNER}", json.dumps({"id": owner}).encode())


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
