"""The transformer family: a small BERT with a factorised, pruned vocabulary and pruned tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from space.config import StudentConfig
from space.dimensions import Chooser, ends
from space.families.base import Family
from space.families.transformer.config import PER_LAYER, SHARED, Layer, TransformerConfig, TransformerDimensions
from space.families.transformer.graph import describe
from space.families.transformer.module import TransformerStudent
from space.families.transformer.operators import sections
from space.families.transformer.sizes import part_sizes
from space.graph import Part
from space.operators import Section
from space.shape import TaskShape

__all__ = ["Layer", "TransformerConfig", "TransformerDimensions", "TransformerFamily", "TransformerStudent"]


class TransformerFamily(Family):
    """Registration of the family."""

    name = "transformer"
    title = "A BERT-like encoder"
    config = TransformerConfig
    dimensions = TransformerDimensions
    larger_is_smaller = frozenset({"token_keep"})
    initializations = frozenset({"random", "teacher", "layers", "pretrained", "supernet"})
    graph_version = 2

    def choose(self, dimensions: TransformerDimensions, choose: Chooser) -> dict[str, Any]:
        depth = choose("depth", dimensions.depth)
        fields = {name: choose(name, getattr(dimensions, name)) for name in SHARED}
        layers = [
            {name: choose(f"layer{i}.{name}", getattr(dimensions, name)) for name in PER_LAYER} for i in range(depth)
        ]
        return {**fields, "layers": tuple(layers)}

    def parameters(self, config: TransformerConfig) -> dict[str, Any]:
        flat: dict[str, Any] = {"depth": len(config.layers)}
        flat.update({name: getattr(config, name) for name in SHARED})
        for i, layer in enumerate(config.layers):
            flat.update({f"layer{i}.{name}": getattr(layer, name) for name in PER_LAYER})
        return flat

    def misfit(self, dimensions: TransformerDimensions, per_token: bool) -> str | None:
        if per_token and any(keep != 1 for keep in ends(dimensions.token_keep)):
            return (
                "space.transformer.token_keep should be 1.0: every token gets logits, and one that is pruned would "
                "have none"
            )
        return None

    def graph(self, config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
        return describe(config, shape, vocabulary_size)

    def sections(self, config: TransformerConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
        return sections(config, shape, vocabulary_size, tokens)

    def part_sizes(self, config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> list[int]:
        return part_sizes(config, shape, vocabulary_size)

    def structure(self, config: StudentConfig) -> Mapping[str, Any]:
        found = dict(super().structure(config))
        if found["layer_repeats"] == 1:  # measurements from before there was a choice stay valid
            del found["layer_repeats"]
        return found

    def build(self, config: TransformerConfig, shape: TaskShape, vocabulary_size: int) -> TransformerStudent:
        return TransformerStudent(config, shape, vocabulary_size)
