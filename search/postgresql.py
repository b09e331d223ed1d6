"""Studies in PostgreSQL: what several hosts can write to at once, and what may restart while they do."""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from search.direct_storage import DirectStorage
from search.study_storage import StudyStorage
from space.errors import InputError
from space.secrets import url_without_passwords

logger = logging.getLogger("shoebox.search.postgresql")

RECONNECT_SECONDS = 60.0  # how long a server may be away before a search gives up
RECONNECT_PAUSE = 0.5
TRUSTED_SECONDS = 1.0  # how long after its last use a connection is taken to be there without asking
ATTEMPTS = 3  # of a call whose connection broke

# Calls that may be made twice to the same effect. Making a trial may not; Optuna repeats it itself.
_REPEATABLE = (
    "get_all_studies",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_trial",
    "get_all_trials",
    "_get_trials",
    "get_best_trial",
    "get_n_trials",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "get_trial_params",
    "get_trial_system_attrs",
    "get_trial_user_attrs",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "write_together",
    "attributes_of_study",
    "count_before",
    "has_waiting",
    "remove_study_attribute",
)
_CREATION_LOCK = 5_703_811_726_408_153_088  # any number that others do not use


def open_postgresql(url: URL, keep_connections: bool = True) -> RDBStorage:
    """Open a study storage in PostgreSQL, creating its tables if it has none.

    Once open, it outlives a restart of the server: a connection that lay idle is tested before it is used, a new one is
    waited for up to `RECONNECT_SECONDS`, and a call that was cut off is repeated where that does no harm. (To make or
    remove a study is not, in the first second after another call.)

    Args:
        url: of the database. Without a named driver, psycopg2 is used if it is there, else psycopg.
        keep_connections: keep up to five connections open; else each call opens and closes its own.

    Raises:
        InputError: no driver is installed.
        sqlalchemy.exc.SQLAlchemyError: the server cannot be reached, or refuses.
    """
    address = with_driver(url).render_as_string(hide_password=False)
    options: dict[str, Any] = {} if keep_connections else {"poolclass": NullPool}
    with _creating_alone(address):
        storage = DirectStorage(address, engine_kwargs=options)
    event.listen(storage.engine, "do_connect", _connect_patiently)
    if keep_connections:
        _test_idle_connections(storage.engine)
    for name in _REPEATABLE:
        call = getattr(storage, name, None)
        if call is not None:
            setattr(storage, name, _repeated(call, storage))
    return storage


def with_driver(url: URL) -> URL:
    """The URL with a driver that is installed.

    Raises:
        InputError: neither psycopg2 nor psycopg is.
    """
    if url.drivername not in ("postgresql", "postgres"):
        return url
    if importlib.util.find_spec("psycopg2") is not None:
        return url.set(drivername="postgresql+psycopg2")
    if importlib.util.find_spec("psycopg") is not None:
        return url.set(drivername="postgresql+psycopg")
    shown = url_without_passwords(url.render_as_string(hide_password=False))
    raise InputError(
        f"The storage {shown} needs a driver for PostgreSQL.",
        "Install it: pip install 'shoebox[postgres]'.",
    )


class ServerLock:
    """A lock of the server that one connection at a time holds. It ends with the connection of a process that dies.

    Args:
        url: of a database. Locks of different databases have nothing to do with each other.
        key: which lock, 64 bits.
    """

    def __init__(self, url: URL | str, key: int) -> None:
        address = with_driver(make_url(url)).render_as_string(hide_password=False)
        self._engine = sqlalchemy.create_engine(address, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._key = key
        self._connection: sqlalchemy.Connection | None = None

    def acquire(self) -> None:
        """Wait until nobody else holds the lock, and take it."""
        self._ask("pg_advisory_lock")

    def try_acquire(self) -> bool:
        """Take the lock if nobody else holds it; whether it was taken."""
        return bool(self._ask("pg_try_advisory_lock"))

    def release(self) -> None:
        """Give the lock back; it may have ended with its connection."""
        with self.closed_on_error():
            try:
                self._call("SELECT pg_advisory_unlock_all()")
            except DBAPIError as error:
                if not _cut_off(error):
                    raise
                self.close()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """An interrupted call leaves a connection of which nobody knows what it holds: it is closed."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, and so give the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _ask(self, function: str) -> Any:
        statement = f"SELECT {function}({self._key})"
        with self.closed_on_error():
            try:
                return self._call(statement)
            except DBAPIError as error:
                if not _cut_off(error):
                    raise
                self.close()
                return self._call(statement)

    def _call(self, statement: str) -> Any:
        if self._connection is None:
            self._connection = self._connected()
        return self._connection.exec_driver_sql(statement).scalar()

    def _connected(self) -> sqlalchemy.Connection:
        connection = self._engine.connect()
        # A server that has been reached once may restart.
        if not event.contains(self._engine, "do_connect", _connect_patiently):
            event.listen(self._engine, "do_connect", _connect_patiently)
        # The lock may be another one's for as long as an older study is searched for cells; and a host that went away
        # without a word holds it until the server notices.
        for setting in ("lock_timeout = 0", "statement_timeout = 0"):
            connection.exec_driver_sql(f"SET {setting}")
        for setting in ("idle = 30", "interval = 10", "count = 3"):
            connection.exec_driver_sql(f"SET tcp_keepalives_{setting}")
        return connection


@contextmanager
def _creating_alone(address: str) -> Iterator[None]:
    """Hold a lock of the server: of two processes that find no tables and create them, one would fail."""
    lock = ServerLock(address, _CREATION_LOCK)
    try:
        lock.acquire()
        yield
    finally:
        lock.close()


def _connect_patiently(dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
    """Connect as SQLAlchemy would, but wait for a server that is away."""
    until = time.monotonic() + RECONNECT_SECONDS
    told = False
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() >= until:
                raise
            if not told:
                logger.warning("The storage does not answer; waiting up to %d s for it.", RECONNECT_SECONDS)
                told = True
            time.sleep(RECONNECT_PAUSE)


def _test_idle_connections(engine: sqlalchemy.Engine) -> None:
    """As `pool_pre_ping` of SQLAlchemy, which tests a connection before every use: a dozen times for each trial."""
    used = "used"

    def note(_: Any, record: Any) -> None:
        record.info[used] = time.monotonic()

    def test(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get(used, -math.inf) < TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the server was away: no connection is any good

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", test)


def _repeated(call: Callable[..., Any], storage: StudyStorage) -> Callable[..., Any]:
    @functools.wraps(call)
    def repeating(*arguments: Any, **options: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(*arguments, **options)
            except (DBAPIError, StorageInternalError) as error:
                if attempt == ATTEMPTS or not _cut_off(error):
                    raise
                storage.cut_offs += 1
                time.sleep(RECONNECT_PAUSE)
            except UpdateFinishedTrialError:
                # Cut off after the server had done it: the trial is in the state that was asked for.
                if attempt > 1 and call.__name__ == "set_trial_state_values":
                    trial = storage.get_trial(arguments[0])
                    if trial.state == (options.get("state") or arguments[1]):
                        return True
                raise
        raise AssertionError("unreachable")

    return repeating


def _cut_off(error: Exception) -> bool:
    """Whether a call failed because its connection broke."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    broken = isinstance(cause, DBAPIError) and cause.connection_invalidated
    # The last: the connection broke in a transaction, which Optuna went on with before it ended it.
    return broken or isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError))
