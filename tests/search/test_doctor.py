"""What `shoebox doctor` says of a machine."""

from __future__ import annotations

import pytest

from search.doctor import examine
from space.errors import InputError


def states(**options: str) -> dict[str, str]:
    return {finding.subject: finding.state for finding in examine(**options)}


def test_everything_a_search_needs_is_named(shoebox):
    done = shoebox("doctor")
    assert done.returncode == 0, done.stderr
    for subject in ("machine", "libraries", "training", "results", "cache", "storage"):
        assert any(line.split()[:2] == ["ok", subject] for line in done.stdout.splitlines()), subject
    assert "latency: emulated" in done.stdout
    assert "recorded costs for cortex-a53" in done.stdout


def test_a_storage_that_cannot_be_opened_is_a_problem(shoebox, tmp_path):
    (tmp_path / "studies.db").write_text("not a database, but long enough to be taken for one" * 100)
    done = shoebox("doctor", "--storage", f"sqlite:///{tmp_path}/studies.db")
    assert done.returncode == 1
    assert "problem  storage" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_password_is_not_shown(shoebox):
    done = shoebox("doctor", "--storage", "nosuch://user:secret@host/name")
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr


def test_a_home_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHOEBOX_HOME", str(tmp_path / "file" / "home"))
    assert states()["results"] == "problem"


def test_an_emulator_that_does_not_start_is_a_problem(emulator, monkeypatch):
    def fail(installation: object) -> None:
        raise InputError("The emulator of this system does not work here: this build of qemu takes no plugins.")

    monkeypatch.setattr("runners.emulator.find_installation", lambda: emulator)
    monkeypatch.setattr("runners.emulator.execution.start_once", fail)
    assert states()["latency: emulated"] == "problem"


def test_an_emulator_that_is_not_installed_is_a_note(home, monkeypatch):
    monkeypatch.setattr("runners.emulator.find_installation", lambda: None)
    assert states()["latency: emulated"] == "note"


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_native_times_are_flagged_where_the_machine_is_no_arm(machine, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert states()["latency: native"] == ("ok" if machine == "aarch64" else "note")


def test_a_missing_library_is_the_only_finding(monkeypatch):
    from importlib import metadata

    known = metadata.version

    def version(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr("search.doctor.metadata.version", version)
    (only,) = examine()
    assert (only.state, only.text) == ("problem", "missing: ray; install Shoebox by pip")
