"""A network that holds every cell of the space: all operations on all edges, of which each step samples one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from runners.differentiable.derive import EDGES
from space.families.conv.config import NODES, ConvConfig, Operation
from space.families.conv.module import EmbeddingStage, make_operation, pool
from space.layers import QuantizedWeight
from space.shape import TaskShape


class Sample(NamedTuple):
    """One architecture: an operation for each edge and a depth, with gates of value 1 that carry their gradients."""

    operations: list[int]
    gates: Tensor
    depth: int
    depth_gate: Tensor


class Supernet(nn.Module):
    """Cells in which an edge leads from every possible input to every inner node.

    A straight-through Gumbel softmax chooses, as in the paper. Only what is chosen is computed, and its probability
    alone gets a gradient from the loss on answers (GDAS, Dong & Yang 2019, arXiv 1910.04465): an architecture of nine
    edges takes a tenth of the time of all operations on them. Weights are not rounded while cells are searched.

    Args:
        config: brings widths, bits and pooling.
        shape: of the task.
        vocabulary_size: entries.
        operations: that edges choose from.
        depths: numbers of cells to choose from, rising.
    """

    def __init__(
        self,
        config: ConvConfig,
        shape: TaskShape,
        vocabulary_size: int,
        operations: Sequence[Operation],
        depths: Sequence[int],
    ) -> None:
        super().__init__()
        self.operations, self.depths = tuple(operations), tuple(depths)
        self.embedding_width = config.embedding_width
        self.embedding = EmbeddingStage(config, config.width, shape, vocabulary_size)
        self.cells = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(make_operation(one, config) for one in operations) for _ in EDGES)
            for _ in range(max(depths))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(max(depths)))
        queries = torch.zeros(max(depths), 1, config.width)
        self.queries = nn.Parameter(queries) if config.pooling == "attentive" else None
        self.heads = nn.ModuleList(nn.Linear(config.width, shape.outputs) for _ in range(max(depths)))
        self.logits = nn.Parameter(torch.zeros(len(EDGES), len(operations)))
        self.depth_logits = nn.Parameter(torch.zeros(len(depths)))
        for module in self.modules():
            if isinstance(module, QuantizedWeight):
                module.rounding = False

    def load_embeddings(self, words: Tensor, positions: Tensor | None) -> None:
        """Start from given tables; see `space.families.base.Student`."""
        self.embedding.load(words, positions)

    def sample(self, temperature: float, generator: torch.Generator) -> Sample:
        """One architecture by straight-through Gumbel softmax."""
        chosen, gates = _choose(self.logits, temperature, generator)
        depth, depth_gate = _choose(self.depth_logits[None], temperature, generator)
        return Sample(chosen.tolist(), gates, self.depths[int(depth)], depth_gate[0])

    def forward(self, sample: Sample, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Logits [batch, outputs] after each cell of the sampled architecture."""
        before = last = self.embedding(inputs["input_ids"], inputs.get("token_type_ids"))
        present = inputs["attention_mask"].to(last.dtype)
        answers = []
        for number in range(sample.depth):
            states = {"cell-2": before, "cell-1": last}
            edges = cast("nn.ModuleList", self.cells[number])
            total = torch.zeros_like(last)
            for node in range(1, NODES + 1):
                state = torch.zeros_like(last)
                for index, (target, source) in enumerate(EDGES):
                    operation = self.operations[sample.operations[index]]
                    if target == node and operation != "zero":
                        chosen = cast("nn.ModuleList", edges[index])[sample.operations[index]]
                        state = state + sample.gates[index] * chosen(states[source], present[:, :, None])
                states[f"node{node}"] = state
                total = total + state
            before, last = last, self.norms[number](total)
            pooled = pool(last, present, None if self.queries is None else self.queries[number])
            answers.append(self.heads[number](pooled) * sample.depth_gate)
        return answers

    def expected_cost(self, costs: Tensor) -> Tensor:
        """The cost of the architectures that are likely: a mean over edges, times the share of the largest depth.

        Args:
            costs: [operations], in [0, 1].
        """
        depths = torch.tensor(self.depths, dtype=costs.dtype, device=costs.device)
        depth = (torch.softmax(self.depth_logits, -1) * depths).sum() / depths.max()
        return depth * (torch.softmax(self.logits, -1) @ costs).mean()


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An index and a gate of value 1 for each row."""
    noise = gumbel(logits.shape, generator).to(logits.device)
    shares = torch.softmax((logits + noise) / temperature, -1)
    chosen = shares.argmax(-1)
    share = shares.gather(-1, chosen[:, None])[:, 0]
    return chosen, share + (1 - share).detach()


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(tuple(shape), generator=generator).clamp(min=1e-9, max=1 - 1e-7)
    return -(-uniform.log()).log()
