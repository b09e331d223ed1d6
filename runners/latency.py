"""Latency of an architecture before it is trained, measured once and remembered.

Weights hardly change what is executed, so that a reading belongs to an architecture (shapes and bits), a device, a
token length and the tools' versions. It is kept on disk under exactly these. (Where tokens are pruned, weights decide
which are kept, and how long they take to be sorted: up to 0.06 % of the time.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from objectives.latency import LatencyReading, cost_model_version, load_profile
from objectives.latency.estimate import estimate, estimate_version, load_estimates
from runners.emulator import Installation, find_installation, install, measure_each
from runners.emulator.native import host_name, install_native, measure_natively, native_version
from runners.operators import count_operators, operators_version
from space.errors import InputError
from space.paths import cache

_log = logging.getLogger("shoebox.runners.latency")
WriteModel = Callable[[Path], object]
Tokens = Annotated[int, Field(ge=1, le=4096)]


class DeviceSpec(BaseModel):
    """Section ``device:`` of a study file.

    Attributes:
        profile: a shipped device profile, or the path of one (``.yaml``). Without effect on ``native``.
        tokens: length of the text that is timed: one number, or a typical and a long one, ``[16, 48]``. ``auto``
            takes the median and the 95th percentile of the task's texts in the student's own word pieces
            (`runners.trial.Prepared.text_lengths`).
        check_examples: validation examples on which the front of a finished search is judged once more, with the
            ARM kernels; 0 leaves that out. Only with ``emulated``.
        latency: ``emulated`` runs the model on an emulated core; ``native`` times it by the clock of this machine,
            meant for AArch64 ones; ``estimated`` adds up recorded costs of its operators, for machines that can do
            neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = "cortex-a53"
    tokens: Literal["auto"] | Tokens | tuple[Tokens, Tokens] = "auto"
    latency: Literal["emulated", "native", "estimated"] = "emulated"
    check_examples: Annotated[int, Field(ge=0)] = 1000

    @field_validator("tokens")
    @classmethod
    def _rising(cls, tokens: Literal["auto"] | int | tuple[int, int]) -> Literal["auto"] | int | tuple[int, int]:
        if isinstance(tokens, tuple) and tokens[0] >= tokens[1]:
            raise ValueError(f"of two lengths the shorter one should come first, not {list(tokens)}")
        return tokens

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """The lengths as far as the study file gives them: None for ``auto``."""
        if self.tokens == "auto":
            return None
        return (self.tokens,) if isinstance(self.tokens, int) else self.tokens


class LatencyMeter:
    """Times architectures on one device.

    Attributes:
        identity: changes with anything that the device's profile says (natively: with the machine).
        tools: what else a reading depends on, by name. Of ``emulated`` known once it is set up (`prepare`).

    Raises:
        InputError: on construction, where the device is unknown or has no recorded costs to estimate from.
    """

    def __init__(self, device: DeviceSpec) -> None:
        self.device = device
        self.profile = load_profile(device.profile)
        content = self.profile.model_dump_json()
        if device.latency == "estimated":
            load_estimates(self.profile)
        elif device.latency == "native":
            content = host_name()
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:12]
        self._content = content

    @cached_property
    def tools(self) -> dict[str, str]:
        if self.device.latency == "estimated":
            tools = {"estimates": estimate_version(self.profile), "operators": operators_version()}
        elif self.device.latency == "native":
            tools = {"runner": native_version()}
        else:
            tools = {**self._installation().versions, "cost_model": cost_model_version()}
        return {**tools, "onnxruntime": version("onnxruntime")}

    def _installation(self) -> Installation:
        self.prepare()
        found = find_installation()
        if found is None:
            raise InputError("The emulator has gone while it was in use.", "Run `shoebox emulator install`.")
        return found

    def prepare(self) -> None:
        """Set up what the backend needs where it is missing, so that workers find it ready.

        Raises:
            InputError: it cannot be had; says what is missing and how to go on without it.
        """
        if self.device.latency == "emulated" and find_installation() is None:
            _log.info("Setting up the ARM emulator (once, about half a minute).")
            install(_log.info)
        elif self.device.latency == "native":
            install_native(_log.info)

    def measure(
        self, architecture_key: str, write_model: WriteModel, tokens: Sequence[int]
    ) -> tuple[LatencyReading, ...]:
        """Latency of one architecture, a reading for each number of tokens.

        ``write_model(path)`` writes its ONNX file where a reading is not known yet. Raises as `measure_many`.
        """
        return self.measure_many([(architecture_key, write_model)], tokens)[0]

    def measure_many(
        self, architectures: Sequence[tuple[str, WriteModel]], tokens: Sequence[int]
    ) -> list[tuple[LatencyReading, ...]]:
        """Latency of several architectures, all that is not known yet in one emulator process.

        Args:
            architectures: key (see `space.families.architecture_key`) and what writes the ONNX file.
            tokens: lengths; each architecture gets one reading for each of them.

        Raises:
            InputError: a model cannot be run, or the backend fails or cannot be had. What was measured of the others
                by then is remembered.
        """
        if not tokens or min(tokens) < 1:
            raise InputError(f"A model cannot be timed at {list(tokens)} tokens.", "Give lengths of at least 1.")
        writers = dict(architectures)
        wanted = [(key, length) for key in writers for length in dict.fromkeys(tokens)]
        readings = {each: reading for each in wanted if (reading := self._remembered(*each)) is not None}
        missing = [each for each in wanted if each not in readings]
        failed: list[InputError] = []
        if missing:
            for each, found in zip(missing, self._measure_missing(missing, writers), strict=True):
                if isinstance(found, InputError):
                    failed.append(found)
                else:
                    self._remember(*each, found)
                    readings[each] = found
        if failed:
            raise failed[0]
        return [tuple(readings[key, length] for length in tokens) for key, _ in architectures]

    def _measure_missing(
        self, missing: Sequence[tuple[str, int]], writers: Mapping[str, WriteModel]
    ) -> list[LatencyReading | InputError]:
        with tempfile.TemporaryDirectory(prefix="shoebox-latency-") as folder:
            keys = dict.fromkeys(key for key, _ in missing)
            paths = {key: Path(folder) / f"model-{index}.onnx" for index, key in enumerate(keys)}
            for key, path in paths.items():
                writers[key](path)
            return self._time([(paths[key], length) for key, length in missing])

    def _time(self, requests: Sequence[tuple[Path, int]]) -> list[LatencyReading | InputError]:
        if self.device.latency == "estimated":
            return [self._estimate(path, tokens) for path, tokens in requests]
        if self.device.latency == "native":
            return measure_natively(requests, install_native(_log.info))
        return measure_each(requests, self.profile, self._installation())

    def _estimate(self, path: Path, tokens: int) -> LatencyReading | InputError:
        try:
            return estimate(count_operators(path, tokens), self.profile, tokens)
        except InputError as error:
            return error

    def _file(self, architecture_key: str, tokens: int) -> Path:
        tools = json.dumps(self.tools, sort_keys=True)
        text = json.dumps([architecture_key, str(tokens), self._content, self.device.latency, tools])
        return cache() / "latency" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def _remembered(self, architecture_key: str, tokens: int) -> LatencyReading | None:
        try:
            return LatencyReading.model_validate_json(self._file(architecture_key, tokens).read_bytes())
        except (OSError, ValidationError):  # never seen, or a damaged file: measured again
            return None

    def _remember(self, architecture_key: str, tokens: int, reading: LatencyReading) -> None:
        target = self._file(architecture_key, tokens)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(reading.model_dump_json(), encoding="utf-8")
            os.replace(temporary, target)
        except OSError as error:  # a reading that cannot be kept is still a reading
            with contextlib.suppress(OSError):
                temporary.unlink()
            _log.info("Cannot keep a latency reading in %s: %s.", target.parent, error.strerror or error)
