"""The processes that search one study at the same time: who they are, which of them live, and whose turn it is.

Each driver has a name of its own, which stands in the study with a count that it raises every few seconds, and in every
trial that it hands out. A driver whose count stands still has died, or its host or network has; one that ran on this
machine is known to be dead as soon as its process is gone. What a dead driver left running is taken over by the others.
Counts are compared with a clock of the observer's own, so that hosts need not agree on the time.

What must not happen twice at once - to ask for a trial, to take over - happens in *turns*, under a lock of the database
server, which ends with the connection of a driver that dies. (A restart of the server ends it too: a driver that is
asking at that moment may hand out one trial too many.)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from search.postgresql import ServerLock
from search.processes import is_running, this_machine
from search.states import DRIVERS
from search.study_storage import StudyStorage, study_storage
from space.errors import InputError

logger = logging.getLogger("shoebox.search.drivers")

BEAT_SECONDS = 5.0  # from one sign of life to the next
MISSED_BEATS = 6  # after so many that did not come, a driver counts as dead
_JOINED = f"{DRIVERS}joined"  # attribute of a study: how many drivers it has had


class SignOfLife(BaseModel):
    """What a study knows of a driver.

    Attributes:
        host: its name, for messages.
        process: its number there.
        machine: what its number belongs to: one boot of one machine, and one container on it.
        beats: raised as long as it lives.
        shares: whether it looks at what others do, so that there may be some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    process: int
    machine: str
    beats: int
    shares: bool

    @property
    def gone(self) -> bool:
        """Whether this machine knows that the driver is dead."""
        return self.machine == this_machine() and not is_running(self.process)


@dataclass
class Watched:
    """Another driver as this one sees it.

    Attributes:
        sign: its last sign of life.
        changed: whether it gave one since the last count.
        missed: counts in a row without one.
    """

    sign: SignOfLife
    changed: bool = True
    missed: int = 0

    @property
    def dead(self) -> bool:
        return self.sign.gone or self.missed >= MISSED_BEATS


class Drivers:
    """The drivers of one study, seen by one of them.

    Args:
        name: of the study, which need not be there yet.
        url: of a PostgreSQL storage.
        folder: of the study on this host.
    """

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = uuid.uuid4().hex[:12]
        self._study_name = name
        self._folder = folder / "drivers"
        self._lock = ServerLock(url, _key(name))
        self._front_lock = ServerLock(url, _key(f"{name}: front"))
        self._depth = 0
        self._study: optuna.Study | None = None
        self._shares = True
        self._others: dict[str, Watched] = {}
        self._watching = threading.Lock()
        self._beats = 0
        self.struck = False
        self.joined = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def turn(self, long: str | None = None) -> Iterator[None]:
        """No other driver of this study does anything meanwhile that needs a turn. May be nested.

        Args:
            long: what another one may be doing for long, for a message if this one has to wait.
        """
        if self._depth == 0:
            if long is None:
                self._lock.acquire()
            elif not self._lock.try_acquire():
                logger.info("Waiting for another process, which %s: study %r.", long, self._study_name)
                self._lock.acquire()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._lock.release()

    @contextlib.contextmanager
    def front_turn(self) -> Iterator[None]:
        """No other driver judges the front meanwhile, which takes too long for a turn."""
        self._front_lock.acquire()
        try:
            yield
        finally:
            self._front_lock.release()

    def join(self, study: optuna.Study, bundles: str | None, obstacle: str | None, moved: bool = False) -> None:
        """Enter this driver into the study, in a turn.

        Args:
            study: the study.
            bundles: URL at which all drivers keep their bundles, if they do.
            moved: whether that is another place than before, where others would not follow.
            obstacle: what of the study keeps drivers from sharing it, if anything does.

        Raises:
            InputError: there are others, and the study cannot be shared with them.
        """
        self._study, self._shares = study, obstacle is None
        others = self._read()
        alive = {name: other for name, other in others.items() if not other.gone}
        who = ", ".join(f"process {other.process} of {other.host}" for other in alive.values())
        hint = None if obstacle is None else f"Several processes cannot share it because of {obstacle}."
        if hint is None and not all(other.shares for other in alive.values()):
            hint = "It was started as a study that cannot be shared."
        if hint is None and bundles is None and not all((self._folder / name).exists() for name in alive):
            hint = "To share it, start it with search.bundles at a URL, or give all hosts the same SHOEBOX_HOME."
        if hint is None and moved:
            hint = "They keep its bundles elsewhere: resume it without --bundles."
        if hint is not None and alive:
            logger.info("Study %r was searched by %s: waiting for a sign of life.", self._study_name, who)
            if self._live(alive):
                raise InputError(f"Study {self._study_name!r} is being searched by {who} right now.", hint)
            for name in others:  # all are dead
                self._strike(name)
        elif alive:
            logger.info("Study %r is shared with %s.", self._study_name, who)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / self.name).touch()
        storage, number = self._stored()
        storage.set_study_user_attr(number, _JOINED, self.joined + 1)
        self._beat()
        self.read()
        self._thread = threading.Thread(target=self._keep_beating, name="signs of life", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Take this driver out of the study, and close the connections of its turns."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            with contextlib.suppress(SQLAlchemyError, StorageInternalError):
                self._strike(self.name)
        self._lock.close()
        self._front_lock.close()

    def read(self, count: bool = False) -> None:
        """Read anew who is there.

        Args:
            count: whether those who gave no sign of life since the last count have missed one.

        Raises:
            InputError: another process has taken the study over, and it cannot be shared.
        """
        with self._watching:
            found = self._read()
            for name in self._others.keys() - found.keys():
                del self._others[name]
            for name, sign in found.items():
                other = self._others.setdefault(name, Watched(sign))
                other.changed |= other.sign.beats != sign.beats
                other.sign = sign
                if count:
                    other.missed = 0 if other.changed else other.missed + 1
                    other.changed = False
        if not self.struck:
            return
        if not self._shares:
            raise InputError(
                f"Another process has taken study {self._study_name!r} over: this one gave no sign of life for long."
            )
        self._beat()  # before it hands anything out: the others would take that over, too
        self.struck = False

    def others(self) -> tuple[set[str], set[str]]:
        """Names of the other drivers that live, and of those that died and whose trials nobody has taken over."""
        with self._watching:
            dead = {name for name, other in self._others.items() if other.dead}
            return self._others.keys() - dead, dead

    def bury(self, dead: set[str]) -> None:
        """Take dead drivers out of the study, after their trials were taken over in this turn."""
        for name in dead:
            self._strike(name)
        with self._watching:
            for name in dead:
                self._others.pop(name, None)

    def _read(self) -> dict[str, SignOfLife]:
        storage, study = self._stored()
        found = storage.attributes_of_study(study, DRIVERS)
        self.joined = found.pop(_JOINED, 0)
        named = {key.removeprefix(DRIVERS): SignOfLife.model_validate(value) for key, value in found.items()}
        self.struck |= self._beats > 0 and named.pop(self.name, None) is None
        return named

    def _live(self, drivers: Mapping[str, SignOfLife]) -> bool:
        """Whether one of these drivers gives a sign of life before all of them count as dead."""
        until = time.monotonic() + MISSED_BEATS * BEAT_SECONDS
        while time.monotonic() < until:
            time.sleep(BEAT_SECONDS / 5)
            if any(now.beats != drivers[name].beats for name, now in self._read().items() if name in drivers):
                return True
        return False

    def _beat(self) -> None:
        storage, study = self._stored()
        sign = SignOfLife(
            host=socket.gethostname(),
            process=os.getpid(),
            machine=this_machine(),
            beats=self._beats + 1,
            shares=self._shares,
        )
        storage.set_study_user_attr(study, DRIVERS + self.name, sign.model_dump())
        self._beats += 1

    def _strike(self, name: str) -> None:
        storage, study = self._stored()
        storage.remove_study_attribute(study, DRIVERS + name)
        (self._folder / name).unlink(missing_ok=True)

    def _stored(self) -> tuple[StudyStorage, int]:
        assert self._study is not None
        storage = study_storage(self._study)
        assert storage is not None
        return storage, self._study._study_id

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            # A server that is away is waited for by the search itself. Beats that nobody could read are not missed.
            # An error that concerns the search is raised there, too.
            with contextlib.suppress(SQLAlchemyError, StorageInternalError, InputError):
                self.read(count=True)
                self._beat()


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
