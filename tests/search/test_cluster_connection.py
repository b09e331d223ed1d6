"""Connecting to a cluster: what can be told without one, and a private Ray as the smallest one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from search.cluster.connection import connected, named_paths, worker_environment
from search.cluster.nodes import Needs, Node, installed_version, look_around, trials_at_once
from search.study_file import load_study_file
from space.errors import InputError

Shoebox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("cpus", "gpus", "fit"), [(1, 0, 12), (2, 0, 6), (3, 0, 3), (0.1, 0, 120), (1, 0.25, 8), (1, 1, 2), (8, 0, 1)]
)
def test_trials_that_fit(cpus: float, gpus: float, fit: int) -> None:
    nodes = [Node("a", "10.0.0.1", 4, 0), Node("b", "10.0.0.2", 8, 2)]
    assert trials_at_once(nodes, cpus, gpus) == fit


def test_a_trial_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs 1 CPUs and 1 GPUs: 10\.0\.0\.1 has 4 CPUs and 0 GPUs"):
        trials_at_once([Node("a", "10.0.0.1", 4, 0)], 1, 1)


@pytest.mark.parametrize("value", [0, -1, 1.5, 0.33333])
def test_resources_are_as_ray_takes_them(toy_file: Path, value: float) -> None:
    toy_file.write_text(toy_file.read_text().replace("seed: 0", f"cpus_per_trial: {value}"))
    with pytest.raises(InputError, match=r"search\.cpus_per_trial"):
        load_study_file(toy_file)


def test_workers_get_folders_and_no_storage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOEBOX_STORAGE", "postgresql://me:s3cret@host/name")
    monkeypatch.setenv("SHOEBOX_TOY_SECONDS", "1")
    found = worker_environment(3)
    assert found["SHOEBOX_HOME"] == str(home)
    assert found["SHOEBOX_TOY_SECONDS"] == "1"
    assert found["OMP_NUM_THREADS"] == "3"
    assert "s3cret" not in str(found)


def test_paths_of_a_study_are_found_wherever_they_are(tmp_path: Path) -> None:
    section = {"task": {"data": {"path": str(tmp_path)}, "text": "/no such"}, "more": [{"path": str(tmp_path)}, "/"]}
    assert named_paths(section) == ["/", str(tmp_path)]


def test_a_host_says_what_it_lacks(tmp_path: Path) -> None:
    seen, other = tmp_path / "seen", tmp_path / "other"
    seen.write_text("mark")
    other.write_text("another")
    storage = f"sqlite:///{tmp_path}/x.db"
    assert look_around(Needs({str(seen): "mark"}, (str(tmp_path),), storage, installed_version())) == []
    marks = {str(other): "mark", str(tmp_path / "away" / "mark"): "mark"}
    assert look_around(Needs(marks, ("/no/data",), storage, "0.0")) == [
        f"{tmp_path} is another folder here",
        f"{tmp_path / 'away'} is not the shared folder",
        "/no/data is not there",
        f"Shoebox is {installed_version()}, not 0.0",
    ]
    assert not list(tmp_path.glob("seen.*"))  # no answers left
    lacking = look_around(Needs({}, (), "postgresql://me:s3cret@127.0.0.1:1/name", installed_version()))
    assert "cannot be opened" in lacking[0]
    assert "s3cret" not in lacking[0]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
        ("ray://head:10001", "shoebox submit"),
        ("head", "HOST:PORT"),
        ("head:port", "HOST:PORT"),
    ],
)
def test_where_no_cluster_is(toy_file: Path, shoebox: Shoebox, address: str, said: str) -> None:
    done = shoebox("search", str(toy_file), "--address", address)
    assert done.returncode == 2
    assert said in done.stderr


def test_nothing_is_left_of_a_failed_connection(toy_file: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError),
        connected("127.0.0.1:1", load_study_file(toy_file), f"sqlite:///{tmp_path}/x.db"),
    ):
        raise AssertionError("there is no cluster")
    assert not list(tmp_path.rglob("tune"))
