"""Train a supernet and derive cells from it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runners.differentiable.costs import operation_costs
from runners.differentiable.derive import Cell, collapse_of, derive, entropy
from runners.differentiable.probes import probe_logits
from runners.differentiable.spec import DifferentiableSpec
from runners.differentiable.supernet import Supernet, gumbel
from runners.distill.losses import NO_LABEL
from runners.distill.pool import LessonPool
from runners.initialization import start_from_embeddings
from runners.lessons import Lessons
from runners.optimizer import parameter_groups, warm_up_then_decay
from runners.plan import TrialPlan
from runners.precision import student_precision, training_device
from runners.prepared import Prepared
from runners.progress import ProgressLines
from runners.teacher.origin import Origin
from runners.teacher.words import prepare_words, word_basis
from space.config import Recipe, StudentConfig
from space.errors import InputError
from space.families import deployed_bytes
from space.families.conv.config import ConvConfig, Operation

logger = logging.getLogger("shoebox.runners.differentiable")

_PAPER_EPOCHS = 80  # the length of a search in the paper, by which its temperature falls
_COLDEST = 0.2
_WARMUP = 0.06
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Derivation:
    """What a search found.

    Attributes:
        cells: the strongest first; fewer than asked for where draws repeat.
        entropies: mean entropy of the edges' operations after each tenth of the steps, as a share of the largest.
        depth_entropy: that of the depth, at the end.
        shares: probability of each operation, averaged over the edges.
        loss: mean over the last tenth of the steps.
        collapse: how the strongest cell has collapsed, or None.
        steps: of training.
        seconds: of the whole search.
    """

    cells: tuple[Cell, ...]
    entropies: tuple[float, ...]
    depth_entropy: float
    shares: dict[str, float]
    loss: float
    collapse: str | None
    steps: int
    seconds: float


def check_plan(plan: TrialPlan) -> None:
    """Refuse what the probes are not for.

    Raises:
        InputError: several tasks, or one that is not a classification of texts.
    """
    if plan.task is None or plan.task.kind != "classification":
        raise InputError(
            "search.propose.differentiable is for studies of one task that classifies texts.",
            "Leave it out; cells are still searched by the sampler.",
        )


def derive_cells(
    plan: TrialPlan,
    prepared: Prepared,
    config: ConvConfig,
    recipe: Recipe,
    operations: Sequence[Operation],
    depths: Sequence[int],
    spec: DifferentiableSpec,
    predict: Callable[[StudentConfig], dict[str, float]],
    seed: int,
) -> Derivation:
    """Train weights and architecture of a supernet together on the train split, then derive cells.

    Args:
        plan: of the study.
        prepared: its task and teacher.
        config: brings all of a student but its cell and depth.
        recipe: brings the initialisation and the kind of teacher.
        operations: that edges may choose from; `zero` is added.
        depths: numbers of cells to choose from.
        spec: how long, and what counts.
        predict: latency of a configuration, or nothing.
        seed: the same one gives the same cells.

    Raises:
        InputError: see `check_plan` and `Prepared.taught_by`; or the loss was not finite.
    """
    check_plan(plan)
    begin = time.perf_counter()
    choices: tuple[Operation, ...] = ("zero", *(one for one in operations if one != "zero"))
    sizes = tuple(sorted({depth for depth in depths if depth > 0}))
    if len(choices) < 2 or not sizes:
        raise InputError("There are no cells to search: space.conv needs a depth above 0 and an operation.")
    prepared = prepared.ranked_by(config.vocabulary_score).taught_by(recipe.teacher_kind)
    device = training_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        vocabulary = prepared.vocabulary
        net = Supernet(config, prepared.shape, vocabulary.size(config.vocabulary_keep), choices, sizes)
        (taught,) = prepared.tasks.values()
        if recipe.initialization != "random":
            origin = Origin.of([taught.teacher])
            start_from_embeddings(net, origin, vocabulary, config.vocabulary_keep)  # type: ignore[arg-type]
        pool = _lessons(plan, prepared, config, spec, generator, seed)

        def count_bytes(one: StudentConfig) -> int:
            return deployed_bytes(one, prepared.shape, vocabulary)

        costs = torch.tensor(operation_costs(config, choices, count_bytes, predict), device=device)
        logger.info(
            "Searching cells: %s.",
            ", ".join(f"{name} costs {float(cost):.2f}" for name, cost in zip(choices, costs, strict=True)),
        )
        losses, entropies = _train(net.to(device), pool, spec, costs, generator, prepared.shape.outputs, device)
    cells = _derive_all(net.cpu(), spec.cells, generator)
    collapse = collapse_of(cells[0])
    if collapse is not None:
        logger.warning("The differentiable search has collapsed: %s.", collapse)
    shares = torch.softmax(net.logits.detach(), -1).mean(0)
    return Derivation(
        cells=cells,
        entropies=entropies,
        depth_entropy=entropy(net.depth_logits.detach()[None]),
        shares={name: float(share) for name, share in zip(choices, shares, strict=True)},
        loss=float(np.mean(losses[-max(1, len(losses) // 10) :])),
        collapse=collapse,
        steps=len(losses),
        seconds=time.perf_counter() - begin,
    )


def _derive_all(net: Supernet, count: int, generator: torch.Generator) -> tuple[Cell, ...]:
    logits, depth_logits = net.logits.detach(), net.depth_logits.detach()
    found = [derive(logits, depth_logits, net.operations, net.depths, None)]
    for _ in range(100 * count):
        if len(found) == count:
            break
        noise = gumbel((logits.numel() + depth_logits.numel(),), generator)
        drawn = derive(logits, depth_logits, net.operations, net.depths, noise)
        if drawn not in found:
            found.append(drawn)
    return tuple(found)


def _lessons(
    plan: TrialPlan,
    prepared: Prepared,
    config: ConvConfig,
    spec: DifferentiableSpec,
    generator: torch.Generator,
    seed: int,
) -> LessonPool:
    """The train split, with the answers of all probes in the place of the teacher's."""
    ((name, taught),) = prepared.tasks.items()
    task, teacher = taught.task, taught.teacher
    words = prepare_words(teacher.folder, task.train, teacher, word_basis(taught.statistics()), taught.teacher_length)
    answers = probe_logits(
        words, task.train.labels.astype(np.int64), prepared.shape.outputs, np.array(teacher.train_logits), generator
    )
    encoded = prepared.encoded_train(name, prepared.vocabulary.size(config.vocabulary_keep))
    flat = answers.reshape(len(answers), -1)
    lessons = Lessons(encoded, flat, teacher.train_hidden, task.train.labels, chosen=task.learned)
    sample = spec.train_examples or plan.fidelity.train_examples
    return LessonPool([lessons], [], spec.batch_size, sample, None, False, seed)


def _train(
    net: Supernet,
    pool: LessonPool,
    spec: DifferentiableSpec,
    costs: Tensor,
    generator: torch.Generator,
    outputs: int,
    device: torch.device,
) -> tuple[list[float], tuple[float, ...]]:
    """One-level updates: weights and architecture learn from the same batches, as in the paper."""
    steps = max(1, round(pool.batches_per_epoch * spec.epochs))
    architecture = [net.logits, net.depth_logits]
    apart = {id(parameter) for parameter in architecture}
    weights = [parameter for parameter in net.parameters() if id(parameter) not in apart]
    groups = parameter_groups(weights, _WEIGHT_DECAY)
    for group in groups:
        group["peak"] = spec.learning_rate
    fixed = {"params": architecture, "weight_decay": 0.0, "lr": spec.architecture_learning_rate}
    optimizer = torch.optim.AdamW([*groups, fixed], lr=spec.learning_rate)
    progress = ProgressLines(logger, "Searching cells", steps)
    losses: list[float] = []
    entropies: list[float] = []
    net.train()
    for step in range(steps):
        factor = warm_up_then_decay(step, steps, _WARMUP)
        for group in optimizer.param_groups:
            if "peak" in group:
                group["lr"] = group["peak"] * factor
        for parameter in architecture:
            parameter.requires_grad_(step >= spec.warm_up * steps)
        # The paper's temperature, with this search as long as the paper's.
        temperature = max(math.exp(-0.02 * _PAPER_EPOCHS * step / steps), _COLDEST)
        batch = pool.batch(step, device)
        sample = net.sample(temperature, generator)
        with student_precision(device):
            answers = net(sample, batch.inputs)
        probes = batch.logits.view(len(batch.labels), -1, outputs)
        known = knowledge_loss([one.float() for one in answers], probes, batch.labels)
        truth = functional.cross_entropy(answers[-1].float(), batch.labels, ignore_index=NO_LABEL)
        gamma = spec.knowledge_weight
        loss = (1 - gamma) * truth + gamma * known + spec.efficiency_weight * net.expected_cost(costs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise InputError(
                f"The differentiable search diverged: its loss became {losses[-1]}.",
                "Lower search.propose.differentiable.learning_rate.",
            )
        progress.update(step + 1)
        if (step + 1) * 10 // steps > step * 10 // steps:
            entropies.append(entropy(net.logits.detach()))
            logger.info("Entropy of operations %.3f after step %d of %d.", entropies[-1], step + 1, steps)
    return losses, tuple(entropies)


def knowledge_loss(answers: Sequence[Tensor], probes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each cell's answer to a probe's, weighted by how well the probe tells the label.

    Cell i of K learns from probe ceil(i J / K) of J. A text's weights are a softmax over the cells of minus the probe's
    cross-entropy; they are even where it has no label.

    Args:
        answers: logits [batch, outputs] after each cell.
        probes: logits [batch, probes, outputs].
        labels: int64 [batch].
    """
    count = probes.shape[1]
    taught = [math.ceil((cell + 1) * count / len(answers)) - 1 for cell in range(len(answers))]
    chosen = probes[:, taught]  # [batch, cells, outputs]
    with torch.no_grad():
        repeated = labels[:, None].expand(-1, len(answers)).flatten()
        wrong = functional.cross_entropy(chosen.flatten(0, 1), repeated, ignore_index=NO_LABEL, reduction="none")
        weights = torch.softmax(-wrong.view(len(labels), -1), -1)
        targets = torch.softmax(chosen, -1)
    logs = torch.log_softmax(torch.stack(list(answers), 1), -1)
    return -(weights * (targets * logs).sum(-1)).sum(-1).mean()
