"""Recorded costs of operators on a device: the schema of the files under ``data/``, and how they are found."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from objectives.latency.profile import DeviceProfile
from space.errors import InputError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(_Strict):
    """Of one unit of work."""

    instructions: NonNegativeFloat
    cycles: NonNegativeFloat


class FitError(_Strict):
    """Relative error of estimated against emulated milliseconds, on models that were not fitted to."""

    models: NonNegativeInt
    median: NonNegativeFloat
    maximum: NonNegativeFloat


class LiveMemory(_Strict):
    """How much memory besides weights, workspace and code a model uses over and over.

    Attributes:
        activations: so many times the inputs and outputs of its largest call.
        states: so many hidden states beside them.
    """

    activations: NonNegativeFloat
    states: NonNegativeFloat


class Estimates(_Strict):
    """Recorded costs of one device.

    Attributes:
        device: name of the profile.
        profile: digest of the profile that cycles were counted with.
        recorded: date.
        versions: of the tools that the costs were recorded with.
        error: on students held out, by the space that they were drawn from.
        kinds: of operator calls that were recorded.
        live: memory in use that the stalls were fitted with.
        costs: of computing, by ``kind.unit``.
        stalls: cycles of waiting for memory, by feature of `traffic.memory_features`.
    """

    device: str
    profile: str
    recorded: str
    versions: dict[str, str]
    error: dict[str, FitError]
    kinds: list[str]
    live: LiveMemory
    costs: dict[str, Cost]
    stalls: dict[str, NonNegativeFloat]


def profile_digest(profile: DeviceProfile) -> str:
    """Changes with everything in a profile that milliseconds depend on."""
    text = profile.model_dump_json(include={"clock_ghz", "pipeline", "memory", "emulation"})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def _stored(device: str) -> Estimates | None:
    path = files("objectives.latency") / "data" / f"{device}.json"
    try:
        return Estimates.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def load_estimates(profile: DeviceProfile) -> Estimates:
    """The recorded costs of a device.

    Raises:
        InputError: there are none, or they belong to another version of its profile.
    """
    found = _stored(profile.name)
    if found is None:
        raise InputError(
            f"There are no recorded operator costs for the device {profile.name!r}.",
            "Use `--latency emulated`, or one of the shipped devices.",
        )
    if found.profile != profile_digest(profile):
        raise InputError(
            f"The recorded operator costs of {profile.name!r} belong to another version of its profile.",
            "Use `--latency emulated`, or the profile as shipped.",
        )
    return found


@cache
def _estimator() -> bytes:
    """The code that turns operators and recorded costs into a figure."""
    latency = [files("objectives.latency") / f"{name}.py" for name in ("estimate", "traffic", "work")]
    return b"".join(path.read_bytes() for path in [*latency, files("space") / "operators.py"])


def estimate_version(profile: DeviceProfile) -> str:
    """Changes with the recorded costs of a device and with the code that adds them up, so that stored figures are not
    mixed."""
    text = load_estimates(profile).model_dump_json()
    return hashlib.sha256(text.encode() + _estimator()).hexdigest()[:8]
