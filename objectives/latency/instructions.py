"""What a pipeline model needs to know about an AArch64 instruction."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    VECTOR_COMPLEX = "vector_complex"  # integer: saturating, pairwise, across lanes, differences, accumulating shifts
    VECTOR_MULTIPLY_ADD = "vector_multiply_add"  # floating point, scalar too
    VECTOR_FLOAT = "vector_float"  # floating-point add, multiply, compare, convert
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
NO_REGISTERS: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    Attributes:
        kind: its class.
        reads, writes: register numbers (see ``FLAGS``); register 31 is not tracked.
        bytes: moved from or to memory.
        wide: works on 128-bit vectors.
        accumulator: the register that is added to, which cores forward late; None where there is none.
        address: those of ``reads`` that make up an address, and are needed early.
        shifted: those of ``reads`` that are shifted or extended first, and are needed early too.
        write_back: those of ``writes`` that hold an address, and are ready long before loaded data.
    """

    kind: Kind
    reads: frozenset[int] = NO_REGISTERS
    writes: frozenset[int] = NO_REGISTERS
    bytes: int = 0
    wide: bool = False
    accumulator: int | None = None
    address: frozenset[int] = NO_REGISTERS
    shifted: frozenset[int] = NO_REGISTERS
    write_back: frozenset[int] = NO_REGISTERS


def bits(word: int, high: int, low: int) -> int:
    """Bits ``high`` to ``low`` of a word."""
    return (word >> low) & ((1 << (high - low + 1)) - 1)


def general_registers(*registers: int) -> frozenset[int]:
    """General registers by number; 31 is the zero register or the stack pointer, and left out."""
    return frozenset(register for register in registers if register != 31)


def vector_register(register: int) -> int:
    """A vector register from the five bits that name it."""
    return 32 + (register & 31)
