"""The `supernet:` section of a study file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SupernetSpec(BaseModel):
    """How a student of the space's largest sizes is trained at all of its sizes at once, before the first trial.

    Each step trains the largest configuration, the smallest, and some random ones on the same texts (the sandwich rule
    of Yu & Huang 2019, arXiv 1903.05134, as in BigNAS, Yu et al. 2020, arXiv 2003.11142, and Once-for-all, Cai et al.
    2020, arXiv 1908.09791). All learn from the teacher's cached answers; the smaller ones also from what the largest
    one answers in the same step. Weights are rounded to the bits of each configuration.

    Attributes:
        epochs: passes over the train split; a fraction is allowed. A step costs as much as one of each configuration
            in it.
        batch_size: texts per step.
        random_samples: random configurations per step, beside the largest and the smallest one.
        learning_rate: peak learning rate (AdamW).
        label_weight, logit_weight, hidden_weight, temperature: of the losses, as in `space.config.Recipe`.
        in_place_share: share that the largest one's answers have in the loss of the smaller ones; the rest is the
            teacher's.
        train_examples: train on a seeded sample of so many examples; all by default.
        seed: of initial weights, configurations and the order of texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(2, gt=0, le=1000)
    batch_size: int = Field(32, ge=1, le=4096)
    random_samples: int = Field(2, ge=0, le=64)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    label_weight: float = Field(0.25, ge=0)
    logit_weight: float = Field(1.0, ge=0)
    hidden_weight: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, ge=0.1, le=100)
    in_place_share: float = Field(0.5, ge=0, le=1)
    train_examples: int | None = Field(default=None, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _learns_something(self) -> SupernetSpec:
        if not self.label_weight and not self.logit_weight and not self.hidden_weight:
            raise ValueError("at least one of label_weight, logit_weight and hidden_weight should be above 0")
        return self
