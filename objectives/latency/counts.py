"""What an emulated run counted: executed blocks and cache accesses, read from the plugin's file."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

from objectives.latency.decoding import decode

MAGIC = b"SHOEBOX2"


@dataclass(frozen=True)
class CacheCounts:
    """Accesses and misses in lines of 64 bytes. "Streamed" misses continue an ascending sequence, which a
    hardware prefetcher would have seen coming. What no cache held came from memory: on a core without a third level,
    all that the second one missed."""

    l1d_accesses: int = 0
    l1d_misses: int = 0
    l1d_streamed: int = 0
    l2_data_misses: int = 0
    l2_data_streamed: int = 0
    l1i_accesses: int = 0
    l1i_misses: int = 0
    l2_instruction_misses: int = 0
    memory_data: int = 0
    memory_data_streamed: int = 0
    memory_instructions: int = 0

    def misses(self) -> dict[str, int]:
        """The figures that a reading carries."""
        return {
            "l1d": self.l1d_misses,
            "l1d_streamed": self.l1d_streamed,
            "l1i": self.l1i_misses,
            "l2_data": self.l2_data_misses,
            "l2_data_streamed": self.l2_data_streamed,
            "l2_instruction": self.l2_instruction_misses,
            "memory_data": self.memory_data,
            "memory_data_streamed": self.memory_data_streamed,
            "memory_instruction": self.memory_instructions,
        }


@dataclass(frozen=True)
class ExecutionCounts:
    """One run: instruction words of each straight-line block -> its executions, and the caches."""

    blocks: Mapping[tuple[int, ...], int]
    caches: CacheCounts

    @property
    def instructions(self) -> int:
        """Executed instructions."""
        return sum(len(words) * executions for words, executions in self.blocks.items())

    def instruction_classes(self) -> dict[str, int]:
        """Executed instructions by kind, kinds that do not occur left out."""
        words: Counter[int] = Counter()
        for block, executions in self.blocks.items():
            for word in block:
                words[word] += executions
        kinds: Counter[str] = Counter()
        for word, executions in words.items():
            kinds[decode(word).kind.value] += executions
        return dict(sorted(kinds.items()))


def read_counts(data: bytes) -> ExecutionCounts:
    """Parse the plugin's file (its layout is described in ``runners/emulator/plugin.c``).

    Raises:
        ValueError: the data are not such a file, or not all of it.
    """
    try:
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError("not a file of execution counts")
        head = struct.Struct(f"<{len(fields(CacheCounts)) + 1}Q")
        *caches, count = head.unpack_from(data, len(MAGIC))
        offset = len(MAGIC) + head.size
        blocks: dict[tuple[int, ...], int] = {}
        for _ in range(count):
            _, executions, size = struct.unpack_from("<3Q", data, offset)
            offset += 24
            words = struct.unpack_from(f"<{size}I", data, offset)
            offset += 4 * size
            blocks[words] = blocks.get(words, 0) + executions
    except struct.error:
        raise ValueError("the file of execution counts is cut short") from None
    return ExecutionCounts(blocks, CacheCounts(*caches))
