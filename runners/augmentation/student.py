"""The student that a selector is rewarded by.

The paper rewards by the student that is distilled. Here the students of a search differ in everything, and augmented
text is made once for all of them: one small student of the transformer family stands for them. It first learns the
train split, but for the texts that are held out. An episode begins at that state, each time anew, learns from what was
kept, and is rewarded by the change of the task's metric on the texts held out. Rewards are then of the same kind from
the first episode to the last, which those of a student that goes on learning are not.

Held out are texts of the train split: the validation split judges students and must not choose what they learn from.
The metric of few texts moves in large steps, and mostly not at all, so that the change of the mean log-probability of
their labels is added to it (of a regression, of minus the squared error in variances of the labels).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.batches import Encoded, collate, sorted_batches
from runners.byte_rows import ByteRows
from runners.distill.losses import CrossDistillation, without_labels
from runners.initialization import start_from_embeddings, start_from_layers
from runners.optimizer import parameter_groups
from runners.precision import student_precision, training_device
from runners.task import Examples, Task
from runners.teacher import TeacherOutputs
from runners.teacher.origin import Origin
from runners.teacher.statistics import bert_layers, prepare_statistics
from runners.wordpiece import encode_examples, wordpiece
from space.config import Recipe
from space.families import build_student
from space.families.transformer import Layer, TransformerConfig
from space.shape import TaskShape
from space.vocabulary import Vocabulary

HELD_OUT, FEWEST, MOST = 0.25, 8, 512  # share of the train split, and bounds of the number
_STEPS, _PASSES, _BATCH, _RATE = 150, 20, 32, 1e-3
_EPISODE_RATE = 5e-4
_TOKENS = 4096
_RECIPE = Recipe(
    learning_rate=_RATE,
    label_weight=0.5,
    logit_weight=1.0,
    hidden_weight=1.0,
    temperature=2.0,
    teacher_learning_rate=0.0,
    initialization="layers",
)


class RewardingStudent:
    """A student that has learned the train split, and says what further texts would do to it.

    Args:
        task: its train split alone is read.
        teacher: its outputs.
        candidates: texts that it may learn from.
        logits, hidden: the teacher's answers on them, [n, outputs] and [n, teacher width].
        length: longest input of the teacher.
        seed: of the texts held out, the order and the weights.

    Attributes:
        rows: int64 [texts], the rows of the train split that students learn from.
        held_out: bool [texts], which of those are held out.
    """

    def __init__(
        self,
        task: Task,
        teacher: TeacherOutputs,
        candidates: Examples,
        logits: npt.NDArray[np.float32],
        hidden: npt.NDArray[np.float16],
        length: int,
        seed: int,
    ) -> None:
        self._task, self._teacher, self._device = task, teacher, training_device()
        self._generator = np.random.default_rng([seed, 29])
        self.rows = task.learned_rows
        self.held_out = _held_out(len(self.rows), self._generator)
        vocabulary = Vocabulary(
            teacher.vocabulary, teacher.vocabulary_attention, teacher.vocabulary_count, teacher.normalization
        )
        shape = TaskShape(outputs=task.outputs, segments=task.segments, max_length=task.max_length)
        tokenizer = wordpiece(vocabulary.tokens(len(vocabulary)), teacher.normalization, task.max_length)
        self._train = encode_examples(tokenizer, task.train)
        self._candidates = encode_examples(tokenizer, candidates)
        self._answers = logits, hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._student = build_student(_config(), shape, len(vocabulary))
            origin = Origin.of([teacher])
            start_from_embeddings(self._student, origin, vocabulary, 1.0)
            encoder = origin.encoder()
            if bert_layers(encoder) is not None:
                statistics = prepare_statistics(teacher, task, length)
                start_from_layers(self._student, origin, encoder, statistics, vocabulary, 1.0)
            self._student.set_rounding(False)
            self._loss = CrossDistillation(self._student.width, teacher, _RECIPE, task.regression)
        self._modules = nn.ModuleList([self._student, self._loss]).to(self._device)
        self._learn_train()
        self._before = {name: value.detach().clone() for name, value in self._modules.state_dict().items()}
        self._standing = self._judge()

    def reward(self, rows: npt.NDArray[np.int64]) -> float:
        """What learning from these candidates, once through, adds to the metric and to the mean log-probability."""
        self._modules.load_state_dict(self._before)
        logits, hidden = self._answers
        labels = without_labels(len(logits), self._task.regression)
        order = self._generator.permutation(rows)
        optimizer = self._optimizer(_EPISODE_RATE)
        for start in range(0, len(order), _BATCH):
            self._step(optimizer, self._candidates, order[start : start + _BATCH], logits, hidden, labels)
        return self._judge() - self._standing

    def losses(self) -> npt.NDArray[np.float32]:
        """The student's distillation loss on each candidate, before any was learned."""
        self._modules.load_state_dict(self._before)
        answers = self._logits(self._candidates, np.arange(len(self._candidates)))
        theirs = torch.from_numpy(np.array(self._answers[0], np.float32))
        if self._task.regression:
            found = (answers - theirs).square().mean(1) / self._loss.target_variance
        else:
            tau = _RECIPE.temperature
            logs = [functional.log_softmax(each / tau, -1) for each in (answers, theirs)]
            found = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(1)
        losses: npt.NDArray[np.float32] = found.numpy().astype(np.float32)
        return losses

    def _learn_train(self) -> None:
        rows = self.rows[~self.held_out]
        batches = math.ceil(len(rows) / _BATCH)
        steps = min(_STEPS, _PASSES * batches)
        optimizer = self._optimizer(_RATE)
        order: list[npt.NDArray[np.int64]] = []
        for step in range(steps):
            if not order:
                order = np.array_split(self._generator.permutation(rows), batches)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / steps)
            batch = order.pop()
            teacher, labels = self._teacher, self._task.train.labels
            self._step(optimizer, self._train, batch, teacher.train_logits, teacher.train_hidden, labels)

    def _optimizer(self, rate: float) -> torch.optim.Optimizer:
        own = [value for name, value in self._student.named_parameters() if not name.startswith("head.")]
        return torch.optim.AdamW(parameter_groups([*own, *self._loss.projection.parameters()], 0.01), lr=rate)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        encoded: Encoded,
        rows: npt.NDArray[np.int64],
        logits: npt.NDArray[np.float32],
        hidden: npt.NDArray[np.float16] | ByteRows,
        labels: npt.NDArray[np.generic],
    ) -> None:
        self._student.train()
        with student_precision(self._device):
            pooled = self._student.encode(**collate(encoded, rows, self._device)).float()
        states = torch.from_numpy(np.asarray(hidden[rows], np.float32)).to(self._device)
        answers = torch.from_numpy(np.asarray(logits[rows], np.float32)).to(self._device)
        loss = self._loss(pooled, states, answers, torch.from_numpy(np.asarray(labels[rows])).to(self._device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._modules.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def _logits(self, encoded: Encoded, rows: npt.NDArray[np.int64]) -> Tensor:
        self._student.eval()
        found = torch.zeros(len(rows), self._task.outputs)
        for batch in sorted_batches(encoded.lengths[rows], _TOKENS, _TOKENS * 512):
            with student_precision(self._device):
                pooled = self._student.encode(**collate(encoded, rows[batch], self._device)).float()
            found[torch.from_numpy(batch)] = self._loss.task_layer(self._loss.projection(pooled)).cpu()
        return found

    def _judge(self) -> float:
        rows = self.rows[self.held_out]
        logits = self._logits(self._train, rows).nan_to_num()  # an episode that diverged is a bad one
        examples = self._task.train.take(rows)
        labels = torch.from_numpy(examples.labels)
        quality = self._task.quality(examples, logits.numpy())
        if self._task.regression:
            spread = max(float(self._task.train.labels.var()), 1e-12)
            return quality - float((logits[:, 0] - labels).square().mean()) / spread
        return quality - float(functional.cross_entropy(logits, labels))


def _held_out(count: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    number = min(MOST, count // 2, max(FEWEST, round(HELD_OUT * count)))
    found = np.zeros(count, bool)
    found[generator.permutation(count)[:number]] = True
    return found


def _config() -> TransformerConfig:
    layer = Layer(ffn_width=256, token_keep=1.0, attention_bits=8, ffn_bits=8)
    return TransformerConfig(
        vocabulary_keep=1.0,
        embedding_width=64,
        embedding_bits=8,
        block_size=32,
        accuracy_level=0,
        width=128,
        heads=4,
        activation="gelu",
        layers=(layer, layer),
    )
