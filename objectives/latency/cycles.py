"""Execution counts -> cycles and milliseconds of a device profile.

Each distinct block is costed once from its instructions alone, then multiplied by its executions; cache
misses are added as stalls. What that leaves out: branch mispredictions, overlap between blocks of an
in-order core (a block that jumps to itself is costed in its steady state, which covers the hot loops), TLB
misses, and refresh or contention of the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from objectives.latency.counts import CacheCounts, ExecutionCounts
from objectives.latency.decoding import decode
from objectives.latency.instructions import LOAD_KINDS, MEMORY_KINDS, VECTOR_KINDS, Instruction, Kind
from objectives.latency.profile import (
    LINE_BYTES,
    DeviceProfile,
    InOrderPipeline,
    Memory,
    OutOfOrderPipeline,
)

_STREAMED_L2_SHARE = 0.25  # of the L2 latency that a prefetched line still costs: a guess
_LOOP_ROUNDS = 4  # enough for the steady state of a self-loop in an in-order core


@cache
def cost_model_version() -> str:
    """Changes with the code that turns counts into milliseconds, so that stored figures are not mixed."""
    digest = hashlib.sha256()
    for name in ("instructions.py", "decoding.py", "decoding_vectors.py", "cycles.py"):
        digest.update((files("objectives.latency") / name).read_bytes())
    return digest.hexdigest()[:8]


@dataclass(frozen=True)
class Cycles:
    """Cycles spent issuing instructions, and waiting for memory."""

    compute: float
    stall: float


def cycles(counts: ExecutionCounts, profile: DeviceProfile) -> Cycles:
    """Modelled cycles of one run."""
    cost = _block_coster(profile)
    compute = sum(executions * cost(words) for words, executions in counts.blocks.items())
    return Cycles(compute, _stall_cycles(counts.caches, profile.memory, profile.clock_ghz.value))


def milliseconds(counts: ExecutionCounts, profile: DeviceProfile) -> float:
    """Modelled time of one run in milliseconds."""
    spent = cycles(counts, profile)
    return (spent.compute + spent.stall) / profile.clock_ghz.value / 1e6


class _Coster:
    """Cycles of blocks on one pipeline, remembered: models share most of their blocks."""

    def __init__(self, pipeline: InOrderPipeline | OutOfOrderPipeline) -> None:
        self.pipeline = pipeline
        self.known: dict[tuple[int, ...], float] = {}

    def __call__(self, words: tuple[int, ...]) -> float:
        cost = self.known.get(words)
        if cost is None:
            block = [decode(word) for word in words]
            if isinstance(self.pipeline, InOrderPipeline):
                cost = in_order_cycles(block, self.pipeline, loops=jumps_to_itself(words))
            else:
                cost = out_of_order_cycles(block, self.pipeline)
            self.known[words] = cost
        return cost


@lru_cache(maxsize=16)
def _coster_of(pipeline_json: str, kind: str) -> _Coster:
    model = InOrderPipeline if kind == "in-order" else OutOfOrderPipeline
    return _Coster(model.model_validate_json(pipeline_json))


def _block_coster(profile: DeviceProfile) -> _Coster:
    return _coster_of(profile.pipeline.model_dump_json(), profile.pipeline.kind)


def jumps_to_itself(words: Sequence[int]) -> bool:
    """Whether a block ends in a conditional branch to its own first instruction."""
    last = words[-1]
    top = last >> 24
    if top == 0x54 or top & 0x7E == 0x34:  # B.cond, CBZ, CBNZ
        offset, sign = last >> 5 & 0x7FFFF, 1 << 18
    elif top & 0x7E == 0x36:  # TBZ, TBNZ
        offset, sign = last >> 5 & 0x3FFF, 1 << 13
    else:
        return False
    return (offset ^ sign) - sign == 1 - len(words)


def in_order_cycles(block: Sequence[Instruction], pipeline: InOrderPipeline, *, loops: bool = False) -> float:
    """Cycles to issue a block on an in-order core; of one more round where it ``loops``."""
    latency, accumulate = pipeline.latency.value, pipeline.accumulate_latency.value
    width = pipeline.issue_width.value
    load_bytes, store_bytes = pipeline.load_bytes_per_cycle.value, pipeline.store_bytes_per_cycle.value
    ready: dict[int, tuple[int, int, Kind]] = {}  # register -> (cycle, cycle as accumulator, writer)
    cycle = issued = 0
    memory_free = multiplier_free = vector_free = 0
    vector_cycle, vector_halves = -1, 0  # 64-bit halves of the vector unit in use in that cycle
    ends = []
    for _ in range(_LOOP_ROUNDS if loops else 1):
        for instruction in block:
            kind = instruction.kind
            earliest = cycle + 1 if issued >= width else cycle
            for register in instruction.reads:
                entry = ready.get(register)
                if entry is not None:
                    late = register == instruction.accumulator and entry[2] is kind
                    earliest = max(earliest, entry[1] if late else entry[0])
            halves = 2 if instruction.wide else 1
            if kind in MEMORY_KINDS:
                earliest = max(earliest, memory_free)
            elif kind in (Kind.MULTIPLY, Kind.DIVIDE):
                earliest = max(earliest, multiplier_free)
            elif kind in VECTOR_KINDS:
                earliest = max(earliest, vector_free)
                if earliest == vector_cycle and vector_halves + halves > 2:
                    earliest += 1
            if earliest > cycle:
                cycle, issued = earliest, 0
            issued += 1

            if kind in MEMORY_KINDS:
                per_cycle = load_bytes if kind in LOAD_KINDS else store_bytes
                memory_free = cycle + max(1, -(-instruction.bytes // per_cycle))
            elif kind is Kind.MULTIPLY:
                multiplier_free = cycle + 1
            elif kind is Kind.DIVIDE:
                multiplier_free = cycle + pipeline.divide_cycles.value
            elif kind in VECTOR_KINDS:
                vector_halves = halves + (vector_halves if vector_cycle == cycle else 0)
                vector_cycle = cycle
                if kind is Kind.VECTOR_DIVIDE:
                    vector_free = cycle + pipeline.vector_divide_cycles.value * halves
            result = latency[kind]
            if kind in LOAD_KINDS:  # the last part of a long load comes later
                result += max(0, -(-instruction.bytes // load_bytes) - 1)
            available = (cycle + result, cycle + accumulate.get(kind, result), kind)
            for register in instruction.writes:
                ready[register] = available
            if kind is Kind.BRANCH:
                issued = width
        ends.append(cycle)
    return float(ends[-1] - ends[-2] if loops else cycle + 1)


def out_of_order_cycles(block: Sequence[Instruction], pipeline: OutOfOrderPipeline) -> float:
    """Cycles of a block on a reordering core: the busier of its front end and its busiest port."""
    integer = multiply = branch = load = store = vector = vector_multiply = 0.0
    for instruction in block:
        kind, halves = instruction.kind, 2 if instruction.wide else 1
        if kind is Kind.MULTIPLY:
            multiply += 1
        elif kind is Kind.DIVIDE:
            multiply += pipeline.divide_cycles.value
        elif kind is Kind.BRANCH:
            branch += 1
        elif kind in LOAD_KINDS:
            load += max(1.0, instruction.bytes / 16)
        elif kind in MEMORY_KINDS:
            store += max(1.0, instruction.bytes / 16)
        elif kind is Kind.VECTOR_DIVIDE:
            vector += 1
            vector_multiply += pipeline.vector_divide_cycles.value * halves
        elif kind is Kind.VECTOR_INTEGER_MULTIPLY:
            vector += 1
            vector_multiply += 1
        elif kind in VECTOR_KINDS:
            vector += 1
        else:
            integer += 1
    ports = pipeline.ports.value
    return max(
        len(block) / pipeline.issue_width.value,
        integer / ports.integer,
        multiply / ports.multiply,
        branch / ports.branch,
        load / ports.load,
        store / ports.store,
        vector / ports.vector,
        vector_multiply / ports.vector_multiply,
    )


def _stall_cycles(caches: CacheCounts, memory: Memory, clock_ghz: float) -> float:
    """Cycles spent waiting. Streamed lines cost bandwidth, others latency; fetching code hides nothing."""
    exposed = 1 - memory.hidden_share.value
    l2, far = memory.l2_cycles.value, memory.memory_cycles.value
    per_line = LINE_BYTES / memory.bandwidth_gb_per_s.value * clock_ghz
    served_by_l2 = caches.l1d_misses - caches.l2_data_misses
    streamed_by_l2 = max(0, caches.l1d_streamed - caches.l2_data_streamed)
    data = (
        (served_by_l2 - streamed_by_l2) * l2 * exposed
        + streamed_by_l2 * l2 * _STREAMED_L2_SHARE * exposed
        + (caches.l2_data_misses - caches.l2_data_streamed) * far * exposed
        + caches.l2_data_streamed * per_line
    )
    code = (caches.l1i_misses - caches.l2_instruction_misses) * l2 + caches.l2_instruction_misses * far
    return data + code
