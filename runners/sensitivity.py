"""How much a student loses when one part of it alone is rounded to some bits (after Q-BERT).

Q-BERT (Shen et al. 2020, arXiv 1909.05840) gives each layer bits by how sensitive it is: the largest eigenvalues of the
Hessian of the loss, and how they vary over the data. A finer form of it is the trace of the Hessian, found by
Hutchinson's draws, times the squared error of rounding (HAWQ-V2, Dong et al. 2020, arXiv 1911.03852). Both expand the
loss to second order about a minimum. Here the increase of the loss itself is measured, for three reasons: with 2 bits
the error is as large as the weights, far outside that expansion; a student after a short training is at no minimum, so
that the gradient counts too; and a student is so small that a forward pass for each part and number of bits costs less
than the draws of a trace. It also sees the very grid, blocks and clipping that the file will have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from runners.distill import Distillation
from runners.plan import TrialPlan
from runners.precision import training_device
from runners.prepared import Prepared
from runners.trial import initial_student
from space.config import Clipping, Recipe, StudentConfig
from space.families import Student, build_student
from space.layers import QuantizedWeight

logger = logging.getLogger("shoebox.runners.sensitivity")

Variants = Mapping[str, Mapping[int, StudentConfig]]


@dataclass(frozen=True)
class Sensitivities:
    """What was measured.

    Attributes:
        loss: of the distillation, in full precision.
        increase: by part and bits, how much the loss rises when that part alone is rounded.
        steps: of the training before.
        seconds: of all.
    """

    loss: float
    increase: dict[str, dict[int, float]]
    steps: int
    seconds: float


def measure_sensitivities(
    plan: TrialPlan,
    prepared: Prepared,
    config: StudentConfig,
    recipe: Recipe,
    variants: Variants,
    epochs: float,
    texts: int,
    seed: int,
) -> Sensitivities:
    """Train a student in full precision for a while, then round one part of it after another.

    Args:
        plan: of the study.
        prepared: its tasks and teachers.
        config: of the student.
        recipe: how it is trained, and how scales of blocks are chosen; without updates of the teacher.
        variants: by part and bits, `config` with those bits in that part.
        epochs: of the training.
        texts: of the train splits that the loss is measured on, at most.
        seed: of the training.

    Raises:
        runners.distill.DivergedError: the training diverged.
        InputError: as of `Prepared.taught_by`.
    """
    begin = time.perf_counter()
    prepared = prepared.ranked_by(config.vocabulary_score).taught_by(recipe.teacher_kind)
    entries = prepared.vocabulary.size(config.vocabulary_keep)
    changes = {"quantization": "post_training", "schedule": "joint", "teacher_learning_rate": 0.0}
    plain = recipe.model_copy(update=changes)
    courses = [prepared.course(name, entries, plain) for name in prepared.tasks]
    with torch.random.fork_rng(devices=[]):
        student = initial_student(plan, prepared, config, plain, seed)
        fidelity = plan.fidelity.model_copy(update={"epochs": epochs})
        tokens = prepared.vocabulary.tokens(entries)
        training = Distillation(student, courses, plain, fidelity, tokens, seed, training_device())
        log = training.run()
        parts = parts_of(student, prepared, variants, entries)
    batches = max(1, -(-texts // fidelity.batch_size))
    bits = {name: list(values) for name, values in variants.items()}
    loss, increase = rounded_one_by_one(student, parts, bits, lambda: training.mean_loss(batches), recipe.clipping)
    found = Sensitivities(loss, increase, log.steps, time.perf_counter() - begin)
    for name, values in increase.items():
        said = ", ".join(f"{value:+.4f} with {count} bits" for count, value in values.items())
        logger.info("Rounding %s changes the loss %.4f by %s.", name, loss, said)
    return found


def parts_of(
    student: Student, prepared: Prepared, variants: Variants, entries: int
) -> dict[str, list[QuantizedWeight]]:
    """The weights of each part: those whose bits differ between its variants, whatever the family calls them."""
    own = dict(student.named_modules())
    found = {}
    for name, configs in variants.items():
        built = [dict(build_student(one, prepared.shape, entries).named_modules()) for one in configs.values()]
        weights = []
        for place, module in own.items():
            if isinstance(module, QuantizedWeight) and len({other[place].bits for other in built}) > 1:
                weights.append(module)
        found[name] = weights
    return found


def rounded_one_by_one(
    student: Student,
    parts: Mapping[str, Sequence[QuantizedWeight]],
    bits: Mapping[str, Sequence[int]],
    loss: Callable[[], float],
    clipping: Clipping,
) -> tuple[float, dict[str, dict[int, float]]]:
    """The loss in full precision, and by part and bits how much it rises with that part rounded alone.

    More bits never count as more sensitive: where a sample says so, it is noise, and the larger of the two increases
    stands for both. An increase below 0 counts as 0.

    Args:
        student: left in full precision, its weights as they are.
        parts: weights of each part.
        bits: to try for each part.
        loss: of the student as it is.
        clipping: how scales are chosen; where they would be learned, they are searched.
    """
    student.set_rounding(False)
    plain = loss()
    found: dict[str, dict[int, float]] = {}
    for name, weights in parts.items():
        before = [(weight.bits, weight.clipping) for weight in weights]
        found[name], most = {}, 0.0
        for count in sorted(bits[name], reverse=True):
            for weight in weights:
                weight.bits, weight.rounding = count, True
                weight.use_clipping("searched" if clipping == "learned" else clipping)
            most = max(most, loss() - plain)
            found[name][count] = most
        for weight, (own, factors) in zip(weights, before, strict=True):
            weight.bits, weight.rounding = own, False
            weight.load_clipping(factors)
    return plain, found
