"""The birnn family: a bidirectional LSTM or GRU over factorised embeddings (XtremeDistil).

Mukherjee & Awadallah, "Distilling BERT into Simple Neural Networks with Unlabeled Transfer Data", 2019 (arXiv
1910.01769), and "XtremeDistil: Multi-stage Distillation for Massive Multilingual Models", 2020 (arXiv 2004.05686):
embeddings from the principal components of the teacher's, a bidirectional LSTM, a projection with GELU, a linear head.
How such a student is trained in stages is a choice of the recipe (`space.config.Recipe.schedule`).
"""

from __future__ import annotations

from typing import Any

from space.dimensions import Chooser
from space.families.base import Family
from space.families.birnn.config import PER_LAYER, SHARED, BirnnConfig, BirnnDimensions, RecurrentLayer
from space.families.birnn.graph import describe, sections
from space.families.birnn.module import BirnnStudent
from space.graph import Part
from space.operators import Section
from space.shape import TaskShape

__all__ = ["BirnnConfig", "BirnnDimensions", "BirnnFamily", "BirnnStudent", "RecurrentLayer"]


class BirnnFamily(Family):
    """Registration of the family."""

    name = "birnn"
    title = "A recurrent text model"
    config = BirnnConfig
    dimensions = BirnnDimensions

    def choose(self, dimensions: BirnnDimensions, choose: Chooser) -> dict[str, Any]:
        depth = choose("birnn.depth", dimensions.depth)
        fields = {name: choose(f"birnn.{name}", getattr(dimensions, name)) for name in SHARED}
        layers = [
            {name: choose(f"birnn_layer{i}.{name}", getattr(dimensions, name)) for name in PER_LAYER}
            for i in range(depth)
        ]
        return {**fields, "layers": tuple(layers)}

    def parameters(self, config: BirnnConfig) -> dict[str, Any]:
        flat: dict[str, Any] = {"birnn.depth": len(config.layers)}
        flat.update({f"birnn.{name}": getattr(config, name) for name in SHARED})
        for i, layer in enumerate(config.layers):
            flat.update({f"birnn_layer{i}.{name}": getattr(layer, name) for name in PER_LAYER})
        return flat

    def misfit(self, dimensions: BirnnDimensions, per_token: bool) -> str | None:
        if per_token and dimensions.pools_in_two_ways:
            return "space.birnn.pooling should be mean alone: every token gets logits, and nothing is pooled"
        return None

    def graph(self, config: BirnnConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
        return describe(config, shape, vocabulary_size)

    def sections(self, config: BirnnConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
        return sections(config, shape, vocabulary_size, tokens)

    def build(self, config: BirnnConfig, shape: TaskShape, vocabulary_size: int) -> BirnnStudent:
        return BirnnStudent(config, shape, vocabulary_size)
