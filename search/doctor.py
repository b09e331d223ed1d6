"""`shoebox doctor`: what a search would find on this machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

LIBRARIES = ("torch", "transformers", "datasets", "optuna", "ray", "onnxruntime", "onnx", "numpy")
LEAST_FREE_BYTES = 2_000_000_000  # a teacher, its outputs, the emulator and some dozen bundles

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer. A `note` costs speed or precision; a `problem` keeps a search from running."""

    subject: str
    state: State
    text: str


def examine(storage: str | None = None) -> Iterator[Finding]:
    """Look at everything a search needs, cheapest first; asks no network.

    Args:
        storage: URL; default `home()/studies.db`.
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
    yield from _latency_backends()


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
        return Finding("libraries", "problem", f"missing: {', '.join(missing)}; install Shoebox by pip")
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
    return Finding("teacher", "note", "the extra `offline` is not installed: teachers come from the Hugging Face hub")


def _folder(subject: str, folder: Path) -> Finding:
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(subject, "problem", f"{folder} cannot be written: {error.strerror or error}")
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / 1e9:.1f} GB free"
    return Finding(subject, "ok" if free >= LEAST_FREE_BYTES else "note", text)


def _storage(url: str | None) -> Finding:
    from search.storage import default_url, masked, open_storage, storage_exists, study_names
    from space.errors import InputError

    url = url or default_url()
    if not storage_exists(url):
        return Finding("storage", "ok", f"{masked(url)}, to be made by the first search")
    try:
        count = len(study_names(open_storage(url)))
    except InputError as error:
        return Finding("storage", "problem", str(error))
    return Finding("storage", "ok", f"{masked(url)}, {count} studies")


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
        yield Finding("latency: emulated", "note", reason)
    elif installation is None:
        text = "not installed; the first search does it, or `shoebox emulator install`"
        yield Finding("latency: emulated", "note", text)
    elif reason := attempt(lambda: start_once(installation)):
        yield Finding("latency: emulated", "problem", reason)
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
