"""Where an installed emulator lies and what it consists of."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache as remember
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from space.paths import cache

RECIPE = 2  # of the installation itself, and of what an emulated program sees: raise it where no source changes
RUNNER_SOURCES = ("runner.c", "model.c", "heap.c", "region.c", "clock.c")
HEADERS = ("model.h", "heap.h", "region.h", "clock.h")
_RECORD = "installation.json"


@dataclass(frozen=True)
class Installation:
    """An emulator that is ready to run.

    Attributes:
        folder: holds everything that was made for it.
        qemu: the command that starts it (a private loader first, where the parts are private).
        library: ONNX Runtime for AArch64.
        runner, plugin: see ``runner.c`` and ``plugin.c``.
        warm_up: the model that the runner runs first.
        system_libraries: the AArch64 C and C++ libraries.
        versions: of everything that a count depends on.
    """

    folder: Path
    qemu: tuple[str, ...]
    library: Path
    runner: Path
    plugin: Path
    warm_up: Path
    system_libraries: Path
    versions: dict[str, str]


def source(name: str) -> bytes:
    """One of the sources of this package."""
    return (files("runners.emulator") / name).read_bytes()


@remember
def sources_version() -> str:
    """Changes with the plugin, the runner, its warm-up model and the way they are built."""
    digest = hashlib.sha256(str(RECIPE).encode())
    for name in ("plugin.c", "warm_up.py", *RUNNER_SOURCES, *HEADERS):
        digest.update(source(name))
    return digest.hexdigest()[:8]


def installation_folder() -> Path:
    """Where the emulator for the installed ONNX Runtime belongs, whether or not it is there."""
    return cache() / "emulator" / f"onnxruntime-{version('onnxruntime')}-sources-{sources_version()}"


def find_installation() -> Installation | None:
    """The installed emulator, or None where there is none or parts of it are gone. Costs milliseconds."""
    folder = installation_folder()
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        qemu = tuple(part.replace("{folder}", str(folder)) for part in record["qemu"])
        found = Installation(
            folder=folder,
            qemu=qemu,
            library=folder / record["library"],
            runner=folder / record["runner"],
            plugin=folder / record["plugin"],
            warm_up=folder / record["warm_up"],
            system_libraries=folder / record["system_libraries"],
            versions=dict(record["versions"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    parts = [found.library, found.runner, found.plugin, found.warm_up, found.system_libraries]
    programs = [Path(part) for part in found.qemu if part.startswith("/") and ":" not in part]
    return found if all(part.exists() for part in parts + programs) else None


def write_record(building: Path, installation: Installation) -> None:
    """Describe an installation that was built in ``building``, so that it can be moved afterwards."""
    record = asdict(installation)
    del record["folder"]
    for key in ("library", "runner", "plugin", "warm_up", "system_libraries"):
        path = record[key]
        record[key] = str(path.relative_to(building)) if path.is_relative_to(building) else str(path)
    record["qemu"] = [part.replace(str(building), "{folder}") for part in installation.qemu]
    temporary = building / (_RECORD + ".part")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(temporary, building / _RECORD)
