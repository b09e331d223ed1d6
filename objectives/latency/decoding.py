"""AArch64 instruction words -> what a pipeline model needs to know about them.

Only what costs time is decoded: the kind of work, the registers read and written, the bytes moved. The
encodings are those of the Arm Architecture Reference Manual (DDI 0487), chapter C4, whose groups the
functions follow. SVE and SME are named but not modelled: no profiled core has them.
"""

from __future__ import annotations

from functools import cache

from objectives.latency.decoding_vectors import decode_scalar_float, decode_simd
from objectives.latency.instructions import (
    FLAGS,
    NO_REGISTERS,
    Instruction,
    Kind,
    bits,
    general_registers,
    vector_register,
)


@cache
def decode(word: int) -> Instruction:
    """Decode one instruction word."""
    group = bits(word, 28, 25)
    if group & 0b1110 == 0b1000:
        return _immediate(word)
    if group & 0b1110 == 0b1010:
        return _branch_or_system(word)
    if group & 0b0101 == 0b0100:
        return _load_or_store(word)
    if group & 0b0111 == 0b0101:
        return _register(word)
    if group & 0b0111 == 0b0111:
        return decode_scalar_float(word) if word >> 28 & 1 else decode_simd(word)
    return Instruction(Kind.SVE if group == 0b0010 else Kind.SYSTEM)


def _immediate(word: int) -> Instruction:
    rd, rn, group, opcode = word & 31, bits(word, 9, 5), bits(word, 25, 23), bits(word, 30, 29)
    writes = general_registers(rd)
    if group in (0b000, 0b001):  # ADR
        return Instruction(Kind.INTEGER, NO_REGISTERS, writes)
    if group == 0b101:  # move wide; MOVK keeps the other bits
        return Instruction(Kind.INTEGER, general_registers(rd) if opcode == 3 else NO_REGISTERS, writes)
    reads = general_registers(rn)
    if group == 0b110 and opcode == 1:  # BFM inserts
        reads |= general_registers(rd)
    if group == 0b111:  # EXTR
        reads |= general_registers(bits(word, 20, 16))
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
        return Instruction(Kind.BRANCH, general_registers(word & 31))
    if top & 0xFE == 0xD6:  # to a register; BLR links
        link = general_registers(30) if bits(word, 24, 21) == 1 else NO_REGISTERS
        return Instruction(Kind.BRANCH, general_registers(bits(word, 9, 5)), link)
    return Instruction(Kind.BRANCH, NO_REGISTERS, general_registers(30) if word >> 31 else NO_REGISTERS)


def _register(word: int) -> Instruction:
    rd, rn, rm, ra = word & 31, bits(word, 9, 5), bits(word, 20, 16), bits(word, 14, 10)
    group = bits(word, 28, 24)
    if group == 0x1B:
        accumulator = ra if ra != 31 else None
        return Instruction(Kind.MULTIPLY, general_registers(rn, rm, ra), general_registers(rd), accumulator=accumulator)
    reads, writes = general_registers(rn, rm), general_registers(rd)
    extends = group == 0x0B and word >> 21 & 1
    shifts = extends or (group in (0x0A, 0x0B) and bits(word, 15, 10))
    shifted = general_registers(rm) if shifts else NO_REGISTERS
    if (group == 0x0A and bits(word, 30, 29) == 3) or (group == 0x0B and word >> 29 & 1):
        writes |= {FLAGS}
    if group == 0x1A:
        kind = bits(word, 23, 21)
        if kind == 0b110:  # one or two sources
            if word >> 30 & 1:
                return Instruction(Kind.INTEGER, general_registers(rn), writes)
            divides = bits(word, 15, 11) == 1
            return Instruction(Kind.DIVIDE if divides else Kind.INTEGER, reads, writes)
        reads |= {FLAGS}
        if kind == 0b010:  # conditional compare, with a register or a 5-bit number
            return Instruction(
                Kind.INTEGER, reads if not word >> 11 & 1 else general_registers(rn) | {FLAGS}, frozenset({FLAGS})
            )
    return Instruction(Kind.INTEGER, reads, writes, shifted=shifted)


# ---- loads and stores


def _load_or_store(word: int) -> Instruction:
    group, vector = bits(word, 29, 28), bool(word >> 26 & 1)
    if group == 0b00:
        return _structures(word) if vector else _exclusive(word)
    if group == 0b01:  # from a literal pool
        target = vector_register(word) if vector else word & 31
        size = 4 << bits(word, 31, 30) if vector else 8
        return Instruction(Kind.VECTOR_LOAD if vector else Kind.LOAD, NO_REGISTERS, general_registers(target), size)
    return _pair(word, vector) if group == 0b10 else _single(word, vector)


def _memory(
    load: bool,
    vector: bool,
    data: frozenset[int],
    address: frozenset[int],
    back: frozenset[int],
    size: int,
    kept: frozenset[int] = NO_REGISTERS,
) -> Instruction:
    """A memory access: loads write their data, stores read it; write-back updates the base register.

    Loads of a part of a register read those in ``kept`` too.
    """
    if load:
        kind = Kind.VECTOR_LOAD if vector else Kind.LOAD
        return Instruction(kind, address | kept, data | back, size, wide=size > 8, address=address, write_back=back)
    kind = Kind.VECTOR_STORE if vector else Kind.STORE
    return Instruction(kind, address | data, back, size, wide=size > 8, address=address, write_back=back)


def _single(word: int, vector: bool) -> Instruction:
    rt, rn, rm = word & 31, bits(word, 9, 5), bits(word, 20, 16)
    scale, opcode = word >> 30, bits(word, 23, 22)
    size = 16 if vector and opcode & 2 else 1 << scale
    load = bool(opcode & 1) if vector else opcode != 0
    address, back = general_registers(rn), NO_REGISTERS
    if not word >> 24 & 1:
        if word >> 21 & 1:
            address |= general_registers(rm)
            if not vector and bits(word, 11, 10) == 0:  # atomic read-modify-write
                return Instruction(Kind.LOAD, address, general_registers(rt), size, address=address)
        elif word >> 10 & 1:
            back = general_registers(rn)
    if not vector and scale == 3 and opcode == 2:  # prefetch
        return Instruction(Kind.LOAD, address, address=address)
    data = frozenset({vector_register(rt)}) if vector else general_registers(rt)
    return _memory(load, vector, data, address, back, size)


def _pair(word: int, vector: bool) -> Instruction:
    rt, rt2, rn, scale = word & 31, bits(word, 14, 10), bits(word, 9, 5), word >> 30
    size = 8 << scale if vector else (16 if scale & 2 else 8)
    data = frozenset({vector_register(rt), vector_register(rt2)}) if vector else general_registers(rt, rt2)
    back = general_registers(rn) if word >> 23 & 1 else NO_REGISTERS
    return _memory(bool(word >> 22 & 1), vector, data, general_registers(rn), back, size)


def _exclusive(word: int) -> Instruction:
    rt, status, load, size = word & 31, bits(word, 20, 16), word >> 22 & 1, 1 << (word >> 30)
    address = general_registers(bits(word, 9, 5))
    if load:
        return Instruction(Kind.LOAD, address, general_registers(rt), size, address=address)
    return Instruction(Kind.STORE, address | general_registers(rt), general_registers(status), size, address=address)


_STRUCTURE_REGISTERS = {0b0111: 1, 0b1010: 2, 0b1000: 2, 0b0110: 3, 0b0100: 3}


def _structures(word: int) -> Instruction:
    """LD1-LD4 and ST1-ST4, whole registers or one lane."""
    rt, rn, rm, load = word & 31, bits(word, 9, 5), bits(word, 20, 16), bool(word >> 22 & 1)
    address, back, kept = general_registers(rn), NO_REGISTERS, NO_REGISTERS
    if word >> 23 & 1:
        back, address = general_registers(rn), general_registers(rn, rm)
    if word >> 24 & 1:
        opcode = bits(word, 15, 13)
        registers = ((opcode & 1) << 1 | (word >> 21 & 1)) + 1
        replicate = opcode >> 1 == 3
        size = registers << (bits(word, 11, 10) if replicate else opcode >> 1)
        data = frozenset(vector_register(rt + index) for index in range(registers))
        if load and not replicate:  # the other lanes stay
            kept = data
    else:
        registers = _STRUCTURE_REGISTERS.get(bits(word, 15, 12), 4)
        size = registers * (16 if word >> 30 & 1 else 8)
        data = frozenset(vector_register(rt + index) for index in range(registers))
    return _memory(load, True, data, address, back, size, kept)
