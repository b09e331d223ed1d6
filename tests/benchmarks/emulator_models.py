"""Students that the benchmarks of the emulator measure: random weights, one of each kind, 0.4 to 1.9 MB."""

from __future__ import annotations

from pathlib import Path

import torch

from space import TaskShape
from space.families import build_student, export_model, parse_config

VOCABULARY = 6000
TOKENS = 32
# depth, width, bits of attention, bits of the feed-forward network, share of the tokens kept after layer 1, level
KINDS = [
    (2, 128, 4, 4, 1.0, 4),
    (4, 128, 8, 4, 1.0, 4),
    (3, 192, 2, 2, 1.0, 4),
    (4, 256, 4, 2, 0.5, 4),
    (3, 256, 8, 8, 1.0, 4),
    (1, 128, 4, 8, 1.0, 0),
    (3, 128, 4, 4, 0.5, 0),
    (2, 256, 4, 4, 1.0, 4),
    (4, 192, 4, 4, 0.75, 4),
    (2, 192, 8, 8, 1.0, 0),
]


def write_students(folder: Path, count: int) -> list[Path]:
    """The first ``count`` kinds as files."""
    shape = TaskShape(outputs=2, segments=1, max_length=64)
    paths = []
    for number, (depth, width, attention, ffn, keep, level) in enumerate(KINDS[:count]):
        layer = {"ffn_width": 2 * width, "attention_bits": attention, "ffn_bits": ffn}
        config = parse_config(
            {
                "family": "transformer",
                "vocabulary_keep": 1.0,
                "embedding_width": 64,
                "embedding_bits": 4,
                "width": width,
                "heads": 4,
                "activation": "gelu" if number % 2 else "relu",
                "block_size": 32,
                "accuracy_level": level,
                "layers": [{**layer, "token_keep": 1.0 if index else keep} for index in range(depth)],
            }
        )
        torch.manual_seed(number)
        student = build_student(config, shape, VOCABULARY)
        paths.append(folder / f"student-{number}.onnx")
        paths[-1].write_bytes(export_model(config, shape, VOCABULARY, student).SerializeToString())
    return paths
