"""Fine-tune a teacher on a task."""

from __future__ import annotations

import logging
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from runners.batches import Encoded, collate, shuffled_batches
from runners.optimizer import parameter_groups, warm_up_then_decay
from runners.precision import autocast
from runners.progress import ProgressLines
from runners.teacher.meta import MetaObjective
from runners.teacher.model import Teacher
from runners.teacher.spec import TeacherSpec
from space.errors import InputError

_log = logging.getLogger("shoebox.runners.teacher")


def fine_tune(
    teacher: Teacher,
    encoded: Encoded,
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32],
    regression: bool,
    spec: TeacherSpec,
    device: torch.device,
    meta: MetaObjective | None = None,
) -> None:
    """Train encoder and head in place: AdamW, linear warm-up and decay, batches of similar length.

    The loss is cross-entropy. For a regression it is the squared error of standardised labels (mean 0,
    deviation 1: the learning rates of classification then fit); mean and deviation are folded into the head
    afterwards, so that logits are in the units of the labels. A meta-teacher has a loss of its own, `meta`, whose
    domain head is trained too.

    Raises:
        InputError: the loss became infinite or NaN.
    """
    steps = spec.epochs * math.ceil(len(encoded) / spec.batch_size)
    parameters = [*teacher.parameters(), *(() if meta is None else meta.parameters())]
    groups = parameter_groups(parameters, spec.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up_then_decay(step, steps, spec.warmup))
    mean, deviation = (float(labels.mean()), float(labels.std())) if regression else (0.0, 1.0)
    targets = torch.from_numpy((labels - mean) / deviation if regression else labels).to(device)
    order = np.random.default_rng(spec.seed)
    progress = ProgressLines(_log, "Fine-tuning the teacher", steps)
    teacher.train()
    step, running = 0, 0.0
    for _ in range(spec.epochs):
        for rows in shuffled_batches(encoded.lengths, spec.batch_size, order):
            picked = None if encoded.words is None else encoded.words.pick(rows)
            numbers = rows if picked is None else picked.words
            if len(numbers) == 0:
                continue  # no word of these texts has a piece
            with autocast(device):
                logits, pooled = teacher(collate(encoded, rows, device), picked)
            wanted = targets[torch.from_numpy(numbers).to(device)]
            loss = _loss(logits, wanted, regression) if meta is None else meta(rows, logits, pooled, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise InputError("The teacher's fine-tuning diverged.", "Lower teacher.learning_rate.")
            step += 1
            running += (value - running) * max(0.02, 1 / step)
            progress.update(step, f" (loss {running:.3f})")
    teacher.eval()
    with torch.no_grad():
        teacher.head.weight.mul_(deviation)
        teacher.head.bias.mul_(deviation).add_(mean)


def _loss(logits: Tensor, targets: Tensor, regression: bool) -> Tensor:
    if regression:
        return nn.functional.mse_loss(logits[:, 0], targets.float())
    return nn.functional.cross_entropy(logits, targets)
