"""Processes of this machine, by their numbers."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path


def is_running(process: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def this_machine() -> str:
    """Names one boot of this machine and the container, if any, that processes are numbered in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"
