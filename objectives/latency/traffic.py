"""Operator calls -> what they move through the second-level cache, and what of it is still there.

Between two uses of the same kernel or the same weights a model touches other memory. Where that is more than the
cache holds, the second use finds nothing left. `Traffic` is what a call touches; the distance between two uses is
the weights touched in between plus, at most once each, the activations, the workspace and the code of the model,
since their memory is used again and again. Weights are used once per inference: their distance is the footprint of
the whole model.

One sort of kernel unpacks all its weights to float32 into a workspace before it multiplies: 2 and 8 bits wherever
there is no int8 kernel for them. That workspace is the largest single cause of misses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

from objectives.latency.profile import LINE_BYTES, DeviceProfile
from objectives.latency.work import kind_of
from space.operators import OperatorCall

# Shares of the cache around which misses set in, and how gradually. Found by trying on random students.
THRESHOLDS = (0.7, 1.0, 1.4)
_SPREAD = 0.2
_CODE_BYTES = {"MatMulNBits": 12288, "MatMul": 6144, "FusedMatMul": 6144, "Gemm": 6144}
_OTHER_CODE_BYTES = 3072
RECURRENT = ("LSTM", "GRU")
_LIVE_ACTIVATIONS = 2  # largest inputs and outputs of one call, times this, is the memory that activations use


@dataclass(frozen=True)
class Machine:
    """What of a device decides where memory comes from.

    Attributes:
        capacity: bytes of the second-level cache.
        dot_products: whether the core has int8 dot products.
    """

    capacity: int
    dot_products: bool

    @classmethod
    def of(cls, profile: DeviceProfile) -> Machine:
        """Read it off a profile."""
        features = profile.emulation.features.split()
        return cls(profile.memory.l2.value.kib * 1024, "asimddp" in features)


class Traffic(NamedTuple):
    """What one call touches, in bytes; ``fixed`` are lines by the reason why they may miss."""

    kernel: str
    weights: float
    activations: float
    workspace: float
    code: float
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
    weights = workspace = 0.0
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
            workspace, group = depth * width * 4.0, "unpacked"
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
    elif kind.startswith("Product") or kind in ("Softmax", "Transpose"):
        group = kind.partition("[")[0]
    activations = inputs + outputs
    lines, share = activations / LINE_BYTES, activations / machine.capacity
    fixed = {f"lines.{group}": lines, "weights": weights / LINE_BYTES, "calls": 1.0}
    fixed |= {f"large.{t}": lines * ramp(share, t, 0.3) for t in (0.25, 0.5, 1.0, 2.0)}
    if call.operator in RECURRENT:
        # Every step reads the weights of its direction on the states again, all of them: where they do not fit, no
        # line of them is left from the step before.
        directions, rows, hidden = call.inputs[2]
        again = rows * hidden * 4.0
        reads = again / LINE_BYTES * directions * call.inputs[0][0]
        fixed["recurrent"] = reads
        fixed |= {f"recurrent.{t}": reads * ramp(again / machine.capacity, t) for t in (0.75, 1.0, 1.4, 2.0)}
    if group in ("Product", "Softmax"):
        fixed |= {f"large {group}.{t}": lines * ramp(share, t, 0.3) for t in (0.25, 0.5, 1.0)}
    if weights:
        fixed[f"reread.{group}"] = weights / LINE_BYTES * -(-rows // 4)
    if workspace:
        unpacked, share = workspace / LINE_BYTES, workspace / machine.capacity
        fixed["workspace"] = unpacked
        fixed["workspace reread"] = unpacked * -(-rows // 16)
        fixed |= {f"workspace.{t}": unpacked * ramp(share, t) for t in (0.25, 0.5, 0.75, 1.0, 1.5)}
    code = float(_CODE_BYTES.get(call.operator, _OTHER_CODE_BYTES))
    kept = tuple((name, amount) for name, amount in fixed.items() if amount)
    return Traffic(kernel, weights, activations, workspace, code, group, kept)


def scaled_by_footprint(traffic: Traffic) -> dict[str, float]:
    """Lines that miss where the whole model does not fit."""
    scaled = {f"weights.{traffic.group}": traffic.weights, "activations": traffic.activations}
    scaled["workspaces"] = traffic.workspace
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


def footprint_of(weights: float, largest_activations: float, largest_workspace: float, code: float) -> Footprint:
    """The footprint of a model from sums and maxima over its calls."""
    return Footprint(weights, _LIVE_ACTIVATIONS * largest_activations, largest_workspace, code)


def memory_features(calls: Sequence[OperatorCall], machine: Machine) -> dict[str, float]:
    """What a model's cache misses are proportional to, in cache lines or uses."""
    touched = [traffic_of(call, machine) for call in calls]
    codes = {traffic.kernel: traffic.code for traffic in touched}
    footprint = footprint_of(
        sum(traffic.weights for traffic in touched),
        max(traffic.activations for traffic in touched),
        max(traffic.workspace for traffic in touched),
        sum(codes.values()),
    )
    evicted = [ramp(footprint.total / machine.capacity, t) for t in THRESHOLDS]
    found: defaultdict[str, float] = defaultdict(float)
    found["run"] = 1.0
    for threshold, share in zip(THRESHOLDS, evicted, strict=True):
        found[f"run@{threshold}"] = share
    last: dict[str, tuple[float, float, float, float]] = {}
    weights = activations = workspace = code = 0.0
    for counted in (False, True):  # the first round is the warm-up
        for traffic in touched:
            if counted:
                for name, amount in traffic.fixed:
                    found[name] += amount
                for name, amount in scaled_by_footprint(traffic).items():
                    for threshold, share in zip(THRESHOLDS, evicted, strict=True):
                        found[f"{name}@{threshold}"] += amount * share
                before = last[traffic.kernel]
                distance = footprint.distance(
                    weights - before[0], activations - before[1], workspace - before[2], code - before[3]
                )
                for threshold in THRESHOLDS:
                    found[f"code {traffic.kernel}@{threshold}"] += ramp(distance / machine.capacity, threshold)
            last[traffic.kernel] = (weights, activations, workspace, code)
            weights += traffic.weights
            activations += traffic.activations
            workspace += traffic.workspace
            code += traffic.code
    return dict(found)
