"""Fitting the guesses of a device profile to times measured on the device.

A profile's guessed memory figures, and one factor on compute cycles for what the cost model leaves out, are moved
until modelled times agree with measured ones: least squares on the logarithms of their ratios. Each figure is drawn
weakly to its guess, so that few measurements, or such as do not tell two figures apart, leave it where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np
from scipy.optimize import least_squares

from objectives.latency.counts import ExecutionCounts
from objectives.latency.cycles import cycles, stall_cycles
from objectives.latency.profile import DeviceProfile, Figure
from space.errors import InputError

FEWEST_RUNS = 3  # different ones
_SMALLEST_SPREAD = 1.1  # of the modelled times: runs that are more alike than this tell nothing apart
_NOISE = 0.03  # relative error that a measured time is expected to have
_AT_BOUND = 1e-3  # of the range between two bounds
_IDENTIFIED = 0.5  # a figure whose spread the measurements narrow to less than this share is taken from them


@dataclass(frozen=True)
class _Parameter:
    """A figure that can be fitted.

    Attributes:
        path: of the figure in the profile.
        lowest, highest: bounds; of the guess where ``relative``.
        trust: standard deviation of the guess, of its logarithm where ``relative``.
        relative: whether the figure is fitted as a logarithm.
    """

    path: tuple[str, str]
    lowest: float
    highest: float
    trust: float
    relative: bool = True

    def bounds(self, guess: float) -> tuple[float, float]:
        """Of the fitted number."""
        if not self.relative:
            return self.lowest, self.highest
        return math.log(self.lowest * guess), math.log(self.highest * guess)

    def number(self, value: float) -> float:
        """The fitted number of a figure."""
        return math.log(value) if self.relative else value

    def value(self, number: float) -> float:
        """The figure of a fitted number."""
        return math.exp(number) if self.relative else number

    def rounded(self, number: float) -> float:
        """The same to the digits that a fit can tell."""
        return float(f"{self.value(number):.4g}") if self.relative else round(number, 3)


_PARAMETERS = (
    _Parameter(("pipeline", "overhead"), 0.5, 4.0, 0.3),
    _Parameter(("memory", "l2_cycles"), 0.2, 5.0, 0.7),
    _Parameter(("memory", "l3_cycles"), 0.2, 5.0, 0.7),
    _Parameter(("memory", "memory_cycles"), 0.2, 5.0, 0.7),
    _Parameter(("memory", "bandwidth_gb_per_s"), 0.2, 5.0, 0.7),
    _Parameter(("memory", "hidden_share"), 0.0, 0.95, 0.3, relative=False),
)
FITTED = tuple(parameter.path for parameter in _PARAMETERS)  # section and key of all figures that may be


@dataclass(frozen=True)
class MeasuredRun:
    """One measured model.

    Attributes:
        name: for tables and errors.
        counts: of the same model at the same number of tokens, emulated for the same device.
        milliseconds: measured on the device.
        weight: relative to the others, for instance the number of repeats.
    """

    name: str
    counts: ExecutionCounts
    milliseconds: float
    weight: float = 1.0


@dataclass(frozen=True)
class CalibratedRun:
    """A measured run with its modelled milliseconds before and after the fit."""

    name: str
    measured: float
    before: float
    after: float


@dataclass(frozen=True)
class Fitted:
    """A fitted figure.

    Attributes:
        guess, value: before and after.
        identified: whether the measurements settled it; if not, it stays near its guess.
        at_bound: whether it went as far as a fit may: another value would explain the measurements better.
    """

    guess: float
    value: float
    identified: bool
    at_bound: bool


@dataclass(frozen=True)
class Calibration:
    """A fitted profile, what was fitted (by dotted name of the figure), and how well it explains each run."""

    profile: DeviceProfile
    fitted: Mapping[str, Fitted]
    runs: tuple[CalibratedRun, ...]

    @cached_property
    def residual_before(self) -> tuple[float, float]:
        """Median and worst relative error of the profile that was started from."""
        return _residual([run.before / run.measured for run in self.runs])

    @cached_property
    def residual_after(self) -> tuple[float, float]:
        """Median and worst relative error of the fitted profile."""
        return _residual([run.after / run.measured for run in self.runs])


def _residual(ratios: Sequence[float]) -> tuple[float, float]:
    errors = [abs(ratio - 1) for ratio in ratios]
    return median(errors), max(errors)


def calibrate(runs: Sequence[MeasuredRun], profile: DeviceProfile, *, name: str, source: str) -> Calibration:
    """Fit the guesses of a profile.

    Args:
        runs: measured runs, at least `FEWEST_RUNS` different ones.
        profile: to start from.
        name: of the fitted profile.
        source: origin that its fitted figures state.

    Raises:
        InputError: too few runs, all of them alike, or a profile that holds no guess.
    """
    parameters = [parameter for parameter in _PARAMETERS if _is_guess(profile, parameter)]
    if not parameters:
        raise InputError(
            f"The device profile {profile.name!r} has no guess to fit.", "Start from a profile that is not calibrated."
        )
    model = _Model(runs, profile, parameters)
    before = model.milliseconds(model.guesses)
    distinct = len({run.name for run in runs})
    if distinct < FEWEST_RUNS:
        raise InputError(
            f"A calibration needs at least {FEWEST_RUNS} different measured runs, there are {distinct}.",
            "Measure models of different widths, depths and bits, at several numbers of tokens.",
        )
    if max(before) < _SMALLEST_SPREAD * min(before):
        raise InputError(
            f"All {distinct} measured runs are modelled with {min(before):.2f} to {max(before):.2f} ms: too alike to"
            " calibrate with.",
            "Measure models of different widths, depths and bits, at several numbers of tokens.",
        )
    numbers, narrowed = model.fit()
    fitted = {
        ".".join(parameter.path): Fitted(
            _figure(profile, parameter).value, value, bool(share < _IDENTIFIED), bool(edge)
        )
        for parameter, value, share, edge in zip(
            parameters, model.values(numbers), narrowed, model.at_bounds(numbers), strict=True
        )
    }
    content = model.changed(numbers).model_dump() | {"name": name, "calibrated": True}
    for parameter in parameters:
        section, key = parameter.path
        figure = fitted[".".join(parameter.path)]
        if figure.identified:
            content[section][key] |= {"source": source, "guess": None}
        elif figure.value != figure.guess:
            guess = _figure(profile, parameter).guess
            content[section][key]["guess"] = f"{guess}; moved, though not settled: {source}"
    after = model.milliseconds(numbers)
    calibrated = tuple(
        CalibratedRun(run.name, run.milliseconds, float(first), float(last))
        for run, first, last in zip(runs, before, after, strict=True)
    )
    return Calibration(DeviceProfile.model_validate(content), fitted, calibrated)


def _figure(profile: DeviceProfile, parameter: _Parameter) -> Figure[float]:
    section, key = parameter.path
    figure: Figure[float] = getattr(getattr(profile, section), key)
    return figure


def _is_guess(profile: DeviceProfile, parameter: _Parameter) -> bool:
    section, key = parameter.path
    figure: Figure[float] | None = getattr(getattr(profile, section), key)  # None: the core has no such level
    return figure is not None and figure.guess is not None


class _Model:
    """Modelled milliseconds of the runs as a function of the fitted numbers."""

    def __init__(self, runs: Sequence[MeasuredRun], profile: DeviceProfile, parameters: Sequence[_Parameter]) -> None:
        self.runs, self.profile, self.parameters = runs, profile, parameters
        self.guesses = np.array([p.number(_figure(profile, p).value) for p in parameters])
        # Blocks are costed once: the factor on their cycles is all that a fit changes.
        plain = profile.pipeline.overhead.value
        self.compute = np.array([cycles(run.counts, profile).compute / plain for run in runs])
        self.measured = np.log([run.milliseconds for run in runs])
        weights = np.array([run.weight for run in runs], dtype=float)
        self.scale = np.sqrt(weights / weights.mean()) / _NOISE
        self.trust = np.array([parameter.trust for parameter in parameters])

    def values(self, numbers: np.ndarray) -> list[float]:
        """The figures as they are written."""
        return [p.rounded(float(n)) for p, n in zip(self.parameters, numbers, strict=True)]

    def changed(self, numbers: np.ndarray) -> DeviceProfile:
        """The profile with other figures."""
        content = self.profile.model_dump()
        for parameter, value in zip(self.parameters, self.values(numbers), strict=True):
            section, key = parameter.path
            content[section][key]["value"] = value
        return DeviceProfile.model_validate(content)

    def milliseconds(self, numbers: np.ndarray) -> np.ndarray:
        """Modelled time of every run."""
        figures = {p.path[1]: p.value(float(n)) for p, n in zip(self.parameters, numbers, strict=True)}
        overhead = figures.pop("overhead", self.profile.pipeline.overhead.value)
        memory = self.profile.memory
        memory = memory.model_copy(
            update={key: getattr(memory, key).model_copy(update={"value": value}) for key, value in figures.items()}
        )
        clock = self.profile.clock_ghz.value
        stalls = np.array([stall_cycles(run.counts.caches, memory, clock) for run in self.runs])
        spent: np.ndarray = (self.compute * overhead + stalls) / clock / 1e6
        return spent

    def _residuals(self, numbers: np.ndarray) -> np.ndarray:
        errors = (np.log(self.milliseconds(numbers)) - self.measured) * self.scale
        return np.concatenate([errors, (numbers - self.guesses) / self.trust])

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        bounds = [p.bounds(p.value(float(n))) for p, n in zip(self.parameters, self.guesses, strict=True)]
        return np.array([low for low, _ in bounds]), np.array([high for _, high in bounds])

    def at_bounds(self, numbers: np.ndarray) -> np.ndarray:
        """Which of the fitted numbers went to a bound."""
        lowest, highest = self._bounds()
        near = _AT_BOUND * (highest - lowest)
        moved = abs(numbers - self.guesses) > near
        edge: np.ndarray = moved & ((numbers < lowest + near) | (numbers > highest - near))
        return edge

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """The fitted numbers, and how far the measurements narrowed each: its remaining spread over its trust."""
        lowest, highest = self._bounds()
        inside = 1e-6 * (highest - lowest)
        start = np.clip(self.guesses, lowest + inside, highest - inside)
        found = least_squares(self._residuals, start, bounds=(lowest, highest), x_scale=self.trust)
        spread = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
        return found.x, spread / self.trust
