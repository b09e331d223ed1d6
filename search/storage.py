"""Optuna storage: where studies are kept, and how it is opened.

SQLite by default (`home()/studies.db`, write-ahead log, long busy timeout, so that workers and the driver
write at once); `search.postgresql` for searches on several hosts; any other SQLAlchemy URL that Optuna takes works
too. Passwords never reach a message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import warnings
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from objectives.pareto import Direction
from search.direct_storage import OLDEST_SQLITE, DirectStorage
from search.postgresql import open_postgresql
from search.study_storage import StudyCache, StudyStorage
from space.errors import InputError
from space.paths import expanded, home
from space.secrets import passwords, url_without_passwords

logger = logging.getLogger("shoebox.search.storage")

BUSY_TIMEOUT = 60  # seconds that a writer waits for another one's SQLite transaction
STORAGE = "SHOEBOX_STORAGE"  # environment variable with the URL, which may hold a password: it is no argument then
HINT = "A storage is a URL like sqlite:////folder/studies.db or postgresql://user@host/name."

optuna.logging.set_verbosity(optuna.logging.ERROR)


def default_url() -> str:
    """URL of the storage used when none is given: `SHOEBOX_STORAGE`, or a SQLite file in `home()`."""
    return os.environ.get(STORAGE) or f"sqlite:///{home() / 'studies.db'}"


def masked(url: str) -> str:
    """A storage URL without its password, fit for messages."""
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        scheme, separator, _ = url.partition("://")
        return f"{scheme}://..." if separator else "(not a URL)"
    return url_without_passwords(url)


def is_sqlite(url: str) -> bool:
    """Whether a storage is a SQLite file; False for what is no URL."""
    return _backend(url) == "sqlite"


def is_postgresql(url: str) -> bool:
    """Whether a storage is a PostgreSQL database; False for what is no URL."""
    return _backend(url) in ("postgresql", "postgres")


def _backend(url: str) -> str | None:
    try:
        return make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        return None


def url_problem(url: str) -> InputError | None:
    """Why a storage that another host will open cannot be one, as far as its URL tells; None if it may."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return InputError(f"The storage {masked(url)} is not a database URL.", HINT)
    # Part of the password would be taken for the host, and be told by the driver that cannot find it.
    if parsed.password and "@" in f"{parsed.host}{parsed.database}":
        return InputError(
            f"The storage {masked(url)} has an @ in its password.", "Write it as %40 there, and a / as %2F."
        )
    return None


def open_storage(url: str, keep_connections: bool = True) -> RDBStorage:
    """Open a storage, creating its tables if it has none.

    Args:
        url: of SQLAlchemy.
        keep_connections: to a PostgreSQL server; False for the many who seldom write, since a server has few (100 by
            default).

    Raises:
        InputError: the URL is malformed, its driver is not installed, or it cannot be reached.
    """
    if problem := url_problem(url):
        raise problem
    parsed = make_url(url)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if parsed.get_backend_name() in ("postgresql", "postgres"):
                return open_postgresql(parsed, keep_connections)
            if parsed.get_backend_name() != "sqlite":
                return StudyStorage(url)
            with _one_at_a_time(parsed.database):
                _prepare_sqlite(parsed.database)
                kind = DirectStorage if sqlite3.sqlite_version_info >= OLDEST_SQLITE else StudyStorage
                storage = kind(url, engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT}})
            sqlalchemy.event.listen(storage.engine, "connect", _on_connect)
            storage.engine.dispose()  # its first connection was made before the listener
            return storage
    except (SQLAlchemyError, ImportError, OSError, sqlite3.Error, RuntimeError) as error:
        # The causes below may quote the URL, so only the kind of error and a cleaned text are passed on.
        reason = _reason(error, parsed)
        message = f"The storage {masked(url)} cannot be opened: {reason}."
        raise InputError(message, HINT) from None


def _reason(error: Exception, url: URL) -> str:
    """The first line of what is wrong, without the password."""
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    reason = text.splitlines()[0].rstrip(".")
    # To replace the password would show where it is, and what it is where it is short.
    secrets = [str(url.password or ""), *passwords(url.render_as_string(hide_password=False))]
    return type(error).__name__ if any(secret in reason for secret in secrets if secret) else reason


def not_writable(storage: RDBStorage) -> str | None:
    """Why a storage cannot be written, or None; nothing is written to find out."""
    if storage.engine.dialect.name != "sqlite":
        return None  # a server tells at the first write
    try:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.rollback()
    except SQLAlchemyError as error:
        return " ".join(str(getattr(error, "orig", None) or error).split())
    return None


def storage_exists(url: str) -> bool:
    """False for a SQLite file that is not there, which opening would make; True for all that only opening can tell."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return True
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return True
    return Path(str(parsed.database)).exists()


@contextlib.contextmanager
def _one_at_a_time(database: str | None) -> Iterator[None]:
    """Hold a file's lock: of two processes that find no tables and create them, one would fail."""
    if database in (None, "", ":memory:") or str(database).startswith("file:"):
        yield
        return
    file = expanded(str(database))
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file.with_name(f"{file.name}.lock"))
    with contextlib.suppress(OSError):  # a folder that may only be read: nobody creates tables there
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _prepare_sqlite(database: str | None) -> None:
    """Switch a SQLite file to the write-ahead log: readers and the one writer no longer block each other."""
    if database in (None, "", ":memory:"):
        raise InputError(
            "A storage in memory cannot be shared with workers.", "Give a file: sqlite:////folder/studies.db."
        )
    if str(database).startswith("file:"):
        raise InputError(f"{database} is a URI of SQLite's own.", "Give the file: sqlite:////folder/studies.db.")
    connection = sqlite3.connect(str(database), timeout=BUSY_TIMEOUT)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _on_connect(connection: sqlite3.Connection, _: object) -> None:
    # With the write-ahead log this survives a killed process; only a crash of the whole machine can lose the
    # last transactions. It is several times faster.
    connection.execute("PRAGMA synchronous=NORMAL")


def set_constraints(
    study: optuna.Study, trial_id: int, values: Mapping[str, float], known: Container[str] | None = None
) -> None:
    """Set constraint values of a trial by its id, as `optuna.Trial.set_constraint` does.

    Optuna has no public way to do so once the `Trial` object of the asking process is gone, which is what a
    resumed study needs. Like there, a key that is set stays as it is.

    Args:
        study, trial_id: which trial.
        values: by name of the constraint.
        known: the system attributes that the trial has; read from the storage if not given.
    """
    if known is None:
        known = study._storage.get_trial_system_attrs(trial_id)
    for name, value in values.items():
        key = f"{_CONSTRAINTS_KEY}:{name}"
        if key not in known:
            study._storage.set_trial_system_attr(trial_id, key, float(value))


def study_names(storage: RDBStorage) -> list[str]:
    """Names of all studies in a storage, sorted."""
    return sorted(optuna.get_all_study_names(storage))


def find_study(storage: RDBStorage, name: str) -> optuna.Study | None:
    """The Optuna study of that name, or None."""
    try:
        return optuna.load_study(study_name=name, storage=_cached(storage))
    except KeyError:
        return None


def create_study(
    storage: RDBStorage,
    name: str,
    directions: list[Direction],
    attributes: Mapping[str, Any],
    metric_names: list[str] | None = None,
) -> optuna.Study:
    """Make a new study and its attributes; the caller has checked that the name is free.

    `metric_names` are what Optuna's own tools call the objectives.
    """
    study = optuna.create_study(study_name=name, storage=_cached(storage), directions=directions)
    if metric_names is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna says of this method that it may change
            study.set_metric_names(metric_names)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    return study


def _cached(storage: RDBStorage) -> BaseStorage:
    return StudyCache(storage) if isinstance(storage, StudyStorage) else storage
