"""Work on a folder, or on a study, that only one process may do at a time."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path

import filelock
from sqlalchemy.engine import make_url

from search.storage import is_sqlite
from search.study import study_folder
from space.errors import InputError

LONGEST_NAME = 255  # bytes of a file's name, on all usual file systems


@contextlib.contextmanager
def only_one(lock_file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock; its folder is made where it is missing.

    Args:
        lock_file: to lock.
        refusal: what to say where another process holds it.

    Raises:
        InputError: another process holds it, or it cannot be locked (no permission, a file system without locks).
    """
    lock = filelock.FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(refusal) from None
    except OSError as error:
        raise InputError(
            f"{lock_file} cannot be locked: {error.strerror or error}.",
            "Its folder should be one where you may write, on a file system with locks.",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_one_on_study(name: str, url: str, refusal: str) -> Iterator[None]:
    """Hold a study: its folder, and where the storage is a SQLite file, the study in that file.

    The folder is that of one `home()`; who has another one and the same file is kept out by a lock beside the file.

    Args:
        name: of the study.
        url: of the storage, which has been opened.
        refusal: what to say where another process holds it.

    Raises:
        InputError: as `only_one`.
    """
    with only_one(study_folder(name) / "driver.lock", refusal), contextlib.ExitStack() as stack:
        database = _sqlite_file(url)
        if database is not None:
            beside = database.with_name(_short(f"{database.name}.{name}.driver.lock"))
            stack.enter_context(only_one(beside, refusal))
            with contextlib.suppress(OSError):  # another user made it
                # Who may write the database may lock it, as SQLite does with its own files beside it.
                beside.chmod(stat.S_IMODE(database.stat().st_mode))
        yield


def _short(name: str) -> str:
    """A name that file systems take."""
    return name if len(name.encode()) <= LONGEST_NAME else f"{hashlib.sha256(name.encode()).hexdigest()}.driver.lock"


def _sqlite_file(url: str) -> Path | None:
    """The file of a storage, links followed; None if it is no SQLite."""
    return Path(str(make_url(url).database)).resolve() if is_sqlite(url) else None
