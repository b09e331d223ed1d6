"""A real PostgreSQL server of the test's own, from the system's packages."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path


def binaries() -> Path | None:
    """Folder of `initdb` and `postgres`, or None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


class PostgresServer:
    """A server that listens on one address, without passwords; `stop` ends it as fast as a crash would.

    Args:
        host: address to listen on.
        enter: command that runs the server elsewhere, as `ip netns exec NAME`.
    """

    def __init__(self, host: str = "127.0.0.1", enter: tuple[str, ...] = ()) -> None:
        folder = binaries()
        assert folder is not None, "PostgreSQL is not installed"
        self._binaries = folder
        self._enter = enter
        self.host = host
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))  # a socket's path must be short
        self._process: subprocess.Popen[bytes] | None = None
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
        if user:  # initdb refuses root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._user = user
        create = [folder / "initdb", "-D", self.folder / "data", "-U", "shoebox", "--auth=trust", "--no-sync"]
        self._run(*map(str, [*user, *create]))
        access = self.folder / "data" / "pg_hba.conf"
        with access.open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        self.start()

    def start(self) -> None:
        server = [self._binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, "-p", self.port]
        options = [f"listen_addresses={self.host}", "fsync=off"]
        command = [*self._enter, *self._user, *server, *(part for option in options for part in ("-c", option))]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd="/")
        until = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Abort every connection and end at once (an "immediate shutdown": the next start recovers from the log)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_url(self) -> str:
        """URL of a new, empty database."""
        name = f"study_{uuid.uuid4().hex[:12]}"
        self._sql(f"CREATE DATABASE {name}")
        return f"postgresql://shoebox:s3cret@{self.host}:{self.port}/{name}"

    def _sql(self, statement: str) -> str:
        where = ["-h", str(self.folder), "-p", str(self.port), "-U", "shoebox", "-d", "postgres"]
        return self._run(str(self._binaries / "psql"), *where, "-tAc", statement)

    def _answers(self) -> bool:
        check = [str(self._binaries / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        return subprocess.run(check, check=False, cwd="/").returncode == 0

    def _run(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
