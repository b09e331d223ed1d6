"""What of a study file is about domains, and whether its tasks have them."""

from __future__ import annotations

from collections.abc import Iterable

from runners.plan import TaskPlan
from runners.task.spec import TaskSpec
from space.dimensions import ends
from space.joint import RecipeDimensions

_CHOICES = (("example_weighting", "domain_expertise"), ("teacher_kind", "meta"))


def _has_domains(task: TaskSpec) -> bool:
    return task.domain is not None and task.kind == "classification"


def domain_misfit(plans: Iterable[TaskPlan], recipe: RecipeDimensions) -> str | None:
    """What asks for domains that tasks do not have; None if nothing does.

    A teacher of the kind `meta` needs them in its own task, as one of an intermediate task does; choices of the recipe
    in one of several.
    """
    fix = "is for a classification with domains: name their column under {}.domain"
    of_task = fix.format("task")
    told = []
    for plan in plans:
        fits = _has_domains(plan.task)
        if plan.teacher.kind == "meta" and not fits:
            return f"teacher.kind: meta {of_task}"
        first = plan.teacher.intermediate
        if first is not None and first.teacher.kind == "meta" and not _has_domains(first):
            return f"teacher.intermediate.teacher.kind: meta {fix.format('teacher.intermediate')}"
        if plan.task.domain is not None:
            told.append(fits)
    for name, value in _CHOICES:
        if value in ends(getattr(recipe, name)) and not (told and all(told)):
            return f"space.recipe.{name}: {value} {of_task}"
    return None
