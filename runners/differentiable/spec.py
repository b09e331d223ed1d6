"""How cells are searched."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DifferentiableSpec(BaseModel):
    """Section `search.propose.differentiable` of a study file.

    The loss is `(1 - g) CE + g KD + b E`, with the cross-entropy to labels, to probes of the teacher's layers, and what
    the architecture costs in bytes and latency. The paper has g = 0.8 and b = 4, and leaves open what its costs are
    normalised to; here E is 1 for the largest operation on every edge at the largest depth.

    Attributes:
        cells: how many to derive: the strongest, then draws from what was learned.
        epochs: passes over the train split, or over the sample.
        train_examples: search on a seeded sample of so many examples; by default that of `fidelity`.
        batch_size: examples per step; each step trains one sampled architecture.
        knowledge_weight: g.
        efficiency_weight: b. The gradient of E is small but always points the same way, and Adam steps by what is
            steady: in 1,000 steps on 8,000 phrases of SST-2, 0.5 and 0.1 both end with six identities (one seed), at
            0.31 and 0.51 of the largest entropy (without a warm-up).
        warm_up: share of the steps in which the architecture stays even and only weights learn: operations without
            weights are of use from the first step on, convolutions only once they have learned something. In 2,105
            steps on SST-2 (one seed, no efficiency weight) the search without it ended with six poolings, 40 % of all
            probability on the maximum; with 0.5, three of six edges are convolutions of 7.
        learning_rate: of the weights.
        architecture_learning_rate: of the logits of operations and depths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: int = Field(default=1, ge=1, le=100)
    epochs: float = Field(default=4, gt=0, le=1000)
    train_examples: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1, le=4096)
    knowledge_weight: float = Field(default=0.8, ge=0, le=1)
    efficiency_weight: float = Field(default=0.01, ge=0)
    warm_up: float = Field(default=0.5, ge=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    architecture_learning_rate: float = Field(default=1e-2, gt=0, le=1)
