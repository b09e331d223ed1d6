"""Device profiles: what a core and its board look like to the cost model, each figure with its origin.

A profile is a YAML file, `DeviceProfile` in text. To add one, copy the shipped one of the most similar core (they lie
in ``devices/``), change it, and name it wherever a device is asked for: `--device my-board.yaml`. Its sections:

- ``name``, ``board``, ``clock_ghz``: of this device. ``calibrated`` says whether its guesses were fitted to measured
  times; `shoebox emulator calibrate` does that.
- ``emulation``: what the emulator pretends to be. ``part`` and ``features`` are lines of the board's
  ``/proc/cpuinfo``; ``qemu_cpu`` is a core of qemu that has these features, and no others that ONNX Runtime uses.
- ``pipeline``: how long instructions take, see `InOrderPipeline` and `OutOfOrderPipeline`.
- ``memory``: caches, and what a miss costs, see `Memory`.

Every figure is a mapping of ``value`` and either ``source`` (public, so that others can check it) or ``guess`` (why
this value). Keys that are missing or unknown, and values of a wrong type, are refused by name.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Generic, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from objectives.latency.instructions import Kind
from space.errors import InputError
from space.paths import expanded

T = TypeVar("T")
LINE_BYTES = 64


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Strict, Generic[T]):
    """A value and where it comes from: a public ``source``, or the reason for a ``guess``."""

    value: T
    source: str | None = None
    guess: str | None = None

    @model_validator(mode="after")
    def _has_origin(self) -> Self:
        if (self.source is None) == (self.guess is None):
            raise ValueError("needs either source: (public) or guess: (why), not both")
        return self


class CacheSize(_Strict):
    """A cache with lines of 64 bytes and least-recently-used replacement."""

    kib: Annotated[int, Field(gt=0, le=2**20)]
    ways: PositiveInt

    @model_validator(mode="after")
    def _sets_are_a_power_of_two(self) -> Self:
        sets, rest = divmod(self.kib * 1024 // LINE_BYTES, self.ways)
        if rest or sets & (sets - 1):
            raise ValueError(f"{self.kib} KiB in {self.ways} ways is not a power of two of sets")
        return self

    def option(self) -> str:
        """As the emulator's plugin takes it."""
        return f"{self.kib}:{self.ways}"


class Pairing(_Strict):
    """What keeps instructions of an in-order core from issuing in the same cycle."""

    long_loads_alone: bool  # a load of more than 8 bytes blocks issue for as long as it takes
    wide_vectors_first: bool  # work on 128-bit vectors issues from the first slot only


class _Pipeline(_Strict):
    """What both sorts of cores have. Cycles until a result can be read, by the kind of its writer."""

    issue_width: Figure[PositiveInt]
    latency: Figure[dict[Kind, PositiveInt]]
    accumulate_latency: Figure[dict[Kind, PositiveInt]]  # to the accumulator of the next of the same kind
    divide_cycles: Figure[PositiveInt]  # integer divider busy
    vector_divide_cycles: Figure[PositiveInt]  # vector divider busy, see the subclasses
    # Factor on the cycles of all instructions for what is not modelled, such as mispredicted branches.
    overhead: Figure[PositiveFloat] = Figure[PositiveFloat](
        value=1.0, guess="nothing is added unless times were measured"
    )

    @model_validator(mode="after")
    def _every_kind_has_a_latency(self) -> Self:
        missing = [kind.value for kind in Kind if kind not in self.latency.value]
        if missing:
            raise ValueError(f"latency lacks {', '.join(missing)}")
        return self


class InOrderPipeline(_Pipeline):
    """A core that issues in program order. Its vector divider takes as long for 64 bits as for 128."""

    kind: Literal["in-order"]
    pairing: Figure[Pairing]
    load_bytes_per_cycle: Figure[PositiveInt]
    store_bytes_per_cycle: Figure[PositiveInt]
    address_delay: Figure[NonNegativeInt]  # of an integer result to an address, compared with one to arithmetic
    shift_delay: Figure[NonNegativeInt]  # of an integer result to an operand that is shifted or extended first


class Ports(_Strict):
    """Instructions of each sort that can start per cycle."""

    integer: PositiveInt
    multiply: PositiveInt
    branch: PositiveInt
    load: PositiveInt
    store: PositiveInt
    vector: PositiveInt
    vector_multiply: PositiveInt  # of the vector ports, those with an integer multiplier or divider


class OutOfOrderPipeline(_Pipeline):
    """A core that reorders: limited by its width, its ports, and by what a loop hands to its next round.

    Its vector divider takes twice as long for 128 bits as for 64.
    """

    kind: Literal["out-of-order"]
    ports: Figure[Ports]
    float_port_bytes: Figure[Literal[8, 16]]  # width of a vector port in floating point and integer products


class Memory(_Strict):
    """Caches and what a miss costs: cycles until a line of each level is there, less what the core hides.

    Of a third level, where there is one, both its size and its cycles are given.
    """

    l1d: Figure[CacheSize]
    l1i: Figure[CacheSize]
    l2: Figure[CacheSize]
    l2_cycles: Figure[PositiveFloat]
    l3: Figure[CacheSize] | None = None
    l3_cycles: Figure[PositiveFloat] | None = None
    memory_cycles: Figure[PositiveFloat]
    bandwidth_gb_per_s: Figure[PositiveFloat]
    hidden_share: Figure[Annotated[float, Field(ge=0, lt=1)]]  # of a data stall, overlapped with other work

    @model_validator(mode="after")
    def _third_level_is_whole(self) -> Self:
        if (self.l3 is None) != (self.l3_cycles is None):
            raise ValueError("needs both l3 and l3_cycles, or neither")
        if self.l3 is not None and self.l3.value.kib < self.l2.value.kib:
            raise ValueError("has an l3 that is smaller than its l2")
        return self

    def caches(self) -> dict[str, CacheSize]:
        """All caches of the core by name, l1d first."""
        found = {name: getattr(self, name) for name in ("l1d", "l1i", "l2", "l3")}
        return {name: figure.value for name, figure in found.items() if figure is not None}


class Emulation(_Strict):
    """What the emulator must pretend to be, so that ONNX Runtime picks the kernels of this core."""

    qemu_cpu: str
    # "CPU part" and "Features" in /proc/cpuinfo; features that qemu_cpu lacks end in illegal instructions.
    part: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]+$")]
    features: Annotated[str, Field(pattern=r"^[a-z0-9_ ]+$")]


class DeviceProfile(_Strict):
    """One core on one board."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    board: str
    calibrated: bool = False
    clock_ghz: Figure[PositiveFloat]
    emulation: Emulation
    pipeline: InOrderPipeline | OutOfOrderPipeline = Field(discriminator="kind")
    memory: Memory


def known_profiles() -> list[str]:
    """Names of the shipped profiles."""
    folder = files("objectives.latency") / "devices"
    return sorted(item.name[: -len(".yaml")] for item in folder.iterdir() if item.name.endswith(".yaml"))


def read_profile(name: str) -> str:
    """The YAML text of a shipped profile by name, or of one of the user's by path (a name that ends in ``.yaml``).

    Raises:
        InputError: there is no such profile, or its file cannot be read.
    """
    if not name.endswith((".yaml", ".yml")):
        if name not in known_profiles():
            raise InputError(f"Unknown device {name!r}.", f"Known: {', '.join(known_profiles())}; or a path.yaml.")
        return (files("objectives.latency") / "devices" / f"{name}.yaml").read_text(encoding="utf-8")
    path = expanded(name)
    try:
        if not path.is_file():
            raise InputError(f"There is no device profile at {name}.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise InputError(f"The device profile {name} cannot be read: {reason}.") from None


def load_profile(name: str) -> DeviceProfile:
    """A shipped profile by name, or one of the user's by path (a name that ends in ``.yaml``).

    Raises:
        InputError: no such profile, a key of it is missing, unknown or out of range, or it is another one than that
            shipped under its name.
    """
    profile = parse_profile(read_profile(name), name)
    if profile.name != name and profile.name in known_profiles() and profile != load_profile(profile.name):
        raise InputError(
            f"The device profile {name} has the name of a shipped one, {profile.name}, and says something else.",
            "Give it a name of its own, which tables and bundles can tell it by.",
        )
    return profile


def parse_profile(text: str, name: str) -> DeviceProfile:
    """A profile from its YAML text; ``name`` is what errors call it.

    Raises:
        InputError: it is not YAML, or a key of it is missing, unknown or out of range.
    """
    try:
        return DeviceProfile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"The device profile {name} is not YAML: {' '.join(str(error).split())}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        tags = ("in-order", "out-of-order")  # pydantic names the kind of pipeline among the keys
        where = ".".join(str(part) for part in first["loc"] if part not in tags) or "the file"
        raise InputError(f"The device profile {name} is wrong at {where}: {first['msg']}.") from None
    except ValueError as error:  # of a date that there is not, which YAML makes of what looks like one
        raise InputError(f"The device profile {name} is not YAML: {error}.", "Put dates in quotes.") from None
