"""A real Ray cluster of three hosts with a real PostgreSQL server. Takes minutes: `pytest -m slow`."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hosts import RayHosts, can_make_hosts
from helpers.postgresql_server import PostgresServer, binaries

from search.ledger import state_of
from search.storage import find_study, open_storage
from search.study import load_study

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts(home: Path, tmp_path: Path) -> Iterator[RayHosts]:
    if reason := can_make_hosts():
        pytest.skip(reason)
    cluster = RayHosts(3, tmp_path, {"PYTHONPATH": os.environ["PYTHONPATH"]}, ("--include-dashboard=false",))
    yield cluster
    cluster.close()


@pytest.fixture
def url(hosts: RayHosts) -> Iterator[str]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    server = PostgresServer(hosts.gateway)
    yield server.new_url()
    server.close()


def wait_for(url: str, state: str, count: int, driver: subprocess.Popen[str], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    storage = open_storage(url)
    while time.monotonic() < until:
        study = find_study(storage, "toy")
        if study is not None and [state_of(trial) for trial in study.get_trials()].count(state) >= count:  # type: ignore[arg-type]
            return
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.2)
    driver.kill()
    raise AssertionError(f"fewer than {count} trials were {state} in {seconds} s: {driver.communicate()[0]}")


def test_a_host_dies_in_mid_trial(hosts: RayHosts, url: str, toy_file: Path, shoebox_command: list[str]) -> None:
    toy_file.write_text(toy_file.read_text().replace("workers: 2", "sampler: random").replace("sampler: tpe, ", ""))
    toy_file.write_text(toy_file.read_text().replace("deployed_bytes: 600000", "deployed_bytes: 20000000"))
    command = [*shoebox_command, "search", str(toy_file), "--trials", "9", "--address", "auto"]
    environment = {"SHOEBOX_STORAGE": url, "SHOEBOX_TOY_SECONDS": "20", **hosts.settings}
    driver = hosts.head.start(command, environment)
    try:
        wait_for(url, "finished", 3, driver)  # of three hosts with a CPU each
        wait_for(url, "running", 3, driver)
        hosts.hosts[2].power_off()
        out, _ = driver.communicate(timeout=400)
    finally:
        driver.kill()
    assert driver.returncode == 0, out
    study = load_study("toy", url)
    assert len(study.trials("finished")) + len(study.trials("failed")) == 9
    assert len(study.trials("finished")) >= 8
    assert not study.trials("running")
    assert not study.trials("waiting")
    ran_on = {(Path(record.bundle) / "host").read_text() for record in study.records()}
    assert ran_on == {host.name for host in hosts.hosts}
    # Nothing of the dead trial is left, and of Ray Tune's files neither.
    bundles = {path.name for path in Path(study.records()[0].bundle).parent.iterdir()}
    assert bundles == {f"{record.trial:05d}" for record in study.records()}
    assert not list((Path(os.environ["SHOEBOX_CACHE"]) / "tune").iterdir())
