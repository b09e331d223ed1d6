"""Bytes and emulated latency of a pretrained encoder in 32 bits, and of bundles as shares of it.

    python tests/benchmarks/teacher_cost.py BUNDLE [BUNDLE ...] [--model M] [--device cortex-a76] [--tokens 11 32]

The encoder is exported by PyTorch with a head of as many outputs as the first bundle has, and run by the same ONNX
Runtime, warm, batch 1. Its vocabulary file counts, as a bundle's does. Nothing is trained.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from objectives.latency import load_profile
from runners.bundle import MODEL, VOCABULARY
from runners.emulator.execution import measure_each, raised
from runners.emulator.install import install
from runners.predict import load_bundle
from runners.teacher.model import find_model


class Tagger(nn.Module):
    """An encoder with a linear head on every state."""

    def __init__(self, encoder: Any, outputs: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        return self.head(found.last_hidden_state)


def export(model: Path, outputs: int, path: Path) -> None:
    """Write the encoder as ONNX, any number of texts of any length."""
    encoder = transformers.AutoModel.from_pretrained(model, attn_implementation="eager", dtype=torch.float32)
    names = ["input_ids", "attention_mask"]
    sizes = {name: {0: "batch", 1: "sequence"} for name in [*names, "logits"]}
    ids = torch.full((1, 8), 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Tagger(encoder, outputs).eval(), (ids, torch.ones_like(ids)), str(path), input_names=names,
            output_names=["logits"], dynamic_axes=sizes, opset_version=17, dynamo=False,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--device", default="cortex-a76")
    parser.add_argument("--tokens", nargs="+", type=int, default=[11, 32])
    arguments = parser.parse_args()
    profile, model = load_profile(arguments.device), find_model(arguments.model)
    outputs = load_bundle(arguments.bundles[0]).config.shape.outputs
    with tempfile.TemporaryDirectory(prefix="shoebox-teacher-") as folder:
        teacher = Path(folder) / "teacher.onnx"
        export(model, outputs, teacher)
        files = [teacher, *(bundle / MODEL for bundle in arguments.bundles)]
        size = [teacher.stat().st_size + (model / VOCABULARY).stat().st_size]
        size += [sum((bundle / name).stat().st_size for name in (MODEL, VOCABULARY)) for bundle in arguments.bundles]
        requests = [(file, tokens) for file in files for tokens in arguments.tokens]
        readings = [raised(reading).milliseconds for reading in measure_each(requests, profile, install(print))]
    print(f"| | bytes | teacher's / these |{''.join(f' ms, {t} tokens | teacher / this |' for t in arguments.tokens)}")
    print(f"|---|---|---|{'---|---|' * len(arguments.tokens)}")
    count = len(arguments.tokens)
    for number, name in enumerate([arguments.model, *map(str, arguments.bundles)]):
        own = readings[number * count : (number + 1) * count]
        times = "".join(f" {ms:.3f} | {first / ms:.1f} |" for ms, first in zip(own, readings, strict=False))
        print(f"| {name} | {size[number]:,} | {size[0] / size[number]:.1f} |{times}")


if __name__ == "__main__":
    main()
