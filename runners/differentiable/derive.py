"""From what a supernet has learned to cells, and how sure of them it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from space.families.conv.config import NODES, Edge, Input, Node, Operation, inputs_of, is_convolution

EDGES: tuple[tuple[int, Input], ...] = tuple(
    (node, source) for node in range(1, NODES + 1) for source in inputs_of(node)
)


class Cell(NamedTuple):
    """A topology and how often it is stacked."""

    depth: int
    nodes: tuple[Node, ...]

    def operations(self) -> list[Operation]:
        """What its edges do."""
        return [edge.operation for node in self.nodes for edge in (node.left, node.right)]


def derive(
    logits: Tensor, depth_logits: Tensor, operations: Sequence[Operation], depths: Sequence[int], noise: Tensor | None
) -> Cell:
    """Of each edge the most probable operation but `zero`, of each node the two edges of the largest probability.

    Args:
        logits: [edges, operations].
        depth_logits: [depths].
        operations: their names.
        depths: their numbers of cells.
        noise: Gumbel noise [edges * operations + depths] to draw a cell in place of the most probable one.
    """
    if noise is not None:
        logits = logits + noise[: logits.numel()].view_as(logits)
        depth_logits = depth_logits + noise[logits.numel() :]
    shares = torch.softmax(logits, -1).clone()
    if "zero" in operations:
        shares[:, operations.index("zero")] = -1.0
    strengths, chosen = shares.max(-1)
    nodes = []
    for node in range(1, NODES + 1):
        own = [index for index, (target, _) in enumerate(EDGES) if target == node]
        kept = sorted(sorted(own, key=lambda index: -float(strengths[index]))[:2])
        left, right = (Edge(input=EDGES[index][1], operation=operations[int(chosen[index])]) for index in kept)
        nodes.append(Node(left=left, right=right))
    return Cell(depths[int(depth_logits.argmax())], tuple(nodes))


def entropy(logits: Tensor) -> float:
    """Mean entropy of the rows' softmax, as a share of the largest possible; 0 where there is one choice."""
    if logits.shape[-1] < 2:
        return 0.0
    log_shares = torch.log_softmax(logits, -1)
    return float(-(log_shares.exp() * log_shares).sum(-1).mean() / math.log(logits.shape[-1]))


def collapse_of(cell: Cell) -> str | None:
    """In words, how a cell has collapsed; None if it has not.

    An independent run of the paper's search ended with five average pools, a bag of embeddings.
    """
    operations = cell.operations()
    if not any(map(is_convolution, operations)):
        return f"none of its edges has weights: {', '.join(sorted(set(operations)))}"
    if len(set(operations)) == 1:
        return f"all of its edges are {operations[0]}"
    return None
