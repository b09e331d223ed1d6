"""The sampler of a study, with what the study knows before it trains."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from search.samplers.named import SamplerName
from search.samplers.per_trial import PerTrialSampler
from search.samplers.places import seeds
from space.config import StudentConfig
from space.families import deployed_bytes
from space.joint import JointSpace
from space.shape import TaskShape
from space.vocabulary import Vocabulary

logger = logging.getLogger("shoebox.search.samplers")

Predict = Callable[[StudentConfig], Mapping[str, float]]


def fitting_sampler(foreseen: Collection[str], objectives: Sequence[str], limits: Collection[str]) -> SamplerName:
    """`known-cost`, or `tpe` in its place where an objective cannot be foreseen.

    Args:
        foreseen: costs that are known, exactly or by a prediction, before anything is trained.
        objectives: of the study.
        limits: names of the costs that are limited. One that cannot be foreseen has no influence on proposals.
    """
    if unknown := sorted({*objectives} - {*foreseen}):
        logger.warning("known-cost cannot foresee %s here: tpe proposes in its place.", ", ".join(unknown))
        return "tpe"
    if unknown := sorted({*limits} - {*foreseen}):
        logger.warning("known-cost cannot foresee %s here and leaves it out.", ", ".join(unknown))
    return "known-cost"


def costs_of(
    space: JointSpace, shape: TaskShape, vocabulary: Vocabulary, predict: Predict | None = None
) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Costs of a configuration by its flat parameters: exact bytes, and what `predict` says."""

    def costs(params: Mapping[str, Any]) -> dict[str, float]:
        config = space.config_from(params)
        size = float(deployed_bytes(config, shape, vocabulary))
        return {**(predict(config) if predict else {}), "deployed_bytes": size}

    return costs


def study_sampler(
    name: SamplerName,
    seed: int,
    space: JointSpace,
    shape: TaskShape,
    vocabulary: Vocabulary,
    objectives: Sequence[str],
    limits: Mapping[str, float],
    predict: Predict | None = None,
    older: Sequence[tuple[float, Sequence[Mapping[str, Any]], Sequence[float]]] = (),
) -> PerTrialSampler:
    """A sampler by name, told what it can know.

    Args:
        name: of the sampler.
        seed: of the study.
        space: that is searched.
        shape: of the task.
        vocabulary: of the teacher.
        objectives: of the study, in the order of its directions.
        limits: most of a cost, by name.
        predict: costs of a configuration beside its bytes (`latency_ms`, ...), exact or predicted, in about 0.1 ms:
            every proposal asks for some hundred configurations. Without it only bytes are known: limits on other
            costs and objectives of other costs have no influence on what is proposed.
        older: similarity of the task, flat parameters and qualities of each study that this one starts from; only
            known-cost learns from them. Draws follow from them, too: else a study would begin with what an older one of
            the same seed began with.
    """
    if older:
        told = [[[dict(each) for each in params], list(qualities)] for _, params, qualities in older]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()
        seed = seeds(seed, int.from_bytes(digest[:8], "big"))[0]
    if name != "known-cost":
        return PerTrialSampler(name, seed)
    from search.samplers.known_cost import KnownCosts, OlderQualities, Prior

    costs = costs_of(space, shape, vocabulary, predict)
    prior = Prior([OlderQualities(*source) for source in older]) if older else None
    return PerTrialSampler(name, seed, KnownCosts(space, costs, objectives, limits, prior=prior))
