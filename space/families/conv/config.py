"""Configuration and search dimensions of the convolutional family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from space.config import Bits, StudentConfig
from space.dimensions import Choices, Dimension, Range, check_values, describe, ends

Operation: TypeAlias = Literal[
    "zero",
    "identity",
    "average_pool3",
    "max_pool3",
    "conv3",
    "conv5",
    "conv7",
    "dilated_conv3",
    "dilated_conv5",
    "dilated_conv7",
]
Input: TypeAlias = Literal["cell-2", "cell-1", "node1", "node2"]
Convolution: TypeAlias = Literal["separable", "standard"]
Pooling: TypeAlias = Literal["mean", "attentive"]
Unpacking: TypeAlias = Literal["run", "load"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
CELL_INPUTS: tuple[Input, ...] = ("cell-2", "cell-1")
NODES = 3
SIDES = ("left", "right")
MAX_DEPTH = 8
SHARED = ("width", "conv_bits", "convolution", "pooling", "unpacking")


class Window(NamedTuple):
    """The places that an operation reads: `taps` of them, `dilation` apart, the middle one its own."""

    taps: int
    dilation: int

    @property
    def reach(self) -> int:
        """How far the outermost is away."""
        return self.taps // 2 * self.dilation


def window_of(operation: Operation) -> Window | None:
    """The window of an operation; None of those that read their own place alone."""
    if operation in ("zero", "identity"):
        return None
    return Window(int(operation[-1]), 2 if operation.startswith("dilated") else 1)


def is_convolution(operation: Operation) -> bool:
    """Whether an operation has weights."""
    return "conv" in operation


def inputs_of(node: int) -> tuple[Input, ...]:
    """What inner node `node` (from 1) can read: both inputs of the cell, and the nodes before it."""
    inputs: tuple[Input, ...] = get_args(Input)
    return inputs[: 1 + node]


class Edge(BaseModel):
    """One input of an inner node, and what is done to it.

    Attributes:
        input: outputs of the cells before (of the first cell, both are what the embedding stage yields), or an inner
            node.
        operation: `zero` leaves the edge out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Input
    operation: Operation


class Node(BaseModel):
    """One inner node: the sum of its two edges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: Edge
    right: Edge


class ConvConfig(StudentConfig):
    """A student of stacked convolutional cells (AdaBERT, Chen et al. 2020, arXiv 2001.04246).

    All cells have one topology and weights of their own. A cell reads the outputs of the two cells before it, has three
    inner nodes with two edges each, and answers the normalised sum of its inner nodes. What the paper leaves open, and
    what was chosen:

    - A convolution is ReLU, convolution, layer normalisation. The paper's batch normalisation would have to be folded
      into weights that training has rounded already.
    - The weights of the sum of inner nodes are left to the gains of the normalisations before it, which is an operator
      less for each node.
    - Whether convolutions are separable is not stated; here it is a choice. 128 wide with 4 bits in blocks of 32, a
      separable convolution of 3 takes 12 kB, a standard one 32 kB, one of 7 13 kB and 73 kB.
    - Dilated ones read every second place.
    - Beyond the ends of a text there are zeros; an average counts them.

    Attributes:
        width: of the hidden states.
        depth: number of cells; 0 is the baseline without cells, a bag of embeddings.
        conv_bits: of the weights of convolutions, but for the taps of separable ones, which have 8.
        convolution: `separable` is one weight for each tap and channel, then a linear map of the channels; `standard` a
            linear map of all taps.
        pooling: from the last states to that of a text: their `mean`, or a mean weighted by a learned query.
        unpacking: when weights of 2 and 8 bits become numbers to compute with; as of the transformer family.
        nodes: topology of a cell, inner node by inner node; empty without cells.
    """

    family: Literal["conv"] = "conv"
    width: int = Field(ge=16, le=1024, multiple_of=16)
    depth: int = Field(ge=0, le=MAX_DEPTH)
    conv_bits: Bits
    convolution: Convolution = "separable"
    pooling: Pooling = "mean"
    unpacking: Unpacking = "run"
    nodes: tuple[Node, ...] = Field(max_length=NODES)

    @model_validator(mode="after")
    def _consistent(self) -> ConvConfig:
        if len(self.nodes) != (NODES if self.depth else 0):
            raise ValueError(f"a cell has {NODES} inner nodes, and without cells (depth 0) there are none")
        for number, node in enumerate(self.nodes, start=1):
            for side in SIDES:
                found = getattr(node, side).input
                if found not in inputs_of(number):
                    raise ValueError(f"node{number} cannot read {found}, but {', '.join(inputs_of(number))}")
        return self

    def cell(self) -> tuple[tuple[Edge, ...], ...]:
        """The edges that are computed of each inner node: without `zero`, and without those that read an empty node."""
        return live_edges(self.nodes)

    def executed_cells(self) -> list[int]:
        """Numbers of the cells that are computed, in order: those whose output is read.

        Where no inner node reads the cell just before, every second cell leads nowhere; where nothing is left of a
        cell, none is computed.
        """
        reads = {edge.input for edges in self.cell() for edge in edges if edge.input in CELL_INPUTS}
        found: list[int] = []
        waiting = [self.depth - 1] if reads else []
        while waiting:
            number = waiting.pop()
            if number in found or number < 0:
                continue
            found.append(number)
            waiting += [number - distance for name, distance in (("cell-1", 1), ("cell-2", 2)) if name in reads]
        return sorted(found)

    def summary(self) -> str:
        """As in `4 cells x 128: c-1 conv3 + c-2 identity | ..., bits 4:4, embedding 64, vocabulary 0.2`."""
        nodes = (
            " + ".join(f"{edge.input.replace('cell', 'c')} {edge.operation}" for edge in (node.left, node.right))
            for node in self.nodes
        )
        count = f"{self.depth} cell{'s' * (self.depth > 1)}"
        cells = f"{count} x {self.width}: {' | '.join(nodes)}" if self.depth else f"no cell, {self.width}"
        return (
            f"{cells}, {self.convolution}, {self.pooling}, bits {self.embedding_bits}:{self.conv_bits}, "
            f"embedding {self.embedding_width}, vocabulary {self.vocabulary_keep:.3g}"
        )


def live_edges(nodes: tuple[Node, ...]) -> tuple[tuple[Edge, ...], ...]:
    """Of each inner node the edges through which anything arrives."""
    found: list[tuple[Edge, ...]] = []
    for node in nodes:
        found.append(
            tuple(
                edge
                for edge in (node.left, node.right)
                if edge.operation != "zero" and (edge.input in CELL_INPUTS or found[int(edge.input[-1]) - 1])
            )
        )
    return tuple(found)


def parameter_of(name: str) -> str:
    """Name of the parameter of a shared dimension; other families have a `depth` and a `width` of their own."""
    return name if name.startswith("conv") else f"conv.{name}"


def cell_parameters(nodes: tuple[Node, ...]) -> Iterator[tuple[str, str]]:
    """Names and values of the parameters of a cell, as in `cell.node2.left_operation`."""
    for number, node in enumerate(nodes, start=1):
        for side in SIDES:
            edge: Edge = getattr(node, side)
            yield f"cell.node{number}.{side}_input", edge.input
            yield f"cell.node{number}.{side}_operation", edge.operation


class ConvDimensions(BaseModel):
    """Section `space: conv:` of a study file; `operation` is chosen for each of the six edges, beside its input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: Dimension = Range(low=1, high=4)
    width: Dimension = Choices(values=(64, 96, 128, 192))
    conv_bits: Dimension = Choices(values=(2, 4, 8))
    convolution: Dimension = Choices(values=("separable",))
    pooling: Dimension = Choices(values=("mean", "attentive"))
    unpacking: Dimension = Choices(values=("run",))
    operation: Dimension = Choices(values=OPERATIONS)

    @field_validator("operation")
    @classmethod
    def _by_size(cls, operation: Choices | Range) -> Choices | Range:
        # In the order of what they add to the file, whatever that of the study file.
        if isinstance(operation, Choices) and set(operation.values) <= set(OPERATIONS):
            return Choices(values=tuple(one for one in OPERATIONS if one in operation.values))
        return operation

    @model_validator(mode="after")
    def _fits(self) -> ConvDimensions:
        for name in (*SHARED, "depth"):
            check_values(name, getattr(self, name), ConvConfig)
        check_values("operation", self.operation, Edge)
        if not all(isinstance(depth, int) for depth in ends(self.depth)):
            raise ValueError(f"depth should be whole numbers from 0 to {MAX_DEPTH}, not {describe(self.depth)}")
        return self
