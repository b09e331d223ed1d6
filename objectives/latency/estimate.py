"""The latency model: counts and milliseconds of any configuration from the configuration alone, in well under 1 ms.

    model = LatencyModel(load_profile("cortex-a53"))
    model.predict(config, shape, vocabulary_size, tokens=32).milliseconds

It adds up recorded costs of the operators that a student executes (`space.operators`), in the tiles that their kernels
work in (`objectives.latency.work`), and of what they miss in the caches (`objectives.latency.traffic`). The costs were
fitted to emulated counts of single operators and of random students; the data files under ``data/`` say with which
tools, and how far milliseconds are off on students that were not fitted to. Costs belong to the shipped profile of a
device: a profile that was changed since is refused.

The largest errors are of small students on fast cores, where the footprint is near the size of the second-level cache.
There misses also depend on where the allocator puts activations, which a configuration does not say.

The model is for proposing candidates and for machines that cannot emulate. Its figures must never be compared with
emulated ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from objectives.latency.profile import DeviceProfile
from objectives.latency.reading import LatencyReading
from objectives.latency.recorded import estimate_version, load_estimates
from objectives.latency.traffic import THRESHOLDS, Machine, footprint_of, ramp, scaled_by_footprint, traffic_of
from objectives.latency.work import kind_of, work_of
from space.config import StudentConfig
from space.families import get_family
from space.operators import OperatorCall, Section
from space.shape import TaskShape

_GENERIC = "Small"  # kind whose cost per element and call stands in for an operator without a record
_KEPT_SECTIONS = 200_000


@dataclass(frozen=True)
class LatencyEstimate:
    """What the model says of one inference, batch 1.

    Attributes:
        milliseconds: of the whole inference.
        instructions: executed AArch64 instructions.
        compute_cycles: spent issuing them.
        stall_cycles: spent waiting for caches and memory.
        uncosted_calls: operator calls without a record of their own, taken at a generic cost per element.
    """

    milliseconds: float
    instructions: float
    compute_cycles: float
    stall_cycles: float
    uncosted_calls: int


class _Use(NamedTuple):
    """A use of a kernel, and what its section touched before it; its costs by threshold."""

    kernel: str
    before: tuple[float, float, float, float]
    costs: tuple[float, ...]


class _Summary(NamedTuple):
    """What a section adds to any model that it is part of."""

    instructions: float
    compute: float
    stall: float
    uncosted: int
    scaled: tuple[float, ...]  # stalls by threshold, where the whole model exceeds it
    touched: tuple[float, float, float, float]  # weights, activations, workspace, code
    largest: tuple[float, float]  # activations, workspace
    kernels: dict[str, float]  # bytes of code
    first: list[_Use]  # of each kernel
    later: list[tuple[tuple[float, float, float, float], tuple[float, ...]]]  # touched since the use before, costs
    last: list[tuple[str, tuple[float, float, float, float]]]


class LatencyModel:
    """Predicts the latency of students on one device.

    Args:
        profile: of a device with recorded costs.

    Raises:
        InputError: there are none for it.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.estimates = load_estimates(profile)
        self._machine = Machine.of(profile)
        self._kinds = set(self.estimates.kinds)
        stalls = self.estimates.stalls
        self._fixed = {name: cost for name, cost in stalls.items() if "@" not in name}
        by_threshold: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(THRESHOLDS))
        for name, cost in stalls.items():
            feature, _, threshold = name.partition("@")
            if threshold:
                by_threshold[feature][THRESHOLDS.index(float(threshold))] = cost
        self._by_threshold = {name: tuple(costs) for name, costs in by_threshold.items()}
        self._summaries: dict[Section, _Summary] = {}
        self._known: dict[OperatorCall, tuple[float, float, float, int]] = {}

    def predict(self, config: StudentConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> LatencyEstimate:
        """Latency of a configuration at a length of ``tokens``, in well under a millisecond."""
        return self.predict_sections(get_family(config.family).sections(config, shape, vocabulary_size, tokens))

    def predict_calls(self, calls: Iterable[OperatorCall]) -> LatencyEstimate:
        """Latency of any model, from the operators that it executes in their order."""
        return self._add_up([self._summarize(tuple(calls))])

    def predict_sections(self, sections: Iterable[Section]) -> LatencyEstimate:
        """Latency of a model made of these sections."""
        summaries = []
        for section in sections:
            summary = self._summaries.get(section)
            if summary is None:
                if len(self._summaries) >= _KEPT_SECTIONS:
                    self._summaries.clear()
                summary = self._summaries[section] = self._summarize(section.calls)
            summaries.append(summary)
        return self._add_up(summaries)

    def _call_costs(self, call: OperatorCall) -> tuple[float, float, float, int]:
        """Instructions, cycles of computing and fixed cycles of waiting of a call, and whether it has no record."""
        known = self._known.get(call)
        if known is None:
            recorded = kind_of(call) in self._kinds
            instructions = compute = 0.0
            work = work_of(call) if recorded else {f"{_GENERIC}.nodes": 1.0, f"{_GENERIC}.elements": _elements(call)}
            for name, amount in work.items():
                cost = self.estimates.costs.get(name)
                if cost is not None:
                    instructions += amount * cost.instructions
                    compute += amount * cost.cycles
            fixed = traffic_of(call, self._machine).fixed
            stall = sum(amount * self._fixed.get(name, 0.0) for name, amount in fixed)
            known = self._known[call] = (instructions, compute, stall, not recorded)
            if len(self._known) >= _KEPT_SECTIONS:
                self._known.clear()
        return known

    def _summarize(self, calls: Sequence[OperatorCall]) -> _Summary:
        instructions = compute = stall = 0.0
        uncosted = 0
        scaled = [0.0] * len(THRESHOLDS)
        weights = activations = workspace = code = 0.0
        largest_activations = largest_workspace = 0.0
        kernels: dict[str, float] = {}
        first: list[_Use] = []
        later = []
        last: dict[str, tuple[float, float, float, float]] = {}
        harmless = (THRESHOLDS[0] * 0.8) * self._machine.capacity  # no use is that near and misses
        for call in calls:
            costs = self._call_costs(call)
            instructions += costs[0]
            compute += costs[1]
            stall += costs[2]
            uncosted += costs[3]
            traffic = traffic_of(call, self._machine)
            for name, amount in scaled_by_footprint(traffic).items():
                for index, cost in enumerate(self._by_threshold.get(name, ())):
                    scaled[index] += amount * cost
            now = (weights, activations, workspace, code)
            by_threshold = self._by_threshold.get(f"code {traffic.kernel}")
            if by_threshold is not None:
                before = last.get(traffic.kernel)
                if before is None:
                    first.append(_Use(traffic.kernel, now, by_threshold))
                else:
                    since = (now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3])
                    if sum(since) > harmless:
                        later.append((since, by_threshold))
                last[traffic.kernel] = now
            kernels[traffic.kernel] = traffic.code
            weights += traffic.weights
            activations += traffic.activations
            workspace += traffic.workspace
            code += traffic.code
            largest_activations = max(largest_activations, traffic.activations)
            largest_workspace = max(largest_workspace, traffic.workspace)
        touched, largest = (weights, activations, workspace, code), (largest_activations, largest_workspace)
        uses = list(last.items())
        return _Summary(
            instructions, compute, stall, uncosted, tuple(scaled), touched, largest, kernels, first, later, uses
        )

    def _add_up(self, summaries: Sequence[_Summary]) -> LatencyEstimate:
        run = self.estimates.costs.get("run")
        instructions = (run.instructions if run else 0.0) + sum(s.instructions for s in summaries)
        compute = (run.cycles if run else 0.0) + sum(s.compute for s in summaries)
        stall = self._fixed.get("run", 0.0) + sum(s.stall for s in summaries)
        kernels: dict[str, float] = {}
        for summary in summaries:
            kernels.update(summary.kernels)
        footprint = footprint_of(
            sum(s.touched[0] for s in summaries),
            max(s.largest[0] for s in summaries),
            max(s.largest[1] for s in summaries),
            sum(kernels.values()),
        )
        capacity = self._machine.capacity
        runs = self._by_threshold.get("run", (0.0,) * len(THRESHOLDS))
        for index, threshold in enumerate(THRESHOLDS):
            share = ramp(footprint.total / capacity, threshold)
            if share:
                stall += share * (runs[index] + sum(s.scaled[index] for s in summaries))
        stall += self._code_stalls(summaries, footprint.distance, capacity)
        cycles = compute + stall
        return LatencyEstimate(
            milliseconds=cycles / self.profile.clock_ghz.value / 1e6,
            instructions=instructions,
            compute_cycles=compute,
            stall_cycles=stall,
            uncosted_calls=sum(s.uncosted for s in summaries),
        )

    @staticmethod
    def _code_stalls(summaries: Sequence[_Summary], distance: Callable[..., float], capacity: int) -> float:
        """Cycles of fetching kernels again that other memory has displaced since their last use."""
        stall = 0.0
        lowest = THRESHOLDS[0] * 0.8 * capacity

        def cost(since: tuple[float, float, float, float], costs: tuple[float, ...]) -> float:
            apart = distance(*since)
            if apart <= lowest:
                return 0.0
            return sum(c * ramp(apart / capacity, t) for c, t in zip(costs, THRESHOLDS, strict=True) if c)

        last: dict[str, tuple[float, float, float, float]] = {}
        w = a = s = c = 0.0
        for counted in (False, True):  # the first round is the warm-up
            for summary in summaries:
                if counted:
                    for use in summary.first:
                        before, at = last[use.kernel], use.before
                        since = (w + at[0] - before[0], a + at[1] - before[1], s + at[2] - before[2])
                        stall += cost((*since, c + at[3] - before[3]), use.costs)
                    for since_then, costs in summary.later:
                        stall += cost(since_then, costs)
                for kernel, at in summary.last:
                    last[kernel] = (w + at[0], a + at[1], s + at[2], c + at[3])
                touched = summary.touched
                w, a, s, c = w + touched[0], a + touched[1], s + touched[2], c + touched[3]
        return stall


def _elements(call: OperatorCall) -> float:
    """Elements of the largest tensor of a call."""
    largest = 1
    for dims in (*call.inputs, *call.outputs):
        size = 1
        for dim in dims:
            size *= dim
        largest = max(largest, size)
    return float(largest)


def add_up(amounts: Mapping[str, float], costs: Mapping[str, float]) -> float:
    """Cost of amounts of work; what has no cost adds nothing."""
    return sum(amount * costs.get(name, 0.0) for name, amount in amounts.items())


@cache
def _model_of(profile_json: str) -> LatencyModel:
    return LatencyModel(DeviceProfile.model_validate_json(profile_json))


def estimate(calls: Iterable[OperatorCall], profile: DeviceProfile, tokens: int) -> LatencyReading:
    """The reading for the operators that a model executes (see ``runners/operators.py``).

    Raises:
        InputError: nothing is recorded for this device.
    """
    model = _model_of(profile.model_dump_json())
    found = model.predict_calls(calls)
    return LatencyReading(
        milliseconds=found.milliseconds,
        backend="estimated",
        device=profile.name,
        calibrated=False,
        tokens=tokens,
        instructions=round(found.instructions),
        uncosted_calls=found.uncosted_calls,
        versions={**model.estimates.versions, "estimates": estimate_version(profile)},
    )
