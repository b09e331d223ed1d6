"""The floating-point and vector instructions of AArch64; see ``decoding.py``."""

from __future__ import annotations

from objectives.latency.instructions import (
    FLAGS,
    NO_REGISTERS,
    Instruction,
    Kind,
    bits,
    general_registers,
    vector_register,
)


def decode_scalar_float(word: int) -> Instruction:
    """Scalar floating point, and one-lane forms of vector instructions."""
    rd, rn, rm = vector_register(word), vector_register(word >> 5), vector_register(word >> 16)
    writes, reads = frozenset({rd}), frozenset({rn, rm})
    group = bits(word, 28, 24)
    if word >> 30 & 1 or word >> 29 & 1 or group not in (0x1E, 0x1F):
        return Instruction(Kind.VECTOR_OTHER, reads, writes)  # one-lane forms of vector instructions
    if group == 0x1F:
        addend = vector_register(word >> 10)
        return Instruction(Kind.VECTOR_MULTIPLY_ADD, reads | {addend}, writes, accumulator=addend)
    if not word >> 21 & 1 or bits(word, 15, 10) == 0:  # conversions and moves between register files
        to_general = bits(word, 18, 16) in (0, 1, 4, 5, 6)
        if to_general:
            return Instruction(Kind.SCALAR_FLOAT, frozenset({rn}), general_registers(word & 31))
        return Instruction(Kind.SCALAR_FLOAT, general_registers(bits(word, 9, 5)), writes)
    if bits(word, 14, 10) == 0b10000:
        root = bits(word, 20, 15) == 0b000011
        return Instruction(Kind.VECTOR_DIVIDE if root else Kind.SCALAR_FLOAT, frozenset({rn}), writes)
    if bits(word, 13, 10) == 0b1000:
        return Instruction(Kind.SCALAR_FLOAT, reads, frozenset({FLAGS}))
    if bits(word, 12, 10) == 0b100:
        return Instruction(Kind.SCALAR_FLOAT, NO_REGISTERS, writes)
    if bits(word, 11, 10) == 0b01:
        return Instruction(Kind.SCALAR_FLOAT, reads | {FLAGS}, frozenset({FLAGS}))
    if bits(word, 11, 10) == 0b11:
        return Instruction(Kind.SCALAR_FLOAT, reads | {FLAGS}, writes)
    divides = bits(word, 15, 12) == 0b0001
    return Instruction(Kind.VECTOR_DIVIDE if divides else Kind.SCALAR_FLOAT, reads, writes)


def decode_simd(word: int) -> Instruction:
    """Vector instructions."""
    group = bits(word, 28, 24)
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
    destination = vector_register(word)
    if accumulates or keeps:
        reads = reads | {destination}
    is_wide = bool(word >> 30 & 1) if wide is None else wide
    return Instruction(kind, reads, frozenset({destination}), 0, is_wide, destination if accumulates else None)


# SQADD, SQSUB, SQSHL, SRSHL, SQRSHL, SABD, SABA and their unsigned forms, and ADDP
_COMPLEX_THREE_SAME = frozenset({0b00001, 0b00101, 0b01001, 0b01010, 0b01011, 0b01110, 0b01111, 0b10111})


def _three_same(word: int) -> Instruction:
    reads = frozenset({vector_register(word >> 5), vector_register(word >> 16)})
    opcode, unsigned, size = bits(word, 15, 11), word >> 29 & 1, bits(word, 23, 22)
    if opcode == 0b11001:
        return _work(word, Kind.VECTOR_MULTIPLY_ADD, reads, accumulates=True)
    if opcode == 0b11111 and unsigned and not size & 2:
        return _work(word, Kind.VECTOR_DIVIDE, reads)
    if opcode >= 0b11000:
        return _work(word, Kind.VECTOR_FLOAT, reads)
    if opcode == 0b10010:
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, accumulates=True)
    if opcode in (0b10011, 0b10110):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads)
    selects = opcode == 0b00011 and bool(unsigned) and size > 0  # BSL, BIT, BIF
    kind = Kind.VECTOR_COMPLEX if opcode in _COMPLEX_THREE_SAME else Kind.VECTOR_OTHER
    return _work(word, kind, reads, keeps=selects or opcode == 0b01111)


def _three_different(word: int) -> Instruction:
    reads = frozenset({vector_register(word >> 5), vector_register(word >> 16)})
    opcode = bits(word, 15, 12)
    if opcode in (8, 9, 10, 11):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True, accumulates=True)
    if opcode in (12, 13, 14):
        return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True)
    narrows_high = opcode in (4, 6) and bool(word >> 30 & 1)
    kind = Kind.VECTOR_COMPLEX if opcode in (5, 7) else Kind.VECTOR_OTHER  # SABAL, SABDL
    return _work(word, kind, reads, wide=True, keeps=opcode == 5 or narrows_high)


def _two_registers(word: int) -> Instruction:
    reads, opcode, unsigned = frozenset({vector_register(word >> 5)}), bits(word, 16, 12), word >> 29 & 1
    if bits(word, 21, 17) == 0b11000:  # across lanes
        return _work(word, Kind.VECTOR_FLOAT if opcode in (0b01100, 0b01111) else Kind.VECTOR_COMPLEX, reads)
    if opcode == 0b11111 and unsigned:
        return _work(word, Kind.VECTOR_DIVIDE, reads)
    if opcode >= 0b01100 and opcode not in (0b10010, 0b10011, 0b10100):
        return _work(word, Kind.VECTOR_FLOAT, reads)
    narrows_high = opcode in (0b10010, 0b10100) and bool(word >> 30 & 1)
    # Pairwise sums, saturating forms, and narrowing that saturates (XTN does not).
    narrows = opcode == 0b10100 or (opcode == 0b10010 and bool(unsigned))
    kind = Kind.VECTOR_COMPLEX if narrows or opcode in (0b00010, 0b00011, 0b00110, 0b00111) else Kind.VECTOR_OTHER
    return _work(word, kind, reads, keeps=opcode in (0b00011, 0b00110) or narrows_high)


def _extra_or_permute(word: int) -> Instruction:
    reads = frozenset({vector_register(word >> 5), vector_register(word >> 16)})
    if word >> 15 & 1 and word >> 10 & 1:
        opcode = bits(word, 14, 11)
        if opcode in (2, 3, 15):
            return _work(word, Kind.VECTOR_DOT, reads, accumulates=True)
        if opcode in (4, 5, 13):
            return _work(word, Kind.VECTOR_MATRIX, reads, accumulates=True)
        return _work(word, Kind.VECTOR_OTHER, reads)
    if word >> 10 & 1:  # copies
        opcode, source = bits(word, 14, 11), frozenset({vector_register(word >> 5)})
        if word >> 29 & 1:  # a lane into a lane
            return _work(word, Kind.VECTOR_OTHER, source, keeps=True)
        if opcode in (5, 7):  # a lane into a general register
            return Instruction(Kind.VECTOR_OTHER, source, general_registers(word & 31))
        if opcode in (1, 3):
            return _work(word, Kind.VECTOR_OTHER, general_registers(bits(word, 9, 5)), keeps=opcode == 3)
        return _work(word, Kind.VECTOR_OTHER, source)
    if not word >> 29 & 1 and not word >> 11 & 1:  # table lookup in one to four registers
        table = {vector_register((word >> 5 & 31) + index) for index in range(bits(word, 14, 13) + 1)}
        return _work(
            word, Kind.VECTOR_OTHER, frozenset({vector_register(word >> 16)} | table), keeps=bool(word >> 12 & 1)
        )
    return _work(word, Kind.VECTOR_OTHER, reads)


def _by_element(word: int) -> Instruction:
    opcode, unsigned = bits(word, 15, 12), word >> 29 & 1
    element = word >> 16 & (15 if bits(word, 23, 22) == 1 else 31)
    reads = frozenset({vector_register(word >> 5), vector_register(element)})
    if opcode in (0b0001, 0b0101):
        return _work(word, Kind.VECTOR_MULTIPLY_ADD, reads, accumulates=True)
    if opcode == 0b1001:
        return _work(word, Kind.VECTOR_FLOAT, reads)
    if opcode in (0b1110, 0b1111):
        return _work(word, Kind.VECTOR_DOT, reads, accumulates=True)
    accumulates = opcode in (0b0010, 0b0011, 0b0110, 0b0111) or (bool(unsigned) and opcode in (0, 0b0100))
    widens = opcode in (0b0010, 0b0011, 0b0110, 0b0111, 0b1010, 0b1011)
    return _work(word, Kind.VECTOR_INTEGER_MULTIPLY, reads, wide=True if widens else None, accumulates=accumulates)


def _immediate_shift(word: int) -> Instruction:
    if bits(word, 22, 19) == 0:  # a constant; ORR and BIC keep the rest
        changes = word >> 12 & 1 and bits(word, 15, 12) < 0b1100
        return _work(word, Kind.VECTOR_OTHER, NO_REGISTERS, keeps=bool(changes))
    opcode = bits(word, 15, 11)
    if opcode in (0b11100, 0b11111):  # fixed-point conversions
        return _work(word, Kind.VECTOR_FLOAT, frozenset({vector_register(word >> 5)}))
    inserts = opcode in (0b01000, 0b01010) and bool(word >> 29 & 1)
    narrows_high = 0b10000 <= opcode <= 0b10011 and bool(word >> 30 & 1)
    keeps = opcode in (0b00010, 0b00110) or inserts or narrows_high
    wide = True if opcode == 0b10100 else None  # SSHLL, USHLL: the result is twice as wide
    rounds = opcode in (0b00010, 0b00100, 0b00110, 0b01100, 0b01110) or 0b10001 <= opcode <= 0b10011
    kind = Kind.VECTOR_COMPLEX if rounds else Kind.VECTOR_OTHER  # accumulates, rounds or saturates
    return _work(word, kind, frozenset({vector_register(word >> 5)}), keeps=keeps, wide=wide)
