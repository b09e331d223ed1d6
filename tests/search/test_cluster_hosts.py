"""A real Ray cluster of three hosts with a real PostgreSQL server. Takes minutes: `pytest -m slow`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hosts import RayHosts, can_make_hosts
from helpers.postgresql_server import PostgresServer, binaries

from runners.bundle_store import fetch
from search.states import state_of
from search.storage import find_study, open_storage
from search.study import load_study

pytestmark = pytest.mark.slow
HAS_JOBS = all(importlib.util.find_spec(name) for name in ("aiohttp", "aiohttp_cors", "requests"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHosts]:
    if reason := can_make_hosts():
        pytest.skip(reason)
    here = Path(__file__).parent
    dashboard = "--dashboard-host=0.0.0.0" if HAS_JOBS else "--include-dashboard=false"
    folder = tmp_path_factory.mktemp("ray")
    cluster = RayHosts(3, folder, {"PYTHONPATH": f"{here.parents[1]}:{here}"}, (dashboard,))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def server(hosts: RayHosts) -> Iterator[PostgresServer]:
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    server = PostgresServer(hosts.gateway)
    yield server
    server.close()


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.new_url()


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


def run(driver: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = driver.communicate(timeout=400)
    return driver.returncode, out


def test_what_hosts_lack_is_said_before_anything_runs(
    hosts: RayHosts, url: str, toy_file: Path, home: Path, shoebox_command: list[str]
) -> None:
    command = [*shoebox_command, "search", str(toy_file), "--address", f"{hosts.head.address}:6379"]
    code, out = run(hosts.head.start([*command, "--storage", f"sqlite:///{home}/x.db"], hosts.settings))
    assert code == 2, out
    assert "postgresql://" in out
    home.mkdir(exist_ok=True)
    last = hosts.hosts[2]
    last.run(["mount", "-t", "tmpfs", "none", str(home)], {})  # a disk of its own at the same path
    try:
        code, out = run(hosts.head.start(command, {"SHOEBOX_STORAGE": url, **hosts.settings}))
    finally:
        last.run(["umount", str(home)], {})
    assert code == 2, out
    assert f"Not every host of the cluster can run this study: {last.address}: {home} is not the shared folder." in out
    assert "s3cret" not in out
    assert find_study(open_storage(url), "toy") is None


@pytest.mark.skipif(not HAS_JOBS, reason="Ray Jobs are not installed (pip install 'shoebox[cluster]')")
def test_a_job_searches(hosts: RayHosts, url: str, toy_file: Path, tmp_path: Path, shoebox_command: list[str]) -> None:
    bundles = f"file://{tmp_path}/bundles"
    options = ["--storage", url, "--shared", str(tmp_path / "shared"), "--bundles", bundles, "--trials", "4"]
    command = [*shoebox_command, "submit", str(toy_file), "--address", f"http://{hosts.head.address}:8265"]

    def submit(token: str) -> subprocess.CompletedProcess[str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        environment = {**ours, "RAY_AUTH_TOKEN_PATH": token}
        return subprocess.run(
            [*command, *options, "--wait"], capture_output=True, text=True, check=False, timeout=400, env=environment
        )

    (tmp_path / "other").write_text("0" * 64)
    for token, said in (("missing", "asks for a token, and there is none"), ("other", "takes another token than")):
        refused = submit(str(tmp_path / token))
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr
    done = submit(hosts.settings["RAY_AUTH_TOKEN_PATH"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray cluster: 3 hosts, 2 trials at a time." in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    study = load_study("toy", url)
    assert len(study.trials("finished")) == 4
    assert {record.bundle for record in study.records()} == {
        f"{bundles}/toy/{record.trial:05d}" for record in study.records()
    }
    assert (fetch(study.best().bundle) / "model.onnx").read_bytes().startswith(b"toy")


@pytest.mark.skipif(not HAS_JOBS, reason="Ray Jobs are not installed (pip install 'shoebox[cluster]')")
def test_a_job_goes_on_when_nobody_waits_for_it(
    hosts: RayHosts, url: str, toy_file: Path, tmp_path: Path, shoebox_command: list[str]
) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [*shoebox_command, "submit", str(toy_file), "--address", f"http://{hosts.head.address}:8265"]
    options = ["--storage", url, "--shared", str(tmp_path / "shared"), "--bundles", f"file://{tmp_path}/bundles"]
    options += ["--trials", "120"]  # so many that it is not over before anybody could go away
    waiting = subprocess.Popen(
        [*command, *options, "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ours, "RAY_AUTH_TOKEN_PATH": hosts.settings["RAY_AUTH_TOKEN_PATH"], "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert waiting.stdout is not None
        seen: list[str] = []
        while not any("Ray cluster: 3 hosts" in line for line in seen):
            seen.append(waiting.stdout.readline())
            assert seen[-1], seen
        waiting.terminate()  # as by Ctrl-C, which a shell lets its jobs in the background ignore
        rest, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
    assert waiting.returncode == 130, rest
    first = next(place for place, line in enumerate(seen) if line.startswith("Job "))
    assert [line.partition(":")[0] for line in seen[first + 1 : first + 3]] == ["Follow it with", "Stop it with"]
    job = seen[first].split()[1]
    assert f"Job {job} goes on; only its log is no longer shown." in rest
    assert "Traceback" not in rest
    until = time.monotonic() + 300
    while len(load_study("toy", url).trials("finished")) < 120 and time.monotonic() < until:
        time.sleep(1)
    assert len(load_study("toy", url).trials("finished")) == 120


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
