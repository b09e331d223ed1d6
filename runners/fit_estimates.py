"""Raw measurements -> costs per unit of work, for `objectives.latency.LatencyModel`.

Costs of computing are fitted to single operators and whole students together; cycles of waiting for memory to whole
students, since what is still in a cache depends on the rest of the model. All are non-negative least squares on
relative errors of the whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear, nnls

from objectives.latency import DeviceProfile, cycles
from objectives.latency.estimate import add_up
from objectives.latency.profile import LINE_BYTES, Memory
from objectives.latency.recorded import Cost, FitError, LiveMemory
from objectives.latency.traffic import THIRD, Machine, code_bytes, memory_features
from objectives.latency.work import kind_of, work_of
from runners.measurements import Measurement
from space.families import FAMILIES
from space.operators import OperatorCall

# By cross-validation; the hidden states are those of attention: its input, query, key and value.
LIVE = LiveMemory(activations=1, states=4)
_FOLDS = 5
_COMPUTE_RIDGE = 1e-4  # keeps costs that the measurements leave open small, without moving the others
_STALL_RIDGE = 1e-3
# Of errors on students of default spaces, against those of wider ones; more of transformers, which have most choices.
_WEIGHTS = {family: 6.0 if family == "transformer" else 3.0 for family in FAMILIES}
_NOTHING = 1e-9
_SIGNIFICANT = 6  # digits kept in the data files


@dataclass(frozen=True)
class Sample:
    """A measurement as amounts of work and what they cost on one device; ``stall`` None where not counted."""

    subject: Mapping[str, Any]
    work: Mapping[str, float]
    memory: Mapping[str, float]
    kinds: frozenset[str]
    instructions: float
    compute: float
    stall: float | None


def parse_calls(subject: Mapping[str, Any]) -> list[OperatorCall]:
    """The operators of a measured model, as they were stored."""
    return [OperatorCall(*_tuples(call)) for call in subject["calls"]]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def total_work(calls: Sequence[OperatorCall]) -> dict[str, float]:
    """Work of a whole model, and one ``run``."""
    total: defaultdict[str, float] = defaultdict(float)
    for call, count in Counter(calls).items():
        for name, amount in work_of(call).items():
            total[name] += count * amount
    return {**total, "run": 1.0}


def sample(measurement: Measurement, profile: DeviceProfile) -> Sample:
    """Cost a measurement on a device."""
    calls = parse_calls(measurement.subject)
    counts = measurement.counts(profile)
    spent = cycles(counts, profile)
    return Sample(
        measurement.subject,
        total_work(calls),
        memory_features(calls, Machine.of(profile), LIVE),
        frozenset(map(kind_of, calls)),
        counts.instructions,
        spent.compute,
        spent.stall if measurement.has_caches(profile) else None,
    )


def fit_linear(
    amounts: Sequence[Mapping[str, float]],
    target: Sequence[float],
    scale: Sequence[float],
    ridge: float,
    most: Callable[[str], float] | None = None,
) -> dict[str, float]:
    """Non-negative costs with the least squared error, each row relative to its ``scale``.

    Args:
        amounts: of each row by name.
        target: what they cost together.
        scale: of each row.
        ridge: weight of costs of zero.
        most: the largest cost that a name can have; none without it.
    """
    names = sorted({name for entry in amounts for name in entry})
    matrix = np.array([[entry.get(name, 0.0) for name in names] for entry in amounts]) / np.array(scale)[:, None]
    largest = matrix.max(axis=0)
    largest[largest == 0] = 1
    system = np.vstack([matrix / largest, ridge * np.eye(len(names))])
    wanted = np.concatenate([np.array(target) / np.array(scale), np.zeros(len(names))])
    if most is None:
        solution, _ = nnls(system, wanted, maxiter=200 * len(names))
    else:
        highest = np.array([most(name) for name in names]) * largest
        found = lsq_linear(system, wanted, bounds=(0, highest), method="bvls", max_iter=20 * len(names))
        if not found.success:
            raise RuntimeError(f"the fit of {len(names)} costs did not converge: {found.message}")
        solution = found.x
    return {name: _round(cost) for name, cost in zip(names, solution / largest, strict=True) if cost > _NOTHING}


def _round(number: float) -> float:
    return float(f"{number:.{_SIGNIFICANT}g}")


@dataclass(frozen=True)
class Fitted:
    """Costs of one device."""

    instructions: dict[str, float]
    compute: dict[str, float]
    stalls: dict[str, float]

    def cycles(self, entry: Sample) -> float:
        """Predicted cycles of a sample."""
        return add_up(entry.work, self.compute) + add_up(entry.memory, self.stalls)

    def costs(self) -> dict[str, Cost]:
        """Costs of computing in the form of the data files."""
        names = sorted({*self.instructions, *self.compute})
        return {n: Cost(instructions=self.instructions.get(n, 0), cycles=self.compute.get(n, 0)) for n in names}


def most_cycles(memory: Memory) -> Callable[[str], float]:
    """What a unit of a feature of `memory_features` may cost at most on a core, by the name of the feature.

    At each edge no feature of a line costs more than one fetch from behind it; kernels count as small ones. This is no
    exact bound, since a line that is displaced far enough passes several edges, and may count for two features. It is
    there because few of the measured students exceed the third level: left to the fit alone, one student was wrong by
    70 %.
    """

    def most(name: str) -> float:
        feature, _, edge = name.partition("@")
        if not edge or feature == "run":
            return np.inf
        beyond = memory.memory_cycles if memory.l3_cycles is None or edge.startswith(THIRD) else memory.l3_cycles
        lines = code_bytes(feature.removeprefix("code ")) / LINE_BYTES if feature.startswith("code ") else 1.0
        return lines * beyond.value

    return most


def fit(samples: Sequence[Sample], memory: Memory) -> Fitted:
    """Fit all costs of a device."""
    work = [entry.work for entry in samples]
    found = {}
    for quantity in ("instructions", "compute"):
        target = [getattr(entry, quantity) for entry in samples]
        found[quantity] = fit_linear(work, target, target, _COMPUTE_RIDGE)
    students = [entry for entry in samples if entry.stall is not None and is_student(entry)]
    weights = [_WEIGHTS.get(entry.subject["kind"], 1.0) for entry in students]
    stalls = fit_linear(
        [entry.memory for entry in students],
        [entry.stall or 0.0 for entry in students],
        [(entry.compute + (entry.stall or 0.0)) / weight for entry, weight in zip(students, weights, strict=True)],
        _STALL_RIDGE,
        most_cycles(memory),
    )
    return Fitted(found["instructions"], found["compute"], stalls)


def is_student(entry: Sample) -> bool:
    """Whether a whole student was measured, not a single operator."""
    return entry.subject["kind"] != "single"


def relative_errors(samples: Sequence[Sample], memory: Memory) -> list[tuple[Sample, float]]:
    """Signed relative errors of students, each predicted by costs that were fitted without any of its lengths."""
    errors = []
    for fold in range(_FOLDS):
        rest = [entry for entry in samples if not is_student(entry) or entry.subject["seed"] % _FOLDS != fold]
        fitted = fit(rest, memory)
        for entry in samples:
            if is_student(entry) and entry.stall is not None and entry.subject["seed"] % _FOLDS == fold:
                errors.append((entry, fitted.cycles(entry) / (entry.compute + entry.stall) - 1))
    return errors


def summarize(errors: Sequence[float]) -> FitError:
    """Median and maximum of absolute errors."""
    absolute = np.abs(np.array(errors))
    return FitError(models=len(errors), median=float(np.median(absolute)), maximum=float(absolute.max()))
