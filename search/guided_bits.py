"""Bits by the sensitivity of each part, for a study to try beside those that its sampler finds (after Q-BERT)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple, get_args

import numpy as np
import optuna
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from search.knapsack import Choice, Option, best_choices
from search.premises import Premises
from search.states import RECORD, state_of
from space.config import Bits, Recipe, StudentConfig
from space.dimensions import Choices, Range, contains, draw_from
from space.errors import InputError
from space.joint import JointSpace

logger = logging.getLogger("shoebox.search.guided_bits")

PROPOSER = "guided bits"
_DRAWS = 300
_SUFFIX = "bits"  # of the names of parameters that are bits


class GuidedBitsSpec(BaseModel):
    """Section `search.propose.guided_bits`: bits of each part by how much the loss rises when it is rounded.

    Attributes:
        budgets: how many sizes to find bits for, evenly spaced from that of the fewest bits up to the limit, or to that
            of the most bits. Assignments that come out the same are tried once.
        epochs: of the training in full precision, after which the parts are measured; by default as many as a trial
            has. After a sixth of that, on the made-up text of `quickstart`, the loss was 3.6, and what rounding changed
            of it (0.015 at most) did not tell parts from noise.
        texts: of the train split that they are measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    budgets: int = Field(ge=1, le=1000)
    epochs: float | None = Field(default=None, gt=0, le=1000)
    texts: int = Field(default=1024, ge=1)


def _as_mapping(value: Any) -> Any:
    return {"budgets": value} if isinstance(value, int) and not isinstance(value, bool) else value


GuidedBits = Annotated[GuidedBitsSpec, BeforeValidator(_as_mapping)]


class Guided(NamedTuple):
    """Students to try and what they follow from."""

    students: list[StudentConfig]
    recipe: Recipe
    report: dict[str, Any]


def families_with_bits(space: JointSpace) -> list[str]:
    """The families of a space that leave bits of some part open, in the study's order."""
    generator = np.random.default_rng(0)
    return [name for name in space.spec.families if _open_bits(space, _draw(space, name, generator)[2])]


def propose_bits(
    spec: GuidedBitsSpec,
    premises: Premises,
    finished: Iterable[optuna.trial.FrozenTrial] = (),
) -> Guided:
    """One student for each budget, alike but for their bits; the same seed gives the same ones.

    The base is the configuration of the best finished trial, or, in a study that has none, the largest of some draws
    that keeps the limits. The sum of what its parts lose is least for each budget (`search.knapsack`), as if parts did
    not touch each other, which Q-BERT takes for granted too. What the bits of a part add to the file is counted with
    all other parts as in the base; each student is then counted by itself, and where it breaks a limit the next
    smaller one takes its place.

    Args:
        spec: how many, and from how long a training.
        premises: of the study.
        finished: trials of the study.

    Raises:
        InputError: no draw keeps the limits, or the training diverged.
    """
    from runners.distill import DivergedError
    from runners.sensitivity import measure_sensitivities  # takes torch along

    plan, space, size = premises.plan, premises.space, premises.size
    base, recipe, params, number = _base(premises, finished, np.random.default_rng([premises.seed, 2]))
    values = _open_bits(space, params)
    variants = {
        name: {bits: space.config_from({**params, name: bits}) for bits in choices} for name, choices in values.items()
    }
    logger.info("Measuring how sensitive %s is to the bits of %s.", base.summary(), ", ".join(values))
    try:
        epochs = plan.fidelity.epochs if spec.epochs is None else spec.epochs
        given = plan, premises.prepared, base, recipe, variants
        found = measure_sensitivities(*given, epochs, spec.texts, premises.seed)
    except DivergedError as error:
        raise InputError(
            f"search.propose.guided_bits: {error}.", "Narrow space.recipe.learning_rate to lower values."
        ) from None
    own = size(base)
    parts = [
        [Option(size(config) - own, found.increase[name][bits]) for bits, config in configs.items()]
        for name, configs in variants.items()
    ]
    choices = best_choices(parts)

    def build(choice: Choice) -> StudentConfig:
        given = zip(values, choice.options, strict=True)
        return space.config_from({**params, **{name: values[name][place] for name, place in given}})

    students: list[StudentConfig] = []
    chosen: list[dict[str, Any]] = []
    largest = min(own + choices[-1].size, premises.limits.deployed_bytes)
    for budget in np.linspace(own + choices[0].size, largest, spec.budgets + 1)[1:]:
        within = [choice for choice in choices if own + choice.size <= budget]
        config = choice = None
        for choice in reversed(within):
            config = build(choice)
            if size(config) <= budget and premises.keeps_limits(config):
                break
        else:
            continue
        if config not in students:
            students.append(config)
            chosen.append({"budget": int(budget), "deployed_bytes": size(config), "loss": round(choice.loss, 6)})
            logger.info("To be tried (%s), %d bytes: %s", PROPOSER, size(config), config.summary())
    if not students:
        logger.warning("No bits of %s keep the limits: none are proposed.", base.summary())
    report = {
        "base": params,
        "base_trial": number,
        "loss": round(found.loss, 6),
        "increase": {
            name: {str(bits): round(value, 6) for bits, value in row.items()} for name, row in found.increase.items()
        },
        "steps": found.steps,
        "seconds": round(found.seconds, 1),
        "chosen": chosen,
    }
    return Guided(students, recipe, report)


def _base(
    premises: Premises, finished: Iterable[optuna.trial.FrozenTrial], generator: np.random.Generator
) -> tuple[StudentConfig, Recipe, dict[str, Any], int | None]:
    """A configuration and recipe with their parameters, and the number of the trial that they are of."""
    space = premises.space
    families = families_with_bits(space)
    best: tuple[float, Any] | None = None
    for trial in finished:
        if state_of(trial) != "finished" or RECORD not in trial.user_attrs or not trial.params:
            continue
        quality = float(trial.user_attrs[RECORD]["quality"])
        feasible = all(excess <= 0 for excess in trial.constraints.values())
        if feasible and space.config_from(trial.params).family in families and (best is None or quality > best[0]):
            best = quality, trial
    if best is not None:
        config, recipe = space.from_params(best[1].params)
        return config, recipe, space.to_params(config, recipe), best[1].number
    found: tuple[int, tuple[StudentConfig, Recipe, dict[str, Any]]] | None = None
    for _ in range(_DRAWS):
        drawn = _draw(space, families[0], generator)
        total = premises.size(drawn[0])
        if (found is None or total > found[0]) and premises.keeps_limits(drawn[0]):
            found = total, drawn
    if found is None:
        raise InputError(
            f"search.propose.guided_bits: none of {_DRAWS} draws of {families[0]} keeps the limits.",
            "Narrow the space to smaller students, or ask for guided bits at a resume, when the best trial serves.",
        )
    return *found[1], None


def _draw(
    space: JointSpace, family: str, generator: np.random.Generator
) -> tuple[StudentConfig, Recipe, dict[str, Any]]:
    """A student of the family at random."""
    draw = draw_from(generator)
    params = space.choose(lambda name, dimension: family if name == "family" else draw(name, dimension))
    config, recipe = space.from_params(params)
    return config, recipe, params


def _open_bits(space: JointSpace, params: Mapping[str, Any]) -> dict[str, list[int]]:
    """The parameters that are bits of a part of this configuration, and what each may be."""
    found: dict[str, list[int]] = {}

    def choose(name: str, dimension: Choices | Range) -> Any:
        own = params.get(name, None)
        if name.endswith(_SUFFIX):
            values = [bits for bits in get_args(Bits) if contains(dimension, bits)]
            if len(values) > 1:
                found[name] = values
        if own is not None:
            return own
        return dimension.values[0] if isinstance(dimension, Choices) else dimension.low

    space.choose(choose)
    return found
