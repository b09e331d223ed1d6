"""The loss of a meta-teacher: one teacher of several domains, taught what they have in common.

Meta-KD (Pan et al. 2021, arXiv 2012.01266): `L = mean_i w_i [CE(y_i) + 0.5 CE(domain logits, shuffled domain ids)]`
with the weights of `runners.teacher.prototypes`. A domain head that is asked for the domain of another text learns
nothing from the state of its own text: what it could read there is trained away (domain corruption). It sees the mean
of the text's states and an embedding of the text's true domain, through one tanh layer as wide as the teacher.

Domains are shuffled among the texts of a batch, anew at each step, so that their shares stay as they are. The head is
thrown away after training: students learn from the teacher's states themselves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.teacher.prototypes import with_mean_one

CORRUPTION_WEIGHT = 0.5
_DROPOUT = 0.1


class MetaObjective(nn.Module):
    """The loss on a batch of texts, with the domain head.

    Args:
        weights: w_i of all texts [n]; brought to mean 1.
        domains: int64 [n], numbered from 0.
        width: of the teacher's states.
    """

    weights: Tensor
    domains: Tensor

    def __init__(self, weights: npt.NDArray[np.float32], domains: npt.NDArray[np.int64], width: int) -> None:
        super().__init__()
        count = int(domains.max()) + 1
        self.register_buffer("weights", torch.from_numpy(with_mean_one(weights)))
        self.register_buffer("domains", torch.from_numpy(domains))
        self.embedding = nn.Embedding(count, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(width, count)

    def forward(self, rows: npt.NDArray[np.int64], logits: Tensor, pooled: Tensor, labels: Tensor) -> Tensor:
        """The loss of texts `rows`, a scalar.

        Args:
            rows: int64 [batch], of the train split.
            logits: of the teacher [batch, classes].
            pooled: its pooled states [batch, width].
            labels: int64 [batch].
        """
        places = torch.from_numpy(rows).to(logits.device)
        domains = self.domains[places]
        shuffled = domains[torch.randperm(len(rows)).to(logits.device)]
        said = self.head(self.dropout(torch.tanh(self.dense(pooled + self.embedding(domains)))))
        losses = functional.cross_entropy(logits, labels, reduction="none")
        losses = losses + CORRUPTION_WEIGHT * functional.cross_entropy(said, shuffled, reduction="none")
        return (self.weights[places] * losses).mean()
