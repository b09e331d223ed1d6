"""Execution counts -> cycles and milliseconds of a device profile.

Each distinct block is costed once from its instructions alone, then multiplied by its executions; cache
misses are added as stalls. What that leaves out: branch mispredictions, overlap between blocks of an
in-order core (a block that jumps to itself is costed in its steady state, which covers the hot loops), TLB
misses, and refresh or contention of the memory. `tests/benchmarks/cost_model_against_llvm_mca.md` compares the
blocks that matter with LLVM's models of the same cores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from objectives.latency.counts import CacheCounts, ExecutionCounts
from objectives.latency.decoding import decode
from objectives.latency.instructions import FLAGS, LOAD_KINDS, MEMORY_KINDS, VECTOR_KINDS, Instruction, Kind
from objectives.latency.profile import (
    LINE_BYTES,
    DeviceProfile,
    InOrderPipeline,
    Memory,
    OutOfOrderPipeline,
)

_STREAMED_SHARE = 0.25  # of the latency of the second or third level that a prefetched line still costs: a guess
_LOOP_ROUNDS = 4  # enough for the steady state of a self-loop in an in-order core
_DATA_ROUNDS = 8  # the first half fills the pipeline of a loop that works on several rounds at once
_FLOAT_KINDS = frozenset({Kind.VECTOR_FLOAT, Kind.VECTOR_MULTIPLY_ADD})
_INTEGER_KINDS = frozenset({Kind.INTEGER, Kind.MULTIPLY, Kind.DIVIDE})


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
    compute *= profile.pipeline.overhead.value
    return Cycles(compute, stall_cycles(counts.caches, profile.memory, profile.clock_ghz.value))


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
            block, loops = [decode(word) for word in words], jumps_to_itself(words)
            if isinstance(self.pipeline, InOrderPipeline):
                cost = in_order_cycles(block, self.pipeline, loops=loops)
            else:
                cost = out_of_order_cycles(block, self.pipeline, loops=loops)
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
    core = _InOrderCore(pipeline)
    ends = []
    for _ in range(_LOOP_ROUNDS if loops else 1):
        for instruction in block:
            core.issue(instruction)
        ends.append(core.cycle)
    return float(ends[-1] - ends[-2] if loops else core.cycle + 1)


@dataclass(frozen=True, slots=True)
class _Result:
    """When a written register can be read, and when as the accumulator of another of its writer's kind."""

    kind: Kind
    ready: int
    accumulates: int
    delayed: bool  # an integer result, which addresses and shifted operands have to wait for


class _InOrderCore:
    """Issues instructions one after the other, each in the first cycle in which it can."""

    def __init__(self, pipeline: InOrderPipeline) -> None:
        self.latency, self.accumulate = pipeline.latency.value, pipeline.accumulate_latency.value
        self.load_bytes = pipeline.load_bytes_per_cycle.value
        self.store_bytes = pipeline.store_bytes_per_cycle.value
        self.width, self.pairing = pipeline.issue_width.value, pipeline.pairing.value
        self.address_delay, self.shift_delay = pipeline.address_delay.value, pipeline.shift_delay.value
        self.divide_cycles = pipeline.divide_cycles.value
        self.vector_divide_cycles = pipeline.vector_divide_cycles.value
        self.cycle = self.issued = 0  # the cycle that is being filled, and how many have issued in it
        self.memory_free = self.multiplier_free = self.divider_free = 0
        self.vector_cycle, self.vector_halves = -1, 0  # 64-bit halves of the vector unit in use in that cycle
        self.results: dict[int, _Result] = {}

    def issue(self, instruction: Instruction) -> None:
        """Move on to the cycle in which ``instruction`` issues, and book what it occupies."""
        kind, halves = instruction.kind, 2 if instruction.wide else 1
        busy = self._memory_cycles(instruction)
        blocks = kind in LOAD_KINDS and busy > 1 and self.pairing.long_loads_alone
        first = kind in VECTOR_KINDS and instruction.wide and self.pairing.wide_vectors_first
        start = max(self.cycle, self._operands_ready(instruction), self._unit_free(kind))
        if start == self.cycle and (self.issued >= self.width or (self.issued and (blocks or first))):
            start += 1
        if kind in VECTOR_KINDS and start == self.vector_cycle and self.vector_halves + halves > 2:
            start += 1
        if start > self.cycle:
            self.cycle, self.issued = start, 0
        self.issued += 1
        self._occupy(kind, halves, busy)
        self._write(instruction, busy)
        if blocks:
            self.cycle += busy - 1
        if blocks or kind is Kind.BRANCH:
            self.issued = self.width

    def _memory_cycles(self, instruction: Instruction) -> int:
        if instruction.kind not in MEMORY_KINDS:
            return 0
        per_cycle = self.load_bytes if instruction.kind in LOAD_KINDS else self.store_bytes
        return max(1, -(-instruction.bytes // per_cycle))

    def _operands_ready(self, instruction: Instruction) -> int:
        earliest = 0
        for register in instruction.reads:
            result = self.results.get(register)
            if result is None:
                continue
            if instruction.kind is Kind.BRANCH and register == FLAGS and result.delayed:
                continue  # branches are predicted, and checked later than flags are set
            ready = result.ready
            if register == instruction.accumulator and result.kind is instruction.kind:
                ready = result.accumulates
            elif result.delayed and register in instruction.address:
                ready += self.address_delay
            elif result.delayed and register in instruction.shifted:
                ready += self.shift_delay
            earliest = max(earliest, ready)
        return earliest

    def _unit_free(self, kind: Kind) -> int:
        if kind in MEMORY_KINDS:
            return self.memory_free
        if kind in (Kind.MULTIPLY, Kind.DIVIDE):
            return self.multiplier_free
        return self.divider_free if kind is Kind.VECTOR_DIVIDE else 0

    def _occupy(self, kind: Kind, halves: int, busy: int) -> None:
        if kind in MEMORY_KINDS:
            self.memory_free = self.cycle + busy
        elif kind in (Kind.MULTIPLY, Kind.DIVIDE):
            self.multiplier_free = self.cycle + (1 if kind is Kind.MULTIPLY else self.divide_cycles)
        elif kind in VECTOR_KINDS:
            self.vector_halves = halves + (self.vector_halves if self.vector_cycle == self.cycle else 0)
            self.vector_cycle = self.cycle
            if kind is Kind.VECTOR_DIVIDE:
                self.divider_free = self.cycle + self.vector_divide_cycles

    def _write(self, instruction: Instruction, busy: int) -> None:
        kind = instruction.kind
        latency = self.latency[kind]
        if kind in LOAD_KINDS:  # the last part of a long load comes later
            latency += busy - 1
        ready = self.cycle + latency
        accumulates = self.cycle + self.accumulate.get(kind, latency)
        result = _Result(kind, ready, accumulates, kind in _INTEGER_KINDS)
        for register in instruction.writes:
            self.results[register] = result
        if instruction.write_back:
            ready = self.cycle + self.latency[Kind.INTEGER]
            address = _Result(Kind.INTEGER, ready, ready, False)  # computed where addresses are
            self.results.update(dict.fromkeys(instruction.write_back, address))


def out_of_order_cycles(block: Sequence[Instruction], pipeline: OutOfOrderPipeline, *, loops: bool = False) -> float:
    """Cycles of a block on a reordering core: of its front end, of its busiest port, or of what rounds of a
    block that ``loops`` hand on to each other, whichever takes longest."""
    narrow = pipeline.float_port_bytes.value == 8
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
            vector += halves if narrow else 1
            vector_multiply += halves if narrow else 1
        elif kind in VECTOR_KINDS:
            vector += halves if narrow and kind in _FLOAT_KINDS else 1
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
        _carried_cycles(block, pipeline) if loops else 0.0,
    )


def _carried_cycles(block: Sequence[Instruction], pipeline: OutOfOrderPipeline) -> float:
    """Cycles by which the results of a round of a loop come later than those of the round before it, if nothing
    but the data that they hand on holds the rounds up."""
    latency, accumulate = pipeline.latency.value, pipeline.accumulate_latency.value
    results: dict[int, _Result] = {}
    ends = [0]
    for _ in range(_DATA_ROUNDS):
        for instruction in block:
            start, kind = 0, instruction.kind
            for register in instruction.reads:
                if register in results:
                    result = results[register]
                    late = register == instruction.accumulator and result.kind is kind
                    start = max(start, result.accumulates if late else result.ready)
            ready = start + latency[kind]
            result = _Result(kind, ready, start + accumulate.get(kind, latency[kind]), False)
            for register in instruction.writes - instruction.write_back:
                results[register] = result
            back = start + latency[Kind.INTEGER]
            results.update(dict.fromkeys(instruction.write_back, _Result(Kind.INTEGER, back, back, False)))
            ends.append(max(ends[-1], ready) if instruction.writes else ends[-1])
    rounds = ends[len(block) :: len(block)]
    return (rounds[-1] - rounds[-1 - _DATA_ROUNDS // 2]) / (_DATA_ROUNDS // 2)


def stall_cycles(caches: CacheCounts, memory: Memory, clock_ghz: float) -> float:
    """Cycles spent waiting. Streamed lines cost bandwidth, others latency; fetching code hides nothing."""
    exposed = 1 - memory.hidden_share.value
    l2, far = memory.l2_cycles.value, memory.memory_cycles.value
    l3 = memory.l3_cycles.value if memory.l3_cycles is not None else 0.0  # and nothing is served by it
    per_line = LINE_BYTES / memory.bandwidth_gb_per_s.value * clock_ghz

    def served(lines: int, streamed: int, latency: float) -> float:
        streamed = max(0, streamed)
        return (lines - streamed) * latency * exposed + streamed * latency * _STREAMED_SHARE * exposed

    data = (
        served(caches.l1d_misses - caches.l2_data_misses, caches.l1d_streamed - caches.l2_data_streamed, l2)
        + served(caches.l2_data_misses - caches.memory_data, caches.l2_data_streamed - caches.memory_data_streamed, l3)
        + (caches.memory_data - caches.memory_data_streamed) * far * exposed
        + caches.memory_data_streamed * per_line
    )
    code = (
        (caches.l1i_misses - caches.l2_instruction_misses) * l2
        + (caches.l2_instruction_misses - caches.memory_instructions) * l3
        + caches.memory_instructions * far
    )
    return data + code
