"""Operator calls -> what they move through the caches behind the first, and what of it is still there.

Between two uses of the same kernel or the same weights a model touches other memory. Where that is more than the
cache holds, the second use finds nothing left; so at the second level, and at the third where a core has one.
`Traffic` is what a call touches; the distance between two uses is the weights touched in between plus, at most once
each, the activations, the workspace and the code of the model, since their memory is used again and again. Weights are
used once per inference: their distance is the footprint of the whole model.

One sort of kernel unpacks all its weights to float32 into a workspace before it multiplies: 2 and 8 bits wherever
there is no int8 kernel for them. That workspace is the largest single cause of misses. 2 bits are unpacked in order, 8
bits block by block in another one: no prefetcher sees the first line of a block coming, which then costs most. (Of the
lines of a workspace that an emulated cortex-a72 missed, 13 % came unforeseen with 2 bits; with 8 bits 50 % in blocks of
32 weights, 25 % in blocks of 64.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

from objectives.latency.profile import LINE_BYTES, DeviceProfile
from objectives.latency.recorded import LiveMemory
from objectives.latency.work import kind_of
from space.operators import OperatorCall

# Shares of a cache around which misses set in, and how gradually. Found by trying on random students.
_THRESHOLDS = (0.7, 1.0, 1.4)
_SPREAD = 0.2
THIRD = "l3 "  # before the names of features of the third level
_CODE_BYTES = {"MatMulNBits": 12288.0, "Product": 6144.0}
_OTHER_CODE_BYTES = 3072.0
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
RECURRENT = ("LSTM", "GRU")
WINDOWED = ("Gather[windows]", "Pad", "ReduceSum[rows]", "ReduceMean[rows]", "ReduceMax[rows]")
AGAIN = "workspace again"  # lines of the workspace that other memory has displaced since their last use
BEGUN_AGAIN = "workspace begun again"  # those of them that begin a block of 8-bit weights


class Edge(NamedTuple):
    """A size of memory around which misses set in: a share of the capacity of a cache."""

    name: str
    capacity: int
    share: float

    def crossed(self, size: float) -> float:
        """How much of ``size`` bytes is displaced: 0 to 1."""
        return ramp(size / self.capacity, self.share)

    def slope(self) -> tuple[float, float]:
        """Bytes up to which nothing is displaced, and in how many more bytes it becomes all."""
        middle = self.share * self.capacity
        return middle * (1 - _SPREAD), middle * 2 * _SPREAD


@dataclass(frozen=True)
class Machine:
    """What of a device decides where memory comes from.

    Attributes:
        first, second, third: bytes of the first-level cache of data, and of the caches behind it (0 without a third).
        dot_products: whether the core has int8 dot products.
    """

    first: int
    second: int
    third: int
    dot_products: bool

    @classmethod
    def of(cls, profile: DeviceProfile) -> Machine:
        """Read it off a profile."""
        caches, features = profile.memory.caches(), profile.emulation.features.split()
        first, second, third = (caches[name].kib * 1024 if name in caches else 0 for name in ("l1d", "l2", "l3"))
        return cls(first, second, third, "asimddp" in features)

    def levels(self) -> tuple[tuple[str, int], ...]:
        """What names of features of each level begin with, and its capacity."""
        return (("", self.second), (THIRD, self.third)) if self.third else (("", self.second),)

    def edges(self) -> tuple[Edge, ...]:
        """All of them by level, the smallest first."""
        return tuple(Edge(f"{name}{t}", size, t) for name, size in self.levels() for t in _THRESHOLDS)


class Traffic(NamedTuple):
    """What one call touches, in bytes.

    Attributes:
        kernel: what runs.
        weights, activations, workspace, code: bytes.
        begun: share of the workspace's lines that begin a block of 8-bit weights.
        hidden: bytes of the hidden state that it normalizes; 0 for other calls.
        group: of calls that move memory in the same way.
        fixed: lines by the reason why they may miss.
    """

    kernel: str
    weights: float
    activations: float
    workspace: float
    begun: float
    code: float
    hidden: float
    group: str
    fixed: tuple[tuple[str, float], ...]


def ramp(value: float, middle: float, spread: float = _SPREAD) -> float:
    """0 below ``middle``, 1 above it, straight in between."""
    return min(1.0, max(0.0, (value / middle - (1 - spread)) / (2 * spread)))


@lru_cache(maxsize=200_000)
def traffic_of(call: OperatorCall, machine: Machine) -> Traffic:
    """What a call touches."""
    kind = kind_of(call)
    kernel = call.operator if kind in ("Small", "View") else kind
    weights = workspace = begun = 0.0
    inputs = sum(prod(dims) for dims in call.inputs) * 4.0
    outputs = sum(prod(dims) for dims in call.outputs) * 4.0
    rows = prod(call.inputs[0][:-1]) if call.inputs else 1
    group = "other"
    if call.operator == "MatMulNBits":
        a = dict(call.attributes)
        depth, width, block, bits = (int(str(a[name])) for name in ("K", "N", "block_size", "bits"))
        level = a.get("accuracy_level", 0)
        weights = width * -(-depth // block) * (block * bits / 8 + 4)
        inputs = prod(call.inputs[0]) * 4.0
        group = f"{bits} bits, level {level}"
        if bits != 4 and (level == 0 or not machine.dot_products or (bits == 2 and block == 16)):
            workspace, group = depth * width * 4.0, f"unpacked, {bits} bits"
            begun = LINE_BYTES / (4 * block) if bits == 8 else 0.0
    elif call.operator == "GatherBlockQuantized":
        output, bits = call.outputs[0], int(str(dict(call.attributes)["bits"]))
        inputs = prod(output) * bits / 8 + prod(output[:-1]) * LINE_BYTES
    elif call.operator == "Gemm":
        weights = prod(call.inputs[1]) * 4.0
        inputs -= weights
    elif call.operator in RECURRENT:
        weights = (prod(call.inputs[1]) + prod(call.inputs[2])) * 4.0
        inputs, group = prod(call.inputs[0]) * 4.0, "recurrent"
    elif kind == "View":
        inputs = outputs = 0.0
    elif kind in WINDOWED or (call.operator == "Mul" and list(map(len, call.inputs)) == [4, 2]):
        group = "windows"
    elif kind.startswith("Product") or kind in ("Softmax", "Transpose"):
        group = kind.partition("[")[0]
    activations = inputs + outputs
    lines = activations / LINE_BYTES
    fixed = {f"lines.{group}": lines, "weights": weights / LINE_BYTES, "calls": 1.0}
    for cache, capacity in machine.levels():
        share = activations / capacity
        fixed |= {f"{cache}large.{t}": lines * ramp(share, t, 0.3) for t in (0.25, 0.5, 1.0, 2.0)}
        if group in ("Product", "Softmax"):
            fixed |= {f"{cache}large {group}.{t}": lines * ramp(share, t, 0.3) for t in (0.25, 0.5, 1.0)}
    if call.operator in RECURRENT:
        # Every step reads the weights of its direction on the states again, all of them: where they do not fit, no
        # line of them is left from the step before.
        directions, rows, hidden = call.inputs[2]
        again = rows * hidden * 4.0
        reads = again / LINE_BYTES * directions * call.inputs[0][0]
        fixed["recurrent"] = reads
        for cache, capacity in (("l1 ", machine.first), *machine.levels()):
            fixed |= {f"{cache}recurrent.{t}": reads * ramp(again / capacity, t, 0.1) for t in (0.9, 1.0)}
    if weights:
        fixed[f"reread.{group}"] = weights / LINE_BYTES * -(-rows // 4)
    if workspace:
        unpacked = workspace / LINE_BYTES
        fixed["workspace reread"] = unpacked * -(-rows // 16)
        for reason, lines in (("workspace", unpacked), ("workspace begun", unpacked * begun)):
            fixed[reason] = lines
            for cache, capacity in machine.levels():
                share = workspace / capacity
                fixed |= {f"{cache}{reason}.{t}": lines * ramp(share, t) for t in (0.25, 0.5, 0.75, 1.0, 1.5)}
    kept = tuple((name, amount) for name, amount in fixed.items() if amount)
    normalized = outputs if call.operator in _NORMS else 0.0
    return Traffic(kernel, weights, activations, workspace, begun, code_bytes(kernel), normalized, group, kept)


def code_bytes(kernel: str) -> float:
    """Bytes of code of a kernel that a call runs through, roughly."""
    return _CODE_BYTES.get(kernel.partition("[")[0], _OTHER_CODE_BYTES)


def scaled_by_footprint(traffic: Traffic) -> dict[str, float]:
    """Lines that miss where the whole model does not fit."""
    scaled = {f"weights.{traffic.group}": traffic.weights, "activations": traffic.activations}
    scaled |= {"workspaces": traffic.workspace, "workspaces begun": traffic.workspace * traffic.begun}
    return {name: amount / LINE_BYTES for name, amount in scaled.items() if amount}


class Footprint(NamedTuple):
    """Bytes that a model touches, each counted once."""

    weights: float
    activations: float
    workspace: float
    code: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.activations + self.workspace + self.code

    def distance(self, weights: float, activations: float, workspace: float, code: float) -> float:
        """Bytes between two uses, given all that was touched in between."""
        activations, workspace = min(activations, self.activations), min(workspace, self.workspace)
        return min(self.total, weights + activations + workspace + min(code, self.code))


class _Layer(NamedTuple):
    """A piece of the workspace that was last used at the same time.

    Attributes:
        end: in bytes from its beginning; it starts where the piece before it ends.
        touched: what the model had touched when this use had ended: weights, activations and code.
        largest: bytes of the largest use since.
    """

    end: float
    touched: tuple[float, float, float]
    largest: float


class Workspace:
    """The memory that weights are unpacked into, at the same place in every call, and what was touched since."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []

    def use(
        self, size: float, touched: tuple[float, float, float]
    ) -> list[tuple[float, tuple[float, float, float, float]]]:
        """Use its first ``size`` bytes.

        Args:
            size: in bytes.
            touched: weights, activations and code until the end of this use.

        Returns:
            bytes that were used before, piece by piece, with what was touched in between (see `Footprint.distance`).
        """
        found, kept, start = [], [_Layer(size, touched, size)], 0.0
        for end, then, largest in self._layers:
            largest = max(largest, size)
            if start < size:
                since = (touched[0] - then[0], touched[1] - then[1], largest, touched[2] - then[2])
                found.append((min(end, size) - start, since))
            if end > size:
                kept.append(_Layer(end, then, largest))
            start = end
        self._layers = kept
        return found


def footprint_of(
    live: LiveMemory, weights: float, activations: float, hidden: float, workspace: float, code: float
) -> Footprint:
    """The footprint of a model from sums and maxima over its calls: activations lie where those before them lay."""
    return Footprint(weights, live.activations * activations + live.states * hidden, workspace, code)


def memory_features(calls: Sequence[OperatorCall], machine: Machine, live: LiveMemory) -> dict[str, float]:
    """What a model's cache misses are proportional to, in cache lines or uses."""
    touched = [traffic_of(call, machine) for call in calls]
    codes = {traffic.kernel: traffic.code for traffic in touched}
    footprint = footprint_of(
        live,
        sum(traffic.weights for traffic in touched),
        max(traffic.activations for traffic in touched),
        max(traffic.hidden for traffic in touched),
        max(traffic.workspace for traffic in touched),
        sum(codes.values()),
    )
    edges = machine.edges()
    evicted = [edge.crossed(footprint.total) for edge in edges]
    found: defaultdict[str, float] = defaultdict(float)
    found["run"] = 1.0
    for edge, share in zip(edges, evicted, strict=True):
        found[f"run@{edge.name}"] = share
    last: dict[str, tuple[float, float, float, float]] = {}
    weights = activations = workspace = code = 0.0
    unpacked = Workspace()
    for counted in (False, True):  # the first round is the warm-up
        for traffic in touched:
            if counted:
                for name, amount in traffic.fixed:
                    found[name] += amount
                for name, amount in scaled_by_footprint(traffic).items():
                    for edge, share in zip(edges, evicted, strict=True):
                        found[f"{name}@{edge.name}"] += amount * share
                before = last[traffic.kernel]
                distance = footprint.distance(
                    weights - before[0], activations - before[1], workspace - before[2], code - before[3]
                )
                for edge in edges:
                    found[f"code {traffic.kernel}@{edge.name}"] += edge.crossed(distance)
            last[traffic.kernel] = (weights, activations, workspace, code)
            weights += traffic.weights
            activations += traffic.activations
            workspace += traffic.workspace
            code += traffic.code
            if traffic.workspace:
                for size, since in unpacked.use(traffic.workspace, (weights, activations, code)):
                    for edge in edges if counted else ():
                        amount = size / LINE_BYTES * edge.crossed(footprint.distance(*since))
                        found[f"{AGAIN}@{edge.name}"] += amount
                        found[f"{BEGUN_AGAIN}@{edge.name}"] += amount * traffic.begun
    return dict(found)
