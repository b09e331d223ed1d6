"""Setting the emulator up, once per version, safely for processes that do it at the same time."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from runners.emulator.execution import start_once
from runners.emulator.installation import (
    HEADERS,
    RUNNER_SOURCES,
    Installation,
    built_versions,
    find_installation,
    installation_folder,
    source,
    sources_version,
    write_record,
)
from runners.emulator.parts import (
    GO_ON,
    Compilers,
    fetch_runtime,
    missing_packages,
    qemu_command,
    require_platform,
    run_step,
    system_libraries,
    unpack_packages,
)
from runners.emulator.warm_up import write_warm_up
from space.errors import InputError

_ELSEWHERE = f"Give another cache folder by SHOEBOX_CACHE. {GO_ON}"


def install(report: Callable[[str], None]) -> Installation:
    """The emulator, set up first where it is not. Takes about 20 seconds and 250 MB.

    ``report`` gets a line of text for each step. A second process that wants to install waits for the first.

    Raises:
        InputError: a part cannot be had or does not work; says which, and nothing half-made stays behind.
    """
    found = find_installation()
    if found:
        return found
    require_platform()
    target = installation_folder()
    if ":" in str(target):  # separates the folders of a library path, and nothing quotes it
        raise InputError(f"The emulator works in no folder with a colon, as {target} has.", _ELSEWHERE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / "install.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report("Waiting for another process that is installing the emulator.")
            lock.acquire()
        try:
            return find_installation() or _install(target, report)
        finally:
            lock.release()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"Cannot install the emulator in {target.parent}: {reason}.", GO_ON) from None


def _install(target: Path, report: Callable[[str], None]) -> Installation:
    for stale in target.parent.glob(".building-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        write_record(building, _build(building, report))
        building.chmod(0o755)  # mkdtemp's is ours alone, and a cache may be shared
        if target.exists():
            shutil.rmtree(target)  # damaged: find_installation() did not take it
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    found = find_installation()
    if not found:
        raise InputError(f"The emulator in {target} is not complete after its installation.", GO_ON)
    report(f"The emulator is ready ({', '.join(f'{k} {v}' for k, v in found.versions.items())}).")
    return found


def compile_runner(compilers: Compilers, target: Path, *, guest: bool) -> None:
    """Compile the runner for the emulated core (``guest``) or for this machine."""
    for name in (*RUNNER_SOURCES, *HEADERS):
        (compilers.work / name).write_bytes(source(name))
    # Exported, so that ONNX Runtime finds the runner's allocation functions and clock before the C library's.
    options = ["-s", "-rdynamic"]
    compilers.compile([compilers.work / name for name in RUNNER_SOURCES], target, guest=guest, options=options)


def _build(building: Path, report: Callable[[str], None]) -> Installation:
    root, work = building / "root", building / "work"
    work.mkdir()
    missing = missing_packages()
    if missing:
        report(f"Fetching system packages into a private folder: {', '.join(missing)}.")
        unpack_packages(missing, root)
    report(f"Fetching ONNX Runtime {version('onnxruntime')} for AArch64.")
    library = fetch_runtime(building)
    report("Compiling the runner and the plugin.")
    compilers = Compilers(work)
    compile_runner(compilers, building / "runner", guest=True)
    (work / "plugin.c").write_bytes(source("plugin.c"))
    plugin_options = ["-s", "-fPIC", "-shared", "-fvisibility=hidden"]
    compilers.compile([work / "plugin.c"], building / "plugin.so", guest=False, options=plugin_options)
    qemu = qemu_command(root)
    printed = run_step("start qemu-aarch64", [*qemu, "--version"], work)
    number = re.search(r"version ([\d.]+)", printed)
    shutil.rmtree(work)
    libraries = system_libraries(root)
    installation = Installation(
        folder=building,
        qemu=qemu,
        library=library,
        runner=building / "runner",
        plugin=building / "plugin.so",
        warm_up=write_warm_up(building / "warm-up.onnx"),
        system_libraries=libraries,
        versions={
            "qemu": number[1] if number else "unknown",
            "onnxruntime": version("onnxruntime"),
            "sources": sources_version(),
            **built_versions(building / "runner", libraries),
        },
    )
    start_once(installation)
    return installation
