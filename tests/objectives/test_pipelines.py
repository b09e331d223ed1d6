"""Cycles of short blocks, worked out by hand from the figures of the device profiles."""

from __future__ import annotations

import pytest

from objectives.latency import load_profile
from objectives.latency.cycles import in_order_cycles, out_of_order_cycles
from objectives.latency.decoding import decode

# Encodings by LLVM's assembler.
WORDS = {
    "add x1, x1, #8": 0x91002021,
    "add x5, x6, #1": 0x910004C5,
    "add x7, x8, #1": 0x91000507,
    "add x0, x1, x2": 0x8B020020,
    "add x3, x4, x0": 0x8B000083,
    "add x3, x4, x0, lsl #2": 0x8B000883,
    "add x3, x4, w0, sxtw #2": 0x8B20C883,
    "subs x3, x3, #1": 0xF1000463,
    "cbz x5, .+8": 0xB4000045,
    "b.ne .-8": 0x54FFFFC1,
    "mul x0, x1, x2": 0x9B027C20,
    "ldr x2, [x1]": 0xF9400022,
    "ldr x2, [x3, x1, lsl #3]": 0xF8617862,
    "ldp x3, x4, [x2]": 0xA9401043,
    "ldr d0, [x1]": 0xFD400020,
    "ldr d1, [x1]": 0xFD400021,
    "ldr d0, [x1], #8": 0xFC408420,
    "ldr q0, [x1]": 0x3DC00020,
    "fadd v0.4s, v1.4s, v2.4s": 0x4E22D420,
    "fadd v0.2s, v1.2s, v2.2s": 0x0E22D420,
    "fadd s0, s0, s1": 0x1E212800,
    "fmla v0.4s, v1.4s, v2.4s": 0x4E22CC20,
    "fdiv v0.4s, v1.4s, v2.4s": 0x6E22FC20,
    "fdiv v3.4s, v1.4s, v2.4s": 0x6E22FC23,
}


@pytest.mark.parametrize(
    ("lines", "a53", "a55"),
    [
        # An integer result reaches arithmetic after 1 cycle, a shifted operand after 2, an address after 3 or 2.
        (["add x0, x1, x2", "add x3, x4, x0"], 2, 2),
        (["add x0, x1, x2", "add x3, x4, x0, lsl #2"], 3, 3),
        (["add x0, x1, x2", "add x3, x4, w0, sxtw #2"], 3, 3),
        (["add x1, x1, #8", "ldr x2, [x1]"], 4, 3),
        (["add x1, x1, #8", "ldr x2, [x3, x1, lsl #3]"], 4, 3),
        (["mul x0, x1, x2", "add x3, x4, x0"], 3, 3),
        # The address that a load writes back is there in the next cycle, its data after 3.
        (["ldr d0, [x1], #8", "ldr d1, [x1]"], 2, 2),
        (["ldr d0, [x1]", "fadd v0.2s, v1.2s, v2.2s"], 1, 1),
        # 16 bytes come in 2 cycles, and nothing else issues meanwhile.
        (["ldr d0, [x1]", "add x5, x6, #1", "add x7, x8, #1"], 2, 2),
        (["ldr q0, [x1]", "add x5, x6, #1", "add x7, x8, #1"], 3, 3),
        (["ldp x3, x4, [x2]", "add x5, x6, #1", "add x7, x8, #1"], 3, 3),
        (["add x5, x6, #1", "ldr q0, [x1]"], 3, 3),
        # Work on 128 bits issues first or alone; on 64 bits in any place.
        (["fadd v0.4s, v1.4s, v2.4s", "add x5, x6, #1"], 1, 1),
        (["add x5, x6, #1", "fadd v0.4s, v1.4s, v2.4s"], 2, 2),
        (["add x5, x6, #1", "fadd v0.2s, v1.2s, v2.2s"], 1, 1),
        # A branch does not wait for flags; it does for a register.
        (["subs x3, x3, #1", "b.ne .-8"], 1, 1),
        (["add x5, x6, #1", "cbz x5, .+8"], 2, 2),
        # Divisions follow each other after 14 or 10 cycles, 128 bits wide or not.
        (["fdiv v0.4s, v1.4s, v2.4s", "fdiv v3.4s, v1.4s, v2.4s"], 15, 11),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else None,
)
def test_in_order_cores(lines: list[str], a53: int, a55: int) -> None:
    block = [decode(WORDS[line]) for line in lines]
    found = [in_order_cycles(block, load_profile(name).pipeline) for name in ("cortex-a53", "cortex-a55")]
    assert found == [a53, a55]


@pytest.mark.parametrize(
    ("lines", "loops", "a72", "a76"),
    [
        # The A72 has two ports of 64 bits in floating point, the A76 two of 128.
        (["fmla v0.4s, v1.4s, v2.4s"] * 8, False, 8, 4),
        (["fadd v0.2s, v1.2s, v2.2s"] * 8, False, 4, 4),
        # A sum that every round of a loop adds to: the latency of an addition, 4 or 2.
        (["fadd s0, s0, s1", "subs x3, x3, #1", "b.ne .-8"], True, 4, 2),
        (["fadd s0, s0, s1", "subs x3, x3, #1", "b.ne .-8"], False, 1, 1),
        # The same with multiply-adds, which forward their sum after 3 or 2.
        (["fmla v0.4s, v1.4s, v2.4s", "subs x3, x3, #1", "b.ne .-8"], True, 3, 2),
        # What no later round reads holds nothing up.
        (["fdiv v0.4s, v1.4s, v2.4s", "subs x3, x3, #1", "b.ne .-8"], True, 10, 8),
        (["ldr d0, [x1], #8", "fadd v0.2s, v1.2s, v2.2s", "b.ne .-8"], True, 1, 1),
    ],
)
def test_out_of_order_cores(lines: list[str], loops: bool, a72: int, a76: int) -> None:
    block = [decode(WORDS[line]) for line in lines]
    found = [
        out_of_order_cycles(block, load_profile(name).pipeline, loops=loops) for name in ("cortex-a72", "cortex-a76")
    ]
    assert found == [a72, a76]
