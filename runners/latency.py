"""Latency of an architecture before it is trained, measured once and remembered.

Weights do not change what is executed, so that a reading belongs to an architecture (shapes and bits), a
device, a token length and the tools' versions. It is kept on disk under exactly these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from objectives.latency import LatencyReading, cost_model_version, load_profile
from objectives.latency.estimate import estimate, estimate_version, load_estimates
from runners.emulator import find_installation, install, measure
from runners.emulator.installation import sources_version
from runners.operators import count_operators
from space.errors import InputError
from space.paths import cache

_log = logging.getLogger("shoebox.runners.latency")
WriteModel = Callable[[Path], None]


class DeviceSpec(BaseModel):
    """Section ``device:`` of a study file.

    Attributes:
        profile: a shipped device profile, or the path of one (``.yaml``).
        tokens: length of the text that is timed.
        latency: ``emulated`` runs the model on an emulated core; ``estimated`` adds up recorded costs of its
            operators, for machines that cannot emulate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = "cortex-a53"
    tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    latency: Literal["emulated", "estimated"] = "emulated"


class LatencyMeter:
    """Times architectures on one device.

    Raises:
        InputError: on construction, where the device is unknown or has no recorded costs to estimate from.
    """

    def __init__(self, device: DeviceSpec) -> None:
        self.device = device
        self.profile = load_profile(device.profile)
        if device.latency == "estimated":
            load_estimates(self.profile)
            tools = {"estimates": estimate_version(self.profile)}
        else:
            tools = {"sources": sources_version(), "cost_model": cost_model_version()}
        tools["onnxruntime"] = version("onnxruntime")
        content = self.profile.model_dump_json()
        self._context = [content, str(device.tokens), device.latency, json.dumps(tools, sort_keys=True)]

    def prepare(self) -> None:
        """Set the emulator up where it is needed and missing, so that workers find it ready.

        Raises:
            InputError: it cannot be had; says what is missing and how to go on without it.
        """
        if self.device.latency == "emulated" and find_installation() is None:
            _log.info("Setting up the ARM emulator (once, about half a minute).")
            install(_log.info)

    def measure(self, architecture_key: str, write_model: WriteModel) -> LatencyReading:
        """Latency of one architecture; ``write_model(path)`` writes its ONNX file where it is not known yet."""
        return self.measure_many([(architecture_key, write_model)])[0]

    def measure_many(self, architectures: Sequence[tuple[str, WriteModel]]) -> list[LatencyReading]:
        """Latency of several architectures, those not known yet in one emulator process.

        Raises:
            InputError: a model cannot be run, or the emulator fails or cannot be had.
        """
        readings = {key: self._remembered(key) for key, _ in architectures}
        missing = {key: write for key, write in architectures if readings[key] is None}
        if missing:
            with tempfile.TemporaryDirectory(prefix="shoebox-latency-") as folder:
                paths = [Path(folder) / f"model-{index}.onnx" for index in range(len(missing))]
                for path, write_model in zip(paths, missing.values(), strict=True):
                    write_model(path)
                for key, reading in zip(missing, self._time(paths), strict=True):
                    self._remember(key, reading)
                    readings[key] = reading
        return [found for key, _ in architectures if (found := readings[key]) is not None]

    def _time(self, paths: list[Path]) -> list[LatencyReading]:
        if self.device.latency == "estimated":
            return [
                estimate(count_operators(path, self.device.tokens), self.profile, self.device.tokens) for path in paths
            ]
        self.prepare()
        installation = find_installation()
        if installation is None:
            raise InputError("The emulator has gone while it was in use.", "Run `shoebox emulator install`.")
        return measure(paths, self.device.tokens, self.profile, installation)

    def _file(self, architecture_key: str) -> Path:
        text = json.dumps([architecture_key, *self._context])
        return cache() / "latency" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def _remembered(self, architecture_key: str) -> LatencyReading | None:
        try:
            return LatencyReading.model_validate_json(self._file(architecture_key).read_bytes())
        except (OSError, ValidationError):  # never seen, or a damaged file: measured again
            return None

    def _remember(self, architecture_key: str, reading: LatencyReading) -> None:
        target = self._file(architecture_key)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(reading.model_dump_json(), encoding="utf-8")
            os.replace(temporary, target)
        except OSError as error:  # a reading that cannot be kept is still a reading
            with contextlib.suppress(OSError):
                temporary.unlink()
            _log.info("Cannot keep a latency reading in %s: %s.", target.parent, error.strerror or error)
