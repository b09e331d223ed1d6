"""What a search's own Ray leaves behind: nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.local_ray import _remove

SLOW_RAYLET = """
import signal, sys, time
import psutil, ray
from ray._private.node import Node
from search.local_ray import local_ray

def raylets():
    return [child for child in psutil.Process().children() if child.name() == "raylet"]

class Sleeper:
    def sleep(self):
        time.sleep(600)

end_in_order = Node.kill_all_processes

def end_slowly(node, *arguments, **options):
    for raylet in raylets():
        raylet.send_signal(signal.SIGSTOP)
    end_in_order(node, *arguments, **options)

Node.kill_all_processes = end_slowly
with local_ray(2, 1) as session:
    sleepers = [ray.remote(Sleeper).remote() for _ in range(2)]
    running = [sleeper.sleep.remote() for sleeper in sleepers]
    ray.wait(running, timeout=2)
    (raylet,) = raylets()
    processes = [raylet, *raylet.children(recursive=True)]
    assert len(processes) > 2, processes
print([process for process in processes if process.is_running()], session.folder.parent.exists())
"""


def test_a_raylet_that_is_slow_to_end_leaves_no_process_behind() -> None:
    done = subprocess.run([sys.executable, "-c", SLOW_RAYLET], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.returncode) == ("[] False\n", 0), done.stderr


def test_a_folder_in_which_a_process_still_writes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    remove, removed = shutil.rmtree, []

    def meanwhile_a_file_is_added(path: Path, ignore_errors: bool) -> None:
        remove(path, ignore_errors=ignore_errors)
        removed.append(path)
        if len(removed) < 3:
            path.mkdir()
            (path / "agent.log").touch()

    monkeypatch.setattr(shutil, "rmtree", meanwhile_a_file_is_added)
    _remove(folder)
    assert removed == [folder] * 3
    assert not folder.exists()
