"""The latency model: counts and milliseconds of any configuration from the configuration alone, in well under 1 ms.

    model = LatencyModel(load_profile("cortex-a53"))
    model.predict(config, shape, vocabulary_size, tokens=32).milliseconds

It adds up recorded costs of the operators that a student executes (`space.operators`), in the tiles that their kernels
work in (`objectives.latency.work`), and of what they miss in the caches (`objectives.latency.traffic`). The costs were
fitted to emulated counts of single operators and of random students; the data files under ``data/`` say with which
tools, and how far milliseconds are off on students that were not fitted to. Costs belong to the shipped profile of a
device: a profile that was changed since is refused.

The largest errors are of students whose footprint is near the size of a cache.

The model is for proposing candidates and for machines that cannot emulate. Its figures must never be compared with
emulated ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from objectives.latency.profile import LINE_BYTES, DeviceProfile
from objectives.latency.reading import LatencyReading
from objectives.latency.recorded import Estimates, estimate_version, load_estimates
from objectives.latency.traffic import (
    AGAIN,
    BEGUN_AGAIN,
    Footprint,
    Machine,
    Traffic,
    Workspace,
    footprint_of,
    scaled_by_footprint,
    traffic_of,
)
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


# Plain tuples, of which there are very many: the garbage collector leaves those of numbers and texts alone.
# What it costs that other memory was touched since a use: the cost, bytes up to which there is none of it, and in how
# many more it becomes all.
_Step = tuple[float, float, float]
_Steps = tuple[_Step, ...]
_Touched = tuple[float, float, float, float]  # bytes of weights, activations, workspace, code
_Use = tuple[str, _Touched, _Steps]  # of a kernel, and what its section touched before it
# Bytes of workspace and the share of them that begins blocks; weights, activations and code until its end.
_Unpacked = tuple[float, float, tuple[float, float, float]]


class _Call(NamedTuple):
    """What a call costs: as the first fields of a `_Summary`, one after the other."""

    costs: tuple[float, ...]
    traffic: Traffic
    steps: _Steps | None


class _Summary(NamedTuple):
    """What a section adds to any model that it is part of."""

    instructions: float
    compute: float
    stall: float
    uncosted: int
    scaled: tuple[float, ...]  # stalls by edge, where the whole model exceeds it
    touched: _Touched
    largest: tuple[float, float, float]  # activations, hidden state, workspace
    kernels: dict[str, float]  # bytes of code
    first: tuple[_Use, ...]  # of each kernel
    later: tuple[tuple[_Touched, _Steps], ...]  # touched since the use before
    last: tuple[tuple[str, _Touched], ...]
    unpacked: tuple[_Unpacked, ...]


class LatencyModel:
    """Predicts the latency of students on one device.

    Args:
        profile: of a device with recorded costs.
        estimates: these costs; the shipped ones by default.

    Raises:
        InputError: none are shipped for it.
    """

    def __init__(self, profile: DeviceProfile, estimates: Estimates | None = None) -> None:
        self.profile = profile
        self.estimates = estimates or load_estimates(profile)
        self._machine = Machine.of(profile)
        self._kinds = set(self.estimates.kinds)
        stalls = self.estimates.stalls
        self._fixed = {name: cost for name, cost in stalls.items() if "@" not in name}
        self._edges = self._machine.edges()
        places = {edge.name: place for place, edge in enumerate(self._edges)}
        by_edge: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(places))
        for name, cost in stalls.items():
            feature, _, edge = name.partition("@")
            if edge:
                by_edge[feature][places[edge]] = cost
        self._by_edge = {name: tuple(costs) for name, costs in by_edge.items()}
        slopes = [edge.slope() for edge in self._edges]
        self._harmless = slopes[0][0]  # so many bytes displace nothing
        self._steps = {
            name: tuple((cost, *slope) for cost, slope in zip(costs, slopes, strict=True) if cost)
            for name, costs in by_edge.items()
        }
        self._summaries: dict[Section, _Summary] = {}
        self._known: dict[OperatorCall, _Call] = {}

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

    def _cost_call(self, call: OperatorCall) -> _Call:
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
            traffic = traffic_of(call, self._machine)
            stall = sum(amount * self._fixed.get(name, 0.0) for name, amount in traffic.fixed)
            scaled = [0.0] * len(self._edges)
            for name, amount in scaled_by_footprint(traffic).items():
                for index, by_edge in enumerate(self._by_edge.get(name, ())):
                    scaled[index] += amount * by_edge
            steps = self._steps.get(f"code {traffic.kernel}")
            known = _Call((instructions, compute, stall, float(not recorded), *scaled), traffic, steps)
            if len(self._known) >= _KEPT_SECTIONS:
                self._known.clear()
            self._known[call] = known
        return known

    def _summarize(self, calls: Sequence[OperatorCall]) -> _Summary:
        weights = activations = workspace = code = 0.0
        largest_activations = largest_hidden = largest_workspace = 0.0
        kernels: dict[str, float] = {}
        first: list[_Use] = []
        later = []
        last: dict[str, _Touched] = {}
        unpacked = []
        costed = [self._cost_call(call) for call in calls]
        for _, traffic, steps in costed:
            kernel, own_weights, own_activations, own_workspace, begun, own_code, hidden, *_ = traffic
            now = (weights, activations, workspace, code)
            if steps is not None:
                before = last.get(kernel)
                if before is None:
                    first.append((kernel, now, steps))
                else:
                    since = (now[0] - before[0], now[1] - before[1], now[2] - before[2], now[3] - before[3])
                    if sum(since) > self._harmless:
                        later.append((since, steps))
                last[kernel] = now
            kernels[kernel] = own_code
            weights += own_weights
            activations += own_activations
            workspace += own_workspace
            code += own_code
            if own_workspace:
                unpacked.append((own_workspace, begun, (weights, activations, code)))
                largest_workspace = max(largest_workspace, own_workspace)
            largest_activations = max(largest_activations, own_activations)
            largest_hidden = max(largest_hidden, hidden)
        none = (0.0,) * (4 + len(self._edges))
        instructions, compute, stall, uncosted, *scaled = map(
            sum, zip(none, *(call.costs for call in costed), strict=True)
        )
        touched = (weights, activations, workspace, code)
        largest = (largest_activations, largest_hidden, largest_workspace)
        costs = (instructions, compute, stall, int(uncosted), tuple(scaled))
        return _Summary(
            *costs, touched, largest, kernels, tuple(first), tuple(later), tuple(last.items()), tuple(unpacked)
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
            self.estimates.live,
            sum(s.touched[0] for s in summaries),
            max(s.largest[0] for s in summaries),
            max(s.largest[1] for s in summaries),
            max(s.largest[2] for s in summaries),
            sum(kernels.values()),
        )
        runs = self._by_edge.get("run", (0.0,) * len(self._edges))
        for index, edge in enumerate(self._edges):
            share = edge.crossed(footprint.total)
            if share:
                stall += share * (runs[index] + sum(s.scaled[index] for s in summaries))
        if footprint.total > self._harmless:
            stall += self._code_stalls(summaries, footprint) + self._workspace_stalls(summaries, footprint)
        cycles = compute + stall
        return LatencyEstimate(
            milliseconds=cycles / self.profile.clock_ghz.value / 1e6,
            instructions=instructions,
            compute_cycles=compute,
            stall_cycles=stall,
            uncosted_calls=sum(s.uncosted for s in summaries),
        )

    @staticmethod
    def _code_stalls(summaries: Sequence[_Summary], footprint: Footprint) -> float:
        """Cycles of fetching kernels again that other memory has displaced since their last use."""
        stall = 0.0
        total, activations, workspace, code = footprint.total, *footprint[1:]
        last: dict[str, _Touched] = {}
        w = a = s = c = 0.0
        for counted in (False, True):  # the first round is the warm-up
            for summary in summaries:
                if counted:
                    for kernel, (w1, a1, s1, c1), steps in summary.first:
                        w0, a0, s0, c0 = last[kernel]
                        # `Footprint.distance`, which is too slow to call: this is most of a prediction.
                        apart = w + w1 - w0 + min(a + a1 - a0, activations)
                        apart += min(s + s1 - s0, workspace) + min(c + c1 - c0, code)
                        stall += _cost(min(apart, total), steps)
                    for since, steps in summary.later:
                        stall += _cost(footprint.distance(*since), steps)
                for kernel, (w1, a1, s1, c1) in summary.last:
                    last[kernel] = (w + w1, a + a1, s + s1, c + c1)
                w1, a1, s1, c1 = summary.touched
                w, a, s, c = w + w1, a + a1, s + s1, c + c1
        return stall

    def _workspace_stalls(self, summaries: Sequence[_Summary], footprint: Footprint) -> float:
        """Cycles of fetching workspace that other memory has displaced since it was used."""
        steps, more = self._steps.get(AGAIN, ()), self._steps.get(BEGUN_AGAIN, ())
        if not footprint.workspace or not (steps or more):
            return 0.0
        stall = w = a = c = 0.0
        workspace = Workspace()
        for counted in (False, True):  # the first round is the warm-up
            for summary in summaries:
                for size, begun, (weights, activations, code) in summary.unpacked:
                    pieces = workspace.use(size, (w + weights, a + activations, c + code))
                    if counted:
                        for amount, since in pieces:
                            apart = footprint.distance(*since)
                            stall += amount * (_cost(apart, steps) + begun * _cost(apart, more))
                w, a, c = w + summary.touched[0], a + summary.touched[1], c + summary.touched[3]
        return stall / LINE_BYTES


def _cost(apart: float, steps: _Steps) -> float:
    found = 0.0
    for cost, start, width in steps:
        if apart > start:
            found += cost if apart >= start + width else cost * (apart - start) / width
    return found


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
