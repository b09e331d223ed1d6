"""Where an installed emulator lies and what it consists of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache as remember
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from runners.emulator.parts import COUNTED, system_files
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


def built_versions(runner: Path, system_libraries: Path) -> dict[str, str]:
    """What a count depends on beside sources and releases: the compiler's work, and the distribution's libraries."""
    libraries = [system_libraries / name for name in COUNTED]
    return {"runner": _digest([runner]), "libraries": _digest(libraries)}


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def installation_folder() -> Path:
    """Where the emulator for the installed ONNX Runtime belongs, whether or not it is there.

    One that runs files of the system has a folder for these alone: they are upgraded, and other hosts of a shared cache
    have others.
    """
    name = f"onnxruntime-{version('onnxruntime')}-sources-{sources_version()}"
    states = [(str(path), path.stat().st_size, int(path.stat().st_mtime)) for path in system_files()]
    if states:
        name += f"-system-{hashlib.sha256(json.dumps(states).encode()).hexdigest()[:8]}"
    return cache() / "emulator" / name


def find_installation() -> Installation | None:
    """The installed emulator, or None where there is none or its parts are not what they were. Costs milliseconds."""
    folder = installation_folder()
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        found = Installation(
            folder=folder,
            qemu=tuple(part.replace("{folder}", str(folder)) for part in record["qemu"]),
            library=folder / record["library"],
            runner=folder / record["runner"],
            plugin=folder / record["plugin"],
            warm_up=folder / record["warm_up"],
            system_libraries=folder / record["system_libraries"],
            versions={str(name): str(number) for name, number in record["versions"].items()},
        )
        whole = all((folder / name).stat().st_size == size for name, size in record["sizes"].items())
        parts = [found.library, found.runner, found.plugin, found.warm_up, found.system_libraries, Path(found.qemu[0])]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return found if whole and all(part.exists() for part in parts) else None


def write_record(building: Path, installation: Installation) -> None:
    """Describe an installation that was built in ``building``, so that it can be moved afterwards."""
    record = asdict(installation)
    del record["folder"]

    def place(path: Path) -> str:
        return str(path.relative_to(building)) if path.is_relative_to(building) else str(path)

    parts = ("library", "runner", "plugin", "warm_up", "system_libraries")
    record |= {key: place(record[key]) for key in parts}
    files = [getattr(installation, key) for key in parts[:-1]] + [Path(installation.qemu[-1])]
    files += [path for name in COUNTED if (path := installation.system_libraries / name).exists()]
    record["sizes"] = {place(path): path.stat().st_size for path in files}
    record["qemu"] = [part.replace(str(building), "{folder}") for part in installation.qemu]
    temporary = building / (_RECORD + ".part")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(temporary, building / _RECORD)
