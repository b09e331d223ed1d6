from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from runners.emulator import find_installation, install, parts
from runners.emulator.installation import Installation, built_versions, installation_folder, write_record
from runners.emulator.parts import COUNTED
from space.errors import InputError

install_module = sys.modules["runners.emulator.install"]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _pretend_build(building: Path, report) -> Installation:
    """An installation of files that hold nothing of use."""
    for name in ("library", "runner", "plugin", "warm_up", "qemu"):
        (building / name).write_bytes(b"1")
    (building / "lib").mkdir()
    return Installation(
        folder=building,
        qemu=(str(building / "qemu"),),
        library=building / "library",
        runner=building / "runner",
        plugin=building / "plugin",
        warm_up=building / "warm_up",
        system_libraries=building / "lib",
        versions={"qemu": "0"},
    )


def test_installs_once(emulator) -> None:
    lines: list[str] = []
    start = time.perf_counter()
    assert install(lines.append) == emulator == find_installation()
    assert time.perf_counter() - start < 0.5
    assert lines == []


def test_folder_names_the_version(emulator) -> None:
    assert emulator.folder.name.startswith(f"onnxruntime-{emulator.versions['onnxruntime']}-")


def test_nothing_is_found_in_an_empty_cache(empty_cache) -> None:
    assert find_installation() is None


def test_a_damaged_installation_is_made_again(empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(install_module, "_build", _pretend_build)
    found = install(lambda line: None)
    found.plugin.unlink()
    assert find_installation() is None
    assert install(lambda line: None) == found == find_installation()
    found.runner.write_bytes(b"")  # a disk that was full
    assert find_installation() is None
    assert install(lambda line: None) == found == find_installation()
    record = installation_folder() / "installation.json"
    whole = json.loads(record.read_text())
    changes = ({"qemu": [1, 2]}, {"qemu": []}, {"versions": [1]}, {"library": 3}, {"library": "/gone"}, {"sizes": 4})
    damaged = [whole | change for change in changes]
    for text in ("{", "[1]", *map(json.dumps, damaged)):
        record.write_text(text)
        assert find_installation() is None


def test_other_users_of_a_shared_cache_find_it(empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(install_module, "_build", _pretend_build)
    assert stat.S_IMODE(install(lambda line: None).folder.stat().st_mode) == 0o755


def test_a_library_path_holds_no_colon(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SHOEBOX_CACHE", str(tmp_path / "a:b"))
    with pytest.raises(InputError, match=r"no folder with a colon.*SHOEBOX_CACHE"):
        install(lambda line: None)


def test_other_files_of_the_system_make_another_installation(empty_cache, tmp_path, monkeypatch) -> None:
    """An upgrade replaces them, and hosts that share a cache differ in them: none must use or remove another's."""
    qemu = tmp_path / "qemu-aarch64"
    monkeypatch.setattr(parts, "SYSTEM_ROOT", tmp_path / "none")
    monkeypatch.setattr(parts.shutil, "which", lambda name: str(qemu) if qemu.exists() else None)
    folders = [installation_folder()]
    for number, text in enumerate(("first", "second", "longer")):
        qemu.write_text(text)
        os.utime(qemu, (number, number))
        folders += [installation_folder(), installation_folder()]
    assert len(set(folders)) == 4
    assert folders[1::2] == folders[2::2]


def test_versions_tell_what_was_built_and_found_here(emulator, tmp_path) -> None:
    """Another compiler's runner counts otherwise, as does one with another C library."""
    versions = built_versions(emulator.runner, emulator.system_libraries)
    assert versions.items() <= emulator.versions.items()
    for name in COUNTED:
        (tmp_path / name).write_bytes((emulator.system_libraries / name).read_bytes())
    assert built_versions(emulator.runner, tmp_path) == versions
    (tmp_path / "libm.so.6").write_bytes(b"of another distribution")
    assert built_versions(emulator.runner, tmp_path)["libraries"] != versions["libraries"]
    assert built_versions(emulator.plugin, tmp_path)["runner"] != versions["runner"]


def test_a_failed_step_leaves_nothing_behind(empty_cache, monkeypatch) -> None:
    def fail(building: Path, report) -> Installation:
        (building / "half").write_bytes(b"x")
        raise InputError("Cannot download packages: no network.", parts.GO_ON)

    monkeypatch.setattr(install_module, "_build", fail)
    with pytest.raises(InputError, match=r"no network.*--latency estimated"):
        install(lambda line: None)
    assert [path.name for path in (empty_cache / "emulator").iterdir()] == ["install.lock"]


def test_what_a_killed_process_left_is_removed(empty_cache, monkeypatch) -> None:
    stale = empty_cache / "emulator" / ".building-old"
    stale.mkdir(parents=True)
    monkeypatch.setattr(install_module, "_build", _pretend_build)
    install(lambda line: None)
    assert not stale.exists()


def test_a_full_disk_is_a_sentence(empty_cache, monkeypatch) -> None:
    def full(building: Path, report) -> Installation:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(install_module, "_build", full)
    with pytest.raises(InputError, match=r"No space left on device.*estimated"):
        install(lambda line: None)


def test_a_second_process_waits(empty_cache, monkeypatch) -> None:
    builds: list[Path] = []

    def build(building: Path, report) -> Installation:
        builds.append(building)
        return _pretend_build(building, report)

    monkeypatch.setattr(install_module, "_build", build)
    lines: list[str] = []
    folder = empty_cache / "emulator"
    folder.mkdir(parents=True)
    with FileLock(folder / "install.lock"):
        waiting = threading.Thread(target=lambda: install(lines.append))
        waiting.start()
        deadline = time.monotonic() + 10
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lines == ["Waiting for another process that is installing the emulator."]
        made = folder / "made"  # what the other process finishes meanwhile
        made.mkdir()
        write_record(made, _pretend_build(made, None))
        made.rename(installation_folder())
    waiting.join(10)
    assert builds == []
    assert find_installation() is not None


def test_other_systems_are_told(empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(parts.platform, "machine", lambda: "riscv64")
    with pytest.raises(InputError, match=r"needs Linux on x86-64.*--latency estimated"):
        install(lambda line: None)


def test_a_system_without_apt_is_told_what_is_missing(empty_cache, monkeypatch) -> None:
    monkeypatch.setattr(parts.shutil, "which", lambda name: None)
    monkeypatch.setattr(parts, "SYSTEM_ROOT", Path("/nowhere"))
    with pytest.raises(InputError, match=r"qemu-aarch64 .*no apt .*package manager\. .*--latency estimated"):
        install(lambda line: None)


def test_a_qemu_without_plugins_is_told(empty_cache, monkeypatch, emulator, tmp_path) -> None:
    monkeypatch.setattr(install_module, "_build", lambda building, report: install_module.start_once(broken))
    script = tmp_path / "qemu"
    script.write_text("#!/bin/sh\necho 'qemu: unknown option plugin' >&2\nexit 1\n")
    script.chmod(0o755)
    broken = Installation(**{**vars(emulator), "qemu": (str(script),)})
    with pytest.raises(InputError, match=r"takes no plugins.*--latency estimated"):
        install(lambda line: None)


def test_a_step_that_fails_quotes_the_program(tmp_path) -> None:
    with pytest.raises(InputError, match="Cannot find flour: E: no flour"):
        parts.run_step("find flour", ["sh", "-c", "echo 'E: no flour.' >&2; exit 100"], tmp_path)
    with pytest.raises(InputError, match="Cannot bake: there is no oven-of-mine here"):
        parts.run_step("bake", ["oven-of-mine"], tmp_path)


CHECK = """
from runners.emulator import check, install
install(print)
check(print)
"""


AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p.endswith("-packages"))])
    own = {"SHOEBOX_CACHE": str(folder / "cache"), "HOME": str(folder), "PYTHONPATH": path}
    return {**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1"}


def _ordinary_user_command(folder: Path) -> list[str]:
    """Starts a Python as a user without rights: this one, or where it lies in a private folder the system's."""
    if os.geteuid() != 0:
        return [sys.executable]
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv to become an ordinary user with")
    private = 4 if "PYTEST_XDIST_WORKER" in os.environ else 3  # folders of pytest, the test's own included
    for parent in (folder, *folder.parents)[:private]:
        parent.chmod(0o755)
    os.chown(folder, 65534, 65534)
    probe = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import runners.emulator'], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*AS_NOBODY, python]
        done = subprocess.run([*command, "-c", probe], cwd="/", env=_environment(folder), capture_output=True)
        if done.returncode == 0:
            return command
    pytest.skip("an ordinary user can run no Python with the packages here")


@pytest.mark.slow
@pytest.mark.parametrize("user", ["this user", "an ordinary user"])
def test_installs_from_nothing(user, tmp_path) -> None:
    """From an empty cache, over the network."""
    command = [sys.executable] if user == "this user" else _ordinary_user_command(tmp_path)
    done = subprocess.run(
        [*command, "-c", CHECK], cwd="/", env=_environment(tmp_path), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cortex-a76" in done.stdout
