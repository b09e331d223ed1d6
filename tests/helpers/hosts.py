"""Several hosts on one machine: each with its own network, processes, host name and temporary Ray folder.

They share the file system, as hosts with a network folder do. Made of Linux namespaces; needs root.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

RAY = [sys.executable, "-m", "ray.scripts.scripts"]  # of this interpreter
BRIDGE, NETWORK = "shoebox-br", "10.213.7"
# A host that is gone is noticed in seconds; Ray's own choice is tens of seconds.
QUICK_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
# What is a host's own: Ray's sockets and logs, shared memory.
_OWN_FOLDERS = "mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && mount -t tmpfs none /dev/shm"


def can_make_hosts() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if os.getuid() != 0:
        return "namespaces of the network need root"
    try:
        check = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "ip", "link"]
        subprocess.run(check, check=True, capture_output=True)
        subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True, capture_output=True)
        subprocess.run(["ip", "link", "del", BRIDGE], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no namespaces or no bridge here: {error}"
    return None


class Host:
    """A host with the address NETWORK.NUMBER on the bridge."""

    def __init__(self, number: int) -> None:
        self.address = f"{NETWORK}.{number}"
        self.name = f"host{number}"
        unshare = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        start = f"hostname {self.name} && {_OWN_FOLDERS} && ip link set lo up && echo ready && exec sleep infinity"
        self._outer = subprocess.Popen([*unshare, "sh", "-c", start], stdout=subprocess.PIPE, text=True)
        assert self._outer.stdout is not None
        assert self._outer.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        self._init = children[0]
        outside, inside = f"shb{number}", f"shi{number}"
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", outside, "master", BRIDGE, "up")
        _ip("link", "set", inside, "netns", self._init)
        for command in (f"ip addr add {self.address}/24 dev {inside}", f"ip link set {inside} up"):
            self.run(command.split(), {})

    def enter(self) -> list[str]:
        return ["nsenter", "-t", self._init, "--net", "--mount", "--uts", "--pid"]

    def run(self, command: list[str], environment: Mapping[str, str]) -> str:
        """What a command prints there."""
        done = self.start(command, environment)
        out, _ = done.communicate(timeout=240)
        assert done.returncode == 0, out
        return out

    def start(self, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.enter(), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )

    def power_off(self) -> None:
        """Kill every process there at once, and its network with them: nobody says goodbye."""
        os.kill(int(self._init), 9)
        self._outer.wait(30)


class RayHosts:
    """A Ray cluster with one CPU on each host; the first is its head. Ray asks for a token of the cluster's own.

    Args:
        count: of hosts.
        folder: for the token.
        environment: variables of Ray's processes.
        options: of the head's `ray start`.
    """

    def __init__(self, count: int, folder: Path, environment: Mapping[str, str], options: tuple[str, ...] = ()) -> None:
        token = folder / "ray-token"
        token.write_text(secrets.token_hex(32))
        self.settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.gateway = f"{NETWORK}.1"  # this machine, as the hosts see it
        self.hosts: list[Host] = []
        _ip("link", "add", BRIDGE, "type", "bridge")
        try:
            _ip("addr", "add", f"{self.gateway}/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            settings = {**environment, **QUICK_CHECKS, **self.settings}
            common = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
            for index in range(count):
                self.hosts.append(host := Host(11 + index))
                place = f"--address={self.hosts[0].address}:6379"
                start = ["--head", "--port=6379", *options] if index == 0 else [place]
                host.run([*RAY, "start", f"--node-ip-address={host.address}", *start, *common], settings)
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> Host:
        return self.hosts[0]

    def close(self) -> None:
        for host in self.hosts:
            if host._outer.poll() is None:
                host.power_off()
        time.sleep(0.2)
        subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
