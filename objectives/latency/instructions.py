"""AArch64 instruction words -> what a pipeline model needs to know about them.

Only what costs time is decoded: the kind of work, the registers read and written, the bytes moved. The
encodings are those of the Arm Architecture Reference Manual (DDI 0487), chapter C4, whose groups the
functions below follow. SVE and SME are named but not modelled: no profiled core has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class Kind(StrEnum):
    """Instruction classes that cores treat differently."""

    INTEGER = "integer"
    MULTIPLY = "multiply"
    DIVIDE = "divide"
    BRANCH = "branch"
    SYSTEM = "system"
    LOAD = "load"
    STORE = "store"
    VECTOR_LOAD = "vector_load"
    VECTOR_STORE = "vector_store"
    VECTOR_OTHER = "vector_other"  # permutes, integer add, logic, shifts, moves between register files
    VECTOR_MULTIPLY = "vector_multiply"  # floating-point multiply and multiply-add
    VECTOR_FLOAT = "vector_float"  # floating-point add, compare, convert
    VECTOR_DIVIDE = "vector_divide"  # floating-point divide and square root, scalar too
    SCALAR_FLOAT = "scalar_float"
    VECTOR_INTEGER_MULTIPLY = "vector_integer_multiply"
    VECTOR_DOT = "vector_dot"
    VECTOR_MATRIX = "vector_matrix"
    SVE = "sve"


MEMORY_KINDS = frozenset({Kind.LOAD, Kind.STORE, Kind.VECTOR_LOAD, Kind.VECTOR_STORE})
LOAD_KINDS = frozenset({Kind.LOAD, Kind.VECTOR_LOAD})
VECTOR_KINDS = frozenset(kind for kind in Kind if kind.startswith(("vector_", "scalar_"))) - MEMORY_KINDS

FLAGS = 64  # registers are numbered 0-30 general, 32-63 vector, 64 condition flags
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    Attributes:
        kind: its class.
        reads, writes: register numbers (see ``FLAGS``); register 31 is not tracked.
        bytes: moved from or to memory.
        wide: works on 128-bit vectors.
        accumulator: the register that is added to, which cores forward late; None where there is none.
    """

    kind: Kind
    reads: frozenset[int] = _NONE
    writes: frozenset[int] = _NONE
    bytes: int = 0
    wide: bool = False
    accumulator: int | None = None


def _bits(word: int, high: int, low: int) -> int:
    return (word >> low) & ((1 << (high - low + 1)) - 1)


def _general(*registers: int) -> frozenset[int]:
    return frozenset(register for register in registers if register != 31)


def _vector(register: int) -> int:
    return 32 + (register & 31)


@cache
def decode(word: int) -> Instruction:
    """Decode one instruction word."""
    group = _bits(word, 28, 25)
    if group & 0b1110 == 0b1000:
        return _immediate(word)
    if group & 0b1110 == 0b1010:
        return _branch_or_system(word)
    if group & 0b0101 == 0b0100:
        return _load_or_store(word)
    if group & 0b0111 == 0b0101:
        return _register(word)
    if group & 0b0111 == 0b0111:
        return _scalar_float(word) if word >> 28 & 1 else _simd(word)
    return Instruction(Kind.SVE if group == 0b0010 else Kind.SYSTEM)


def _immediate(word: int) -> Instruction:
    rd, rn, group, opcode = word & 31, _bits(word, 9, 5), _bits(word, 25, 23), _bits(word, 30, 29)
    writes = _general(rd)
    if group in (0b000, 0b001):  # ADR
        return Instruction(Kind.INTEGER, _NONE, writes)
    if group == 0b101:  # move wide; MOVK keeps the other bits
        return Instruction(Kind.INTEGER, _general(rd) if opcode == 3 else _NONE, writes)
    reads = _general(rn)
    if group == 0b110 and opcode == 1:  # BFM inserts
        reads |= _general(rd)
    if group == 0b111:  # EXTR
        reads |= _general(_bits(word, 20, 16))
    if (group == 0b010 and opcode & 1) or (group == 0b100 and opcode == 3):
        writes |= {FLAGS}
    return Instruction(Kind.INTEGER, reads, writes)


def _branch_or_system(word: int) -> Instruction:
    top = word >> 24
    if top == 0xD5:
        return Instruction(Kind.SYSTEM)
    if top == 0x54:
        return Instruction(Kind.BRANCH, frozenset({FLAGS}))
    if top & 0x7E in (0x34, 0x36):  # compare or test, and branch
        return Instruction(Kind.BRANCH, _general(word & 31))
    if top & 0xFE == 0xD6:  # to a register; BLR links
        link = _general(30) if _bits(word, 24, 21) == 1 else _NONE
        return Instruction(Kind.BRANCH, _general(_bits(word, 9, 5)), link)
    return Instruction(Kind.BRANCH, _NONE, _general(30) if word >> 31 else _NONE)


def _register(word: int) -> Instruction:
    rd, rn, rm, ra = word & 31, _bits(word, 9, 5), _bits(word, 20, 16), _bits(word, 14, 10)
    group = _bits(word, 28, 24)
    if group == 0x1B:
        accumulator = ra if ra != 31 else None
        return Instruction(Kind.MULTIPLY, _general(rn, rm, ra), _general(rd), accumulator=accumulator)
    reads, writes = _general(rn, rm), _general(rd)
    if (group == 0x0A and _bits(word, 30, 29) == 3) or (group == 0x0B and word >> 29 & 1):
        writes |= {FLAGS}
    if group == 0x1A:
        kind = _bits(word, 23, 21)
        if kind == 0b110:  # one or two sources
            if word >> 30 & 1:
                return Instruction(Kind.INTEGER, _general(rn), writes)
            divides = _bits(word, 15, 11) == 1
            return Instruction(Kind.DIVIDE if divides else Kind.INTEGER, reads, writes)
        reads |= {FLAGS}
        if kind == 0b010:  # conditional compare, with a register or a 5-bit number
            return Instruction(
                Kind.INTEGER, reads if not word >> 11 & 1 else _general(rn) | {FLAGS}, frozenset({FLAGS})
            )
    return Instruction(Kind.INTEGER, reads, writes)


# ---- loads and stores


def _load_or_store(word: int) -> Instruction:
    group, vector = _bits(word, 29, 28), bool(word >> 26 & 1)
    if group == 0b00:
        return _structures(word) if vector else _exclusive(word)
    if group == 0b01:  # from a literal pool
        target = _vector(word) if vector else word & 31
        size = 4 << _bits(word, 31, 30) if vector else 8
        return Instruction(Kind.VECTOR_LOAD if vector else Kind.LOAD, _NONE, _tracked(target), size)
    return _pair(word, vector) if group == 0b10 else _single(word, vector)


def _tracked(*registers: int) -> frozenset[int]:
    return frozenset(register for register in registers if register != 31)


def _memory(
    load: bool, vector: bool, data: frozenset[int], address: frozenset[int], back: frozenset[int], size: int
) -> Instruction:
    """A memory access: loads write their data, stores read it; write-back updates the base register."""
    if load:
        kind = Kind.VECTOR_LOAD if vector else Kind.LOAD
        return Instruction(kind, address, data | back, size, wide=size > 8)
    kind = Kind.VECTOR_STORE if vector else Kind.STORE
    return Instruction(kind, address | data, back, size, wide=size > 8)


def _single(word: int, vector: bool) -> Instruction:
    rt, rn, rm = word & 31, _bits(word, 9, 5), _bits(word, 20, 16)
    scale, opcode = word >> 30, _bits(word, 23, 22)
    size = 16 if vector and opcode & 2 else 1 << scale
    load = bool(opcode & 1) if vector else opcode != 0
    address, back = _general(rn), _NONE
    if not word >> 24 & 1:
        if word >> 21 & 1:
            address |= _general(rm)
            if not vector and _bits(word, 11, 10) == 0:  # atomic read-modify-write
                return Instruction(Kind.LOAD, address, _general(rt), size)
        elif word >> 10 & 1:
            back = _general(rn)
    if not vector and scale == 3 and opcode == 2:  # prefetch
        return Instruction(Kind.LOAD, address)
    data = frozenset({_vector(rt)}) if vector else _general(rt)
    return _memory(load, vector, data, address, back, size)


def _pair(word: int, vector: bool) -> Instruction:
    rt, rt2, rn, scale = word & 31, _bits(word, 14, 10), _bits(word, 9, 5), word >> 30
    size = 8 << scale if vector else (16 if scale & 2 else 8)
    data = frozenset({_vector(rt), _vector(rt2)}) if vector else _general(rt, rt2)
    back = _general(rn) if word >> 23 & 1 else _NONE
    return _memory(bool(word >> 22 & 1), vector, data, _general(rn), back, size)


def _exclusive(word: int) -> Instruction:
    rt, rn, status, load = word & 31, _bits(word, 9, 5), _bits(word, 20, 16), word >> 22 & 1
    if load:
        return Instruction(Kind.LOAD, _general(rn), _general(rt), 1 << (word >> 30))
    return Instruction(Kind.STORE, _general(rn, rt), _general(status), 1 << (word >> 30))


_STRUCTURE_REGISTERS = {0b0111: 1, 0b1010: 2, 0b1000: 2, 0b0110: 3, 0b0100: 3}


def _structures(word: int) -> Instruction:
    """LD1-LD4 and ST1-ST4, whole registers or one lane."""
    rt, rn, rm, load = word & 31, _bits(word, 9, 5), _bits(word, 20, 16), bool(word >> 22 & 1)
    address, back = _general(rn), _NONE
    if word >> 23 & 1:
        back, address = _general(rn), _general(rn, rm)
    if word >> 24 & 1:
        opcode = _bits(word, 15, 13)
        registers = ((opcode & 1) << 1 | (word >> 21 & 1)) + 1
        replicate = opcode >> 1 == 3
        size = registers << (_bits(word, 11, 10) if replicate else opcode >> 1)
        data = frozenset(_vector(rt + index) for index in range(registers))
        if load and not replicate:  # the other lanes stay
            address |= data
    else:
        registers = _STRUCTURE_REGISTERS.get(_bits(word, 15, 12), 4)
        size = registers * (16 if word >> 30 & 1 else 8)
        data = frozenset(_vector(rt + index) for index in range(registers))
    return _memory(load, True, data, address, back, size)


# ---- floating point and vectors


def _scalar_float(word: int) -> Instruction:
    rd, rn, rm = _vector(word), _vector(word >> 5), _vector(word >> 16)
    writes, reads = frozenset({rd}), frozenset({rn, rm})
    group = _bits(word, 28, 24)
    if word >> 30 & 1 or word >> 29 & 1 or group not in (0x1E, 0x1F):
        return Instruction(Kind.VECTOR_OTHER, reads, writes)  # one-lane forms of vector instructions
    if group == 0x1F:
        return Instruction(Kind.SCALAR_FLOAT, reads | {_vector(word >> 10)}, writes)
    if not word >> 21 & 1 or _bits(word, 15, 10) == 0:  # conversions and moves between register files
        to_general = _bits(word, 18, 16) in (0, 1, 4, 5, 6)
        if to_general:
            return Instruction(Kind.SCALAR_FLOAT, frozenset({rn}), _general(word & 31))
        return Instruction(Kind.SCALAR_FLOAT, _general(_bits(word, 9, 5)), writes)
    if _bits(word, 14, 10) == 0b10000:
        root = _bits(word, 20, 15) == 0b000011
        return Instruction(Kind.VECTOR_DIVIDE if root else Kind.SCALAR_FLOAT, frozenset({rn}), writes)
    if _bits(word, 13, 10) == 0b1000:
        return Instruction(Kind.SCALAR_FLOAT, reads, frozenset({FLAGS}))
    if _bits(word, 12, 10) == 0b100:
        return Instruction(Kind.SCALAR_FLOAT, _NONE, writes)
    if _bits(word, 11, 10) == 0b01:
        return Instruction(Kind.SCALAR_FLOAT, reads | {FLAGS}, frozenset({FLAGS}))
    if _bits(word, 11, 10) == 0b11:
        return Instruction(Kind.SCALAR_FLOAT, reads | {FLAGS}, writes)
    divides = _bits(word, 15, 12) == 0b0001
    return Instruction(Kind.VECTOR_DIVIDE if divides else Kind.SCALAR_FLOAT, reads, writes)


def _simd(word: int) -> Instruction:
    group = _bits(word, 28, 24)
    if group == 0x0F:
        return _immediate_shift(word) if word >> 10 & 1 else _by_element(word)
    if group != 0x0E:
        return Instruction(Kind.VECTOR_OTHER)
    if word >> 21 & 1:
        if word >> 10 & 1:
            return _three_same(word)
        return _two_registers(word) if word >> 11 & 1 else _three_different(word)
    return _extra_or_permute(word)


def _work(
    word: int,
    kind: Kind,
    reads: frozenset[int],
    *,
    wide: bool | None = None,
    accumulates: bool = False,
    keeps: bool = False,
) -> Instruction:
    """A vector instruction that writes its destination, and reads it too where it accumulates or keeps."""
    destination = _vector(word)
    if accumulates or keeps:
        reads = reads | {destination}
    is_wide = bool(word >> 30 & 1) if wide is None else wide
    return Instruction(kind, reads, frozenset({destination}), 0, is_wide, destination if accumulates else None)


def _three_same(word: int) -> Instruction:
    reads = frozenset({_vector(word >> 5), _vector(word >> 16)})
    opcode, unsigned, size = _bits(word, 15, 11), word >> 29 & 1, _bits(word, 23, 22)
    if opcode == 0b11001:
        return _work(word, Kind.VECTOR_MULTIPLY, reads, accumulates=True)
    if opcode == 0b11011:
        return _work(word, Kind.VECTOR_MULTIPLY, reads)
    if opcode == 0b11111 and unsigned and not size & 2:
        return _work(word, Kind.VECTOR_DIVIDE, reads)
    if opcode >= 0b11000:
        return _work(word, Kind.VECTOR_FLOAT, reads)
    if opcode == 0b10010:
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, accumulates=True)
    if opcode in (0b10011, 0b10110):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads)
    selects = opcode == 0b00011 and bool(unsigned) and size > 0  # BSL, BIT, BIF
    return _work(word, Kind.VECTOR_OTHER, reads, keeps=selects or opcode == 0b01111)


def _three_different(word: int) -> Instruction:
    reads = frozenset({_vector(word >> 5), _vector(word >> 16)})
    opcode = _bits(word, 15, 12)
    if opcode in (8, 9, 10, 11):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True, accumulates=True)
    if opcode in (12, 13, 14):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True)
    narrows_high = opcode in (4, 6) and bool(word >> 30 & 1)
    return _work(word, Kind.VECTOR_OTHER, reads, wide=True, keeps=opcode == 5 or narrows_high)


def _two_registers(word: int) -> Instruction:
    reads, opcode, unsigned = frozenset({_vector(word >> 5)}), _bits(word, 16, 12), word >> 29 & 1
    if _bits(word, 21, 17) == 0b11000:  # across lanes
        return _work(word, Kind.VECTOR_FLOAT if opcode in (0b01100, 0b01111) else Kind.VECTOR_OTHER, reads)
    if opcode == 0b11111 and unsigned:
        return _work(word, Kind.VECTOR_DIVIDE, reads)
    if opcode >= 0b01100 and opcode not in (0b10010, 0b10011, 0b10100):
        return _work(word, Kind.VECTOR_FLOAT, reads)
    narrows_high = opcode in (0b10010, 0b10100) and bool(word >> 30 & 1)
    return _work(word, Kind.VECTOR_OTHER, reads, keeps=opcode == 0b00110 or narrows_high)


def _extra_or_permute(word: int) -> Instruction:
    reads = frozenset({_vector(word >> 5), _vector(word >> 16)})
    if word >> 15 & 1 and word >> 10 & 1:
        opcode = _bits(word, 14, 11)
        if opcode in (2, 3, 15):
            return _work(word, Kind.VECTOR_DOT, reads, accumulates=True)
        if opcode in (4, 5, 13):
            return _work(word, Kind.VECTOR_MATRIX, reads, accumulates=True)
        return _work(word, Kind.VECTOR_OTHER, reads)
    if word >> 10 & 1:  # copies
        opcode, source = _bits(word, 14, 11), frozenset({_vector(word >> 5)})
        if word >> 29 & 1:  # a lane into a lane
            return _work(word, Kind.VECTOR_OTHER, source, keeps=True)
        if opcode in (5, 7):  # a lane into a general register
            return Instruction(Kind.VECTOR_OTHER, source, _general(word & 31))
        if opcode in (1, 3):
            return _work(word, Kind.VECTOR_OTHER, _general(_bits(word, 9, 5)), keeps=opcode == 3)
        return _work(word, Kind.VECTOR_OTHER, source)
    if not word >> 29 & 1 and not word >> 11 & 1:  # table lookup in one to four registers
        table = {_vector((word >> 5 & 31) + index) for index in range(_bits(word, 14, 13) + 1)}
        return _work(word, Kind.VECTOR_OTHER, frozenset({_vector(word >> 16)} | table), keeps=bool(word >> 12 & 1))
    return _work(word, Kind.VECTOR_OTHER, reads)


def _by_element(word: int) -> Instruction:
    opcode, unsigned = _bits(word, 15, 12), word >> 29 & 1
    element = word >> 16 & (15 if _bits(word, 23, 22) == 1 else 31)
    reads = frozenset({_vector(word >> 5), _vector(element)})
    if opcode in (0b0001, 0b0101):
        return _work(word, Kind.VECTOR_MULTIPLY, reads, accumulates=True)
    if opcode == 0b1001:
        return _work(word, Kind.VECTOR_MULTIPLY, reads)
    if opcode in (0b1110, 0b1111):
        return _work(word, Kind.VECTOR_DOT, reads, accumulates=True)
    accumulates = opcode in (0b0010, 0b0011, 0b0110, 0b0111) or (bool(unsigned) and opcode in (0, 0b0100))
    widens = opcode in (0b0010, 0b0011, 0b0110, 0b0111, 0b1010, 0b1011)
    return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True if widens else None, accumulates=accumulates)


def _immediate_shift(word: int) -> Instruction:
    if _bits(word, 22, 19) == 0:  # a constant; ORR and BIC keep the rest
        changes = word >> 12 & 1 and _bits(word, 15, 12) < 0b1100
        return _work(word, Kind.VECTOR_OTHER, _NONE, keeps=bool(changes))
    opcode = _bits(word, 15, 11)
    if opcode in (0b11100, 0b11111):  # fixed-point conversions
        return _work(word, Kind.VECTOR_FLOAT, frozenset({_vector(word >> 5)}))
    inserts = opcode in (0b01000, 0b01010) and bool(word >> 29 & 1)
    narrows_high = 0b10000 <= opcode <= 0b10011 and bool(word >> 30 & 1)
    keeps = opcode in (0b00010, 0b00110) or inserts or narrows_high
    wide = True if opcode == 0b10100 else None  # SSHLL, USHLL: the result is twice as wide
    return _work(word, Kind.VECTOR_OTHER, frozenset({_vector(word >> 5)}), keeps=keeps, wide=wide)
