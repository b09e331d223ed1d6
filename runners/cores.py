"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that the scheduler gives this process: those of its affinity, within its container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="utf-8").split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError):  # no control groups, or "max": no quota
        pass
    return max(1, cores)


def share_of_cores() -> int:
    """Cores that one worker may use: `OMP_NUM_THREADS`, which Ray sets to a worker's share, else all usable ones."""
    try:
        share = int(os.environ.get("OMP_NUM_THREADS", ""))
    except ValueError:
        share = 0
    return min(share, usable_cores()) if share > 0 else usable_cores()
