"""What of a study file is about domains, and whether its tasks have them."""

from __future__ import annotations

from collections.abc import Iterable

from runners.plan import TaskPlan
from space.dimensions import ends
from space.joint import RecipeDimensions

_CHOICES = (("example_weighting", "domain_expertise"), ("teacher_kind", "meta"))


def domain_misfit(plans: Iterable[TaskPlan], recipe: RecipeDimensions) -> str | None:
    """What asks for domains that tasks do not have; None if nothing does.

    A teacher of the kind `meta` needs them in its own task; choices of the recipe in one of several.
    """
    fix = "is for a classification with domains: name their column under task.domain"
    told = []
    for plan in plans:
        fits = plan.task.domain is not None and plan.task.kind == "classification"
        if plan.teacher.kind == "meta" and not fits:
            return f"teacher.kind: meta {fix}"
        if plan.task.domain is not None:
            told.append(fits)
    for name, value in _CHOICES:
        if value in ends(getattr(recipe, name)) and not (told and all(told)):
            return f"space.recipe.{name}: {value} {fix}"
    return None
