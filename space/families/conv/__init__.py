"""The convolutional family: stacked cells of one topology, which can be searched (AdaBERT)."""

from __future__ import annotations

from typing import Any

from space.dimensions import Choices, Chooser
from space.families.base import Family
from space.families.conv.config import (
    NODES,
    SHARED,
    SIDES,
    ConvConfig,
    ConvDimensions,
    Edge,
    Node,
    cell_parameters,
    inputs_of,
    parameter_of,
)
from space.families.conv.graph import describe
from space.families.conv.module import ConvStudent
from space.families.conv.operators import sections
from space.graph import Part
from space.operators import Section
from space.shape import TaskShape

__all__ = ["ConvConfig", "ConvDimensions", "ConvFamily", "ConvStudent", "Edge", "Node"]


class ConvFamily(Family):
    """Registration of the family."""

    name = "conv"
    title = "A convolutional text model"
    config = ConvConfig
    dimensions = ConvDimensions

    def choose(self, dimensions: ConvDimensions, choose: Chooser) -> dict[str, Any]:
        fields = {name: choose(parameter_of(name), getattr(dimensions, name)) for name in ("depth", *SHARED)}
        nodes = []
        for number in range(1, NODES + 1 if fields["depth"] else 1):
            inputs = Choices(values=inputs_of(number))
            node = {}
            for side in SIDES:
                name = f"cell.node{number}.{side}"
                node[side] = {
                    "input": choose(f"{name}_input", inputs),
                    "operation": choose(f"{name}_operation", dimensions.operation),
                }
            nodes.append(node)
        return {**fields, "nodes": tuple(nodes)}

    def parameters(self, config: ConvConfig) -> dict[str, Any]:
        flat = {parameter_of(name): getattr(config, name) for name in ("depth", *SHARED)}
        return {**flat, **dict(cell_parameters(config.nodes))}

    def graph(self, config: ConvConfig, shape: TaskShape, vocabulary_size: int) -> list[Part]:
        return describe(config, shape, vocabulary_size)

    def sections(self, config: ConvConfig, shape: TaskShape, vocabulary_size: int, tokens: int) -> list[Section]:
        return sections(config, shape, vocabulary_size, tokens)

    def build(self, config: ConvConfig, shape: TaskShape, vocabulary_size: int) -> ConvStudent:
        return ConvStudent(config, shape, vocabulary_size)
