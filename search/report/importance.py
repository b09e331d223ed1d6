"""Which parameters a study's objectives depend on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from search.states import Objective
from search.study import Study

FEWEST = 6  # trials: below, a forest finds nothing but chance
ROUGH = 30  # trials: below, only the first places of the order mean something
_MOST = 400  # trials looked at, evenly spaced: the time grows with them
_OF_LAYER = re.compile(r"(?:\w+_)?layer\d+\.(\w+)")


@dataclass(frozen=True)
class Importance:
    """Importance of the parameters for one objective.

    Attributes:
        objective: its name.
        trials: that it was found from.
        shares: of the variance of the objective, by parameter, largest first; they add up to 1.
        remark: why there are none, or how to read them.
    """

    objective: Objective
    trials: int
    shares: dict[str, float]
    remark: str


def importances(study: Study, frozen: Sequence[FrozenTrial]) -> list[Importance]:
    """Importance of the parameters by functional ANOVA of a random forest (Hutter et al. 2014).

    A parameter of one layer exists only in students that are deep enough; so the mean over its layers stands for all
    parameters of that name. Other parameters that not all students have, and those that never changed, are left out;
    so are, of a cost, those of the recipe, which it cannot depend on.

    Args:
        study: whose records hold the objectives.
        frozen: its trials in storage.
    """
    params = {trial.number: trial for trial in frozen}
    known = [t for t in study.trials("finished") if t.record is not None and t.number in params]
    if len(known) > _MOST:
        known = [known[round(index * (len(known) - 1) / (_MOST - 1))] for index in range(_MOST)]
    rows = [features(params[trial.number]) for trial in known]
    found = []
    for place, objective in enumerate(study.objectives):
        values = [study.values(trial.record)[place] for trial in known if trial.record is not None]
        found.append(_importance(objective, rows, values))
    return found


def features(trial: FrozenTrial) -> dict[str, tuple[object, BaseDistribution | None]]:
    """Parameters of a trial with their distributions; of those of layers the mean, without one."""
    found: dict[str, tuple[object, BaseDistribution | None]] = {}
    of_layers: dict[str, list[float]] = {}
    for name, value in trial.params.items():
        match = _OF_LAYER.fullmatch(name)
        if match is None:
            found[name] = (value, trial.distributions[name])
        elif isinstance(value, (int, float)):
            of_layers.setdefault(match[1], []).append(float(value))
    for name, numbers in of_layers.items():
        found[f"mean {name}"] = (sum(numbers) / len(numbers), None)
    return found


def _importance(
    objective: Objective, rows: Sequence[dict[str, tuple[object, BaseDistribution | None]]], values: Sequence[float]
) -> Importance:
    usable = [(row, value) for row, value in zip(rows, values, strict=True) if math.isfinite(value)]
    if len(usable) < FEWEST:
        return Importance(objective, len(usable), {}, f"Needs {FEWEST} finished trials; there are {len(usable)}.")
    if len({value for _, value in usable}) == 1:
        return Importance(objective, len(usable), {}, "All finished trials have the same value.")
    # A recipe changes weights, not what is computed with them: to a cost it is chance.
    asked = [name for name in usable[0][0] if objective == "quality" or not name.startswith("recipe.")]
    common = [name for name in asked if all(name in row for row, _ in usable)]
    varied = [name for name in common if len({row[name][0] for row, _ in usable}) > 1]
    if not varied:
        return Importance(objective, len(usable), {}, "No parameter that all trials have was ever changed.")
    spans: dict[str, BaseDistribution] = {}
    for name in varied:
        distribution = usable[0][0][name][1]
        if distribution is None:
            numbers = [float(row[name][0]) for row, _ in usable]  # type: ignore[arg-type]
            distribution = FloatDistribution(min(numbers), max(numbers))
        spans[name] = distribution
    derived = optuna.create_study()
    derived.add_trials(
        [
            create_trial(params={name: row[name][0] for name in varied}, distributions=spans, value=value)
            for row, value in usable
        ]
    )
    evaluator = FanovaImportanceEvaluator(n_trees=64, seed=0)
    found = get_param_importances(derived, evaluator=evaluator)
    shares = {name: float(share) for name, share in found.items()}
    if not any(shares.values()) or not all(math.isfinite(share) for share in shares.values()):
        return Importance(objective, len(usable), {}, "The forest finds no parameter that matters.")
    remark = f"From {len(usable)} trials" + (": a rough order, no more." if len(usable) < ROUGH else ".")
    return Importance(objective, len(usable), dict(sorted(shares.items(), key=lambda item: -item[1])), remark)
