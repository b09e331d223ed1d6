"""In which order a student learns its losses: all at once, or in stages that unfreeze it from its top down.

Stage-wise training is that of XtremeDistil (Mukherjee & Awadallah 2020, arXiv 2004.05686, and 2019, arXiv 1910.01769):
first the teacher's hidden states, then its logits, then the labels. In each stage all is frozen but the projections
that the losses are taken behind, and then the student's blocks are unfrozen one after another from the top down
(gradual unfreezing, Howard & Ruder 2018, arXiv 1801.06146); of what each stage went through, the best goes on.

What the papers leave open, or what a search over students cannot afford, and how it is here:

- They train every phase to convergence. Here a schedule has as many steps as joint training has, which the stages share
  evenly, so that the two can be compared.
- Within a stage the blocks join at even distances over its first half (`UNFREEZING`), and the learning rate rises and
  falls once; the moments of AdamW start anew, since another loss has other gradients.
- "Best by validation": the validation split already chooses among students, and its figures are reported. So a stage is
  judged on `HELD_OUT` of the train split, drawn by the seed, which students trained in stages do not learn from, nor
  from copies of it (`transfer.augment`; `recombine` may pair one of its texts with others); and by the stage's own
  loss. Where it starts counts too, so that a stage that only does harm is undone: with few labels the last one soon
  learns them by heart.
- A loss whose weight is 0 has no stage. The first stage takes the recipe's `hidden_weight`, `state_weight` and
  `relation_weight`, and so the teacher's layers that those compare; the papers take one layer in its middle.
- Transfer text has no labels: the last stage does not draw from it.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runners.distill.courses import CoursePool
from runners.distill.losses import CrossDistillation
from runners.distill.pool import Batch
from runners.optimizer import warm_up_then_decay
from space.config import Recipe
from space.families import Student

logger = logging.getLogger("shoebox.runners.distill")

WARMUP = 0.06
UNFREEZING = 0.5
HELD_OUT = 0.05
CHECKS = 4  # how often a stage is judged after its start, the last time at its end
_STAGES = {
    "representation": ("hidden_weight", "state_weight", "relation_weight"),
    "logits": ("logit_weight",),
    "labels": ("label_weight",),
}


class JointSchedule:
    """All losses at every step.

    Args:
        pool: to draw batches from.
        recipe: with the weights of the losses.
        steps: of the whole training.
    """

    def __init__(self, pool: CoursePool, recipe: Recipe, steps: int) -> None:
        self._pool, self._steps = pool, steps
        self.recipe = recipe

    def begin(self, step: int) -> float:
        """Prepare a step, with `recipe` as it holds for that step; returns the factor of the learning rates."""
        return warm_up_then_decay(step, self._steps, WARMUP)

    def batch(self, step: int, device: torch.device) -> tuple[int, Batch]:
        """What is learned from in a step, and the place of its course."""
        return self._pool.batch(step, device)

    def end(self, done: int) -> None:
        """Conclude a step; `done` of them are done by now."""

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold of the schedule itself."""
        return {}


class Stage(NamedTuple):
    """One stage: from step `first` to before step `last`, with a recipe whose other losses have weight 0."""

    name: str
    recipe: Recipe
    first: int
    last: int

    def joins(self, blocks: int) -> list[int]:
        """The step at which each of so many blocks is unfrozen, from the top down."""
        length = self.last - self.first
        return [self.first + math.ceil(UNFREEZING * length * (block + 1) / blocks) for block in range(blocks)]

    def checks(self) -> set[int]:
        """How many steps are done where the stage is judged."""
        length = self.last - self.first
        return {self.first + math.ceil(length * (check + 1) / CHECKS) for check in range(CHECKS)}


def stages_of(recipe: Recipe, steps: int) -> list[Stage]:
    """The stages of a recipe; those with a step at least; where no loss has a weight, one that learns nothing."""
    weights = [name for names in _STAGES.values() for name in names]
    wanted = {name: own for name, own in _STAGES.items() if any(getattr(recipe, weight) > 0 for weight in own)}
    wanted = wanted or {"labels": _STAGES["labels"]}
    found = []
    for place, (name, own) in enumerate(wanted.items()):
        others = {weight: 0.0 for weight in weights if weight not in own}
        ends = [round(steps * edge / len(wanted)) for edge in (place, place + 1)]
        found.append(Stage(name, recipe.model_copy(update=others), *ends))
    return [stage for stage in found if stage.last > stage.first]


class StagewiseSchedule(JointSchedule):
    """One loss after another; the same whether or not the training was stopped and restored on the way.

    Args:
        pool, recipe, steps: as of `JointSchedule`; the pool holds part of the train split out.
        labelled: a pool without transfer text, over the same train split.
        student: is frozen and unfrozen.
        objectives: of each course; are given the stage's recipe.
        words: the losses on the states of words.
        optimizer: whose moments start anew with each stage.
        loss: of a batch of a course, by the present recipe.
        device: where to judge.
    """

    def __init__(
        self,
        pool: CoursePool,
        recipe: Recipe,
        steps: int,
        labelled: CoursePool,
        student: Student,
        objectives: Sequence[CrossDistillation],
        words: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        loss: Callable[[int, Batch], Tensor],
        device: torch.device,
    ) -> None:
        super().__init__(pool, recipe, steps)
        self._labelled, self._student, self._objectives = labelled, student, objectives
        self._optimizer, self._loss, self._device = optimizer, loss, device
        self._blocks = student.blocks()
        self._stages = stages_of(recipe, steps)
        self._stage: Stage | None = None
        self._learning = nn.ModuleList([student, *objectives, *words])
        self._best = _Best(self._learning)

    def begin(self, step: int) -> float:
        stage = next(stage for stage in self._stages if step < stage.last)
        if stage is not self._stage:
            self._stage, self.recipe = stage, stage.recipe
            for objective in self._objectives:
                objective.recipe = stage.recipe
        if step == stage.first:
            self._optimizer.state.clear()
            self._best.keep(self._learning, self._judge(step))
        for block, join in zip(self._blocks, stage.joins(len(self._blocks)), strict=True):
            for value in block:
                value.requires_grad_(step >= join)
        return warm_up_then_decay(step - stage.first, stage.last - stage.first, WARMUP)

    def batch(self, step: int, device: torch.device) -> tuple[int, Batch]:
        assert self._stage is not None
        # Steps are counted over all stages, so that a short training does not show the same texts in each.
        return (self._labelled if self._stage.name == "labels" else self._pool).batch(step, device)

    def end(self, done: int) -> None:
        assert self._stage is not None
        if done in self._stage.checks():
            score = self._judge(done)
            if score < float(self._best.score):
                self._best.keep(self._learning, score)
        if done == self._stage.last:
            self._best.load_into(self._learning)
        if done == self._stages[-1].last:
            for value in (value for block in self._blocks for value in block):
                value.requires_grad_(True)

    @torch.no_grad()
    def _judge(self, done: int) -> float:
        """The mean over courses of the present loss on the texts held out, with tokens pruned as in the file."""
        assert self._stage is not None
        self._student.set_pruning(1.0)
        means = []
        for course, pool in enumerate(self._pool.pools):
            batches = list(pool.held_out_batches(self._device))
            sizes = [len(batch.logits) for batch in batches]
            found = [float(self._loss(course, batch)) for batch in batches]
            means.append(sum(loss * size for loss, size in zip(found, sizes, strict=True)) / sum(sizes))
        score = sum(means) / len(means)
        logger.info("Stage %s: loss %.4f on texts held out, step %d of %d", self._stage.name, score, done, self._steps)
        return score

    def modules(self) -> dict[str, nn.Module]:
        return {"best": self._best}


class _Best(nn.Module):
    """The best state that a stage has come to, and its score."""

    score: Tensor

    def __init__(self, learning: nn.Module) -> None:
        super().__init__()
        self.state = copy.deepcopy(learning).requires_grad_(False)
        self.register_buffer("score", torch.tensor(math.inf, dtype=torch.float64))

    def keep(self, learning: nn.Module, score: float) -> None:
        self.state.load_state_dict(learning.state_dict())
        self.score.fill_(score)

    def load_into(self, learning: nn.Module) -> None:
        learning.load_state_dict(self.state.state_dict())
