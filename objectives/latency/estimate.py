"""Latency from recorded costs of operators, for machines that cannot emulate.

A model's amounts of work by operator (see ``runners/operators.py``) times recorded costs give instructions and
cycles. The costs were fitted to emulated counts of 210 random students of 8 to 128 tokens; the data files under
``data/`` say with which tools and how well. Against the emulator, on students held out, milliseconds are off by

    cortex-a53 3.0 % (median), 20 % (worst)      cortex-a72 4.1 %, 24 %
    cortex-a55 3.4 %, 39 %                       cortex-a76 7.1 %, 38 %

The A53 and A72 are worst at 8 and 16 tokens; the A55 and A76 at 48, for a reason not found yet. Cache behaviour is
that of the recorded students on average, and a profile that was changed since is not followed. An estimate tells
wide from narrow and 2 bits from 4; it does not decide between near neighbours, and must never be compared with an
emulated figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from objectives.latency.profile import DeviceProfile
from objectives.latency.reading import LatencyReading
from space.errors import InputError

# Operators with costs of their own. The rest is cheap or rare: it shares one cost per element.
_OWN_COSTS = {
    "GatherBlockQuantized",
    "GatherND",
    "Gelu",
    "LayerNormalization",
    "Product",
    "Relu",
    "SkipLayerNormalization",
    "Softmax",
    "Split",
    "TopK",
    "Transpose",
}


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


class Estimates(_Strict):
    """Recorded costs of one device.

    Attributes:
        device: name of the profile.
        recorded: date.
        versions: of the tools that the costs were recorded with.
        error: on models held out.
        costs: by what `costed_work` groups the work into.
    """

    device: str
    recorded: str
    versions: dict[str, str]
    error: FitError
    costs: dict[str, Cost]


@cache
def _stored(device: str) -> Estimates | None:
    path = files("objectives.latency") / "data" / f"{device}.json"
    try:
        return Estimates.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def load_estimates(profile: DeviceProfile) -> Estimates:
    """The recorded costs of a device. Raises InputError where there are none."""
    found = _stored(profile.name)
    if found is None:
        raise InputError(
            f"There are no recorded operator costs for the device {profile.name!r}.",
            "Use `--latency emulated`, or one of the shipped devices.",
        )
    return found


def estimate_version(profile: DeviceProfile) -> str:
    """Identifies the recorded costs of a device."""
    return load_estimates(profile).recorded


def costed_work(work: Mapping[str, float]) -> dict[str, float]:
    """Groups amounts of work by ``operator[variant].unit`` into those that have a cost.

    Calls of all operators count together as ``any.nodes``, elements of cheap and unknown ones as
    ``other.elements``; quantised products and those with costs of their own keep their names.
    """
    grouped: defaultdict[str, float] = defaultdict(float)
    for key, amount in work.items():
        operator, _, unit = key.rpartition(".")
        if unit == "nodes":
            grouped["any.nodes"] += amount
        if operator.startswith("MatMulNBits") or (unit != "nodes" and operator.partition("[")[0] in _OWN_COSTS):
            grouped[key] += amount
        elif unit == "elements":
            grouped["other.elements"] += amount
    return dict(grouped)


def estimate(work: Mapping[str, float], profile: DeviceProfile, tokens: int) -> LatencyReading:
    """The reading for given amounts of work by ``operator[variant].unit``.

    Raises:
        InputError: nothing is recorded for this device.
    """
    estimates = load_estimates(profile)
    instructions = cycles = 0.0
    for key, amount in costed_work(work).items():
        cost = estimates.costs.get(key)
        if cost is not None:
            instructions += amount * cost.instructions
            cycles += amount * cost.cycles
    return LatencyReading(
        milliseconds=cycles / profile.clock_ghz.value / 1e6,
        backend="estimated",
        device=profile.name,
        calibrated=False,
        tokens=tokens,
        instructions=round(instructions),
        versions={**estimates.versions, "estimates": estimates.recorded},
    )
