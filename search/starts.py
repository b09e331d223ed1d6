"""What students of a study start from, and whether the study has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from space.dimensions import ends
from space.families import get_family

if TYPE_CHECKING:
    from search.study_file import StudyFile


def check_starts(file: StudyFile) -> None:
    """Check that students can start from what `space.recipe.initialization` names, and that all of it is used.

    Raises:
        ValueError: says what is wrong, by its key path.
    """
    _check_initialization(file)
    _check_pretraining(file)
    _check_supernet(file)


def _check_initialization(file: StudyFile) -> None:
    """A start that only some families can take becomes `teacher` in the others; one that none can is a mistake."""
    space: Any = file.space
    families = space.families
    possible = {start for family in families for start in get_family(family).initializations}
    for start in ends(space.recipe.initialization):
        if start not in possible:
            raise ValueError(
                f"space.recipe.initialization cannot be {start}: students of {', '.join(families)} start from "
                f"{' or '.join(sorted(possible))}"
            )


def _uses(space: Any, start: str, section: str, given: bool) -> bool:
    """Whether a study has the section that a start of its students needs; the one without the other is a mistake."""
    starts = start in ends(space.recipe.initialization)
    if not given:
        if starts:
            raise ValueError(f"space.recipe.initialization names {start}, but there is no section {section}")
        return False
    if not starts:
        raise ValueError(f"{section} is never used: add {start} to space.recipe.initialization")
    for family in space.families:
        if start not in get_family(family).initializations:
            raise ValueError(f"space.recipe.initialization names {start}, which students of {family} cannot be")
    return True


def _check_pretraining(file: StudyFile) -> None:
    if not _uses(file.space, "pretrained", "pretraining", file.pretraining is not None):
        return
    assert file.pretraining is not None
    for name, plan in file.task_plans.items():
        if file.pretraining.max_length < plan.task.max_length:
            where = "task" if file.task else f"tasks.{name}"
            raise ValueError(
                f"pretraining.max_length {file.pretraining.max_length} is below {where}.max_length "
                f"{plan.task.max_length}: students would have positions that the encoder never saw"
            )


def _check_supernet(file: StudyFile) -> None:
    if not _uses(file.space, "supernet", "supernet", file.supernet is not None):
        return
    if file.task is None:
        raise ValueError("supernet is for studies of one task, not of several")
    if file.task.per_token:
        raise ValueError("supernet is for tasks that judge whole texts: a token-classification has none")
