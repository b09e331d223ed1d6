"""The training of a supernet: the largest, the smallest and random configurations at each step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from runners.batches import Encoded, collate, shuffled_batches
from runners.distill import DivergedError
from runners.distill.checkpoint import read_checkpoint, write_checkpoint
from runners.distill.loop import PRUNING_PHASE, WEIGHT_DECAY
from runners.distill.losses import CrossDistillation
from runners.distill.schedules import WARMUP
from runners.optimizer import parameter_groups, warm_up_then_decay
from runners.precision import student_precision
from runners.progress import ProgressLines
from runners.supernet.sampling import ElasticSpace
from runners.supernet.spec import SupernetSpec
from runners.teacher import TeacherOutputs
from space.config import Recipe
from space.families.transformer.config import TransformerConfig
from space.families.transformer.elastic import ElasticTransformer
from space.families.transformer.module import TransformerStudent
from space.shape import TaskShape

logger = logging.getLogger("shoebox.runners.supernet")

_SAMPLE, _ORDER, _CONFIGS = 0, 1, 2  # what a random generator is for


class SupernetTraining:
    """The training of an elastic transformer in place, which can stop and go on.

    The same arguments give the same weights, bit for bit, whether or not it was stopped, saved and restored.

    Args:
        supernet: with its initial weights.
        space: of the configurations to train.
        spec: how.
        teacher: its cached answers on the train split.
        labels: of the train split, [n].
        rows: int64, those of the train split to learn from.
        spellings: the train split in the word pieces of each score and share of the vocabulary of `space`, with the ids
            of the supernet's rows.
        regression: labels are real values.
        device: where to train.
    """

    def __init__(
        self,
        supernet: ElasticTransformer,
        space: ElasticSpace,
        spec: SupernetSpec,
        teacher: TeacherOutputs,
        labels: npt.NDArray[Any],
        rows: npt.NDArray[np.int64],
        spellings: Mapping[tuple[str, float], Encoded],
        shape: TaskShape,
        regression: bool,
        device: torch.device,
    ) -> None:
        self.supernet, self._space, self._spec, self._shape = supernet.to(device), space, spec, shape
        self._teacher, self._labels, self._spellings, self._device = teacher, labels, spellings, device
        self.objective = CrossDistillation(supernet.width, teacher, _recipe(spec), regression).to(device)
        self._rows = rows
        if spec.train_examples is not None and spec.train_examples < len(rows):
            self._rows = np.sort(self._generator(_SAMPLE).choice(rows, spec.train_examples, replace=False))
        self.batches_per_epoch = math.ceil(len(self._rows) / spec.batch_size)
        self.steps = max(1, round(self.batches_per_epoch * spec.epochs))
        self.done = 0
        self._losses = np.zeros(self.steps)
        trained = [value for name, value in supernet.named_parameters() if not name.startswith("head.")]
        groups = parameter_groups([*trained, *self.objective.projection.parameters()], WEIGHT_DECAY)
        self._optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
        self._epoch, self._order = -1, [np.empty(0, np.int64)]

    def run(self, until: int | None = None) -> npt.NDArray[np.float64]:
        """Train up to step `until`, by default to the end; returns the loss of the largest one at each step so far.

        Raises:
            DivergedError: a loss became NaN or infinite.
        """
        end = self.steps if until is None else min(until, self.steps)
        parameters = [value for group in self._optimizer.param_groups for value in group["params"]]
        progress = ProgressLines(logger, "Training the supernet", self.steps, before=self.done)
        while self.done < end:
            for group in self._optimizer.param_groups:
                group["lr"] = self._spec.learning_rate * warm_up_then_decay(self.done, self.steps, WARMUP)
            self._optimizer.zero_grad(set_to_none=True)
            self._losses[self.done] = self._step()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            self._optimizer.step()
            self.done += 1
            progress.update(self.done)
        self.objective.fold_into(self.supernet.head)
        return self._losses[: self.done]

    def _step(self) -> float:
        """Gradients of one step are added up, one configuration after the other; returns the largest one's loss."""
        rows = self._batch(self.done)
        answers = [torch.from_numpy(values).to(self._device) for values in self._answers(rows)]
        generator = self._generator(_CONFIGS, self.done)
        shown, largest = 0.0, None
        for config in self._space.sandwich(generator, self._spec.random_samples):
            pooled = self._pooled(config, rows)
            loss = self.objective(pooled, *answers)
            own = self._logits(pooled)
            if largest is None:
                largest = own.detach()
                shown = float(loss.detach())
            else:
                share = self._spec.in_place_share
                loss = (1 - share) * loss + share * self._in_place(own, largest)
            if not math.isfinite(float(loss.detach())):
                raise DivergedError(f"the loss became {float(loss.detach())} at step {self.done} of {self.steps}")
            loss.backward()
        return shown

    def _pooled(self, config: TransformerConfig, rows: npt.NDArray[np.int64]) -> Tensor:
        """Pooled states of a configuration, filled up with zeros to the supernet's width, [batch, width]."""
        inputs = collate(self._spellings[config.vocabulary_score, config.vocabulary_keep], rows, self._device)
        with torch.device("meta"):  # the module computes, the supernet has the weights
            student = TransformerStudent(config, self._shape, len(self.supernet.word.weight))
        student.set_pruning(min(1.0, self.done / (PRUNING_PHASE * self.steps)))
        weights = {f"student.{name}": value for name, value in self.supernet.cut(config).items()}
        with student_precision(self._device):
            pooled: Tensor = functional_call(_Encoder(student), weights, kwargs=inputs, strict=True)
        return functional.pad(pooled, (0, self.supernet.width - config.width)).float()

    def _logits(self, pooled: Tensor) -> Tensor:
        layer = self.objective.task_layer
        return functional.linear(self.objective.projection(pooled), layer.weight.detach(), layer.bias.detach())

    def _in_place(self, own: Tensor, largest: Tensor) -> Tensor:
        if self.objective.regression:
            return functional.mse_loss(own, largest) / self.objective.target_variance
        tau = self._spec.temperature
        learner, other = (functional.log_softmax(logits / tau, -1) for logits in (own, largest))
        return tau**2 * functional.kl_div(learner, other, reduction="batchmean", log_target=True)

    def _batch(self, number: int) -> npt.NDArray[np.int64]:
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            # Texts of similar length go together, by the largest vocabulary.
            lengths = self._spellings[self._space.scores[0], self._space.keeps[-1]].lengths[self._rows]
            batches = shuffled_batches(lengths, self._spec.batch_size, self._generator(_ORDER, epoch))
            self._epoch, self._order = epoch, [self._rows[batch] for batch in batches]
        return self._order[place]

    def _answers(self, rows: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
        hidden, logits = (
            np.asarray(values[rows], np.float32) for values in (self._teacher.train_hidden, self._teacher.train_logits)
        )
        return [hidden, logits, self._labels[rows]]

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._spec.seed, *purpose])

    def _modules(self) -> dict[str, nn.Module]:
        return {"supernet": self.supernet, "objective": self.objective}

    def save(self, path: Path) -> None:
        """Write all that `restore` needs to a safetensors file."""
        write_checkpoint(path, self._modules(), self._optimizer, self._losses[: self.done])

    def restore(self, path: Path) -> None:
        """Continue where the training stood that wrote `path`, made with the same arguments.

        Raises:
            InputError: the file is of another training, or damaged.
        """
        losses = read_checkpoint(path, self._modules(), self._optimizer, self.steps)
        self.done = len(losses)
        self._losses[: self.done] = losses


class _Encoder(nn.Module):
    """A student's pooled states, as a module's answer."""

    def __init__(self, student: TransformerStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.student.encode(**inputs)


def with_rows(encoded: Encoded, rows: npt.NDArray[np.int64]) -> Encoded:
    """The same texts with the id i of a vocabulary replaced by `rows[i]`; special tokens have the same ids in both."""
    return replace(encoded, ids=rows[encoded.ids].astype(np.int32))


def _recipe(spec: SupernetSpec) -> Recipe:
    return Recipe(
        learning_rate=spec.learning_rate,
        label_weight=spec.label_weight,
        logit_weight=spec.logit_weight,
        hidden_weight=spec.hidden_weight,
        temperature=spec.temperature,
        teacher_learning_rate=0,
        initialization="supernet",
    )
