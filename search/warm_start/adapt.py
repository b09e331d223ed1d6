"""Configurations of one space in another one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from space.config import Recipe, StudentConfig
from space.dimensions import Choices, Range, contains, fixed_value, is_fixed
from space.errors import InputError
from space.families import get_family
from space.joint import JointSpace


@dataclass(frozen=True)
class Adapted:
    """A configuration of a space that is near one of another.

    Attributes:
        params: flat parameters.
        moved: names of the parameters whose value is not in the space and gave way to the nearest one.
        filled: names of those that the other configuration does not have, with the first value of the space.
    """

    params: dict[str, Any]
    moved: tuple[str, ...]
    filled: tuple[str, ...]


def flat_values(config: StudentConfig, recipe: Recipe) -> dict[str, Any]:
    """All values by the names of their parameters, those that no space would vary included."""
    flat: dict[str, Any] = {name: getattr(config, name) for name in StudentConfig.model_fields}
    flat.update(get_family(config.family).parameters(config))
    flat.update({f"recipe.{name}": value for name, value in recipe.model_dump().items()})
    return flat


def adapt(space: JointSpace, values: Mapping[str, Any]) -> Adapted | None:
    """The configuration of a space that is nearest to `flat_values`.

    None if what comes out cannot be built, or would be of another family: its parameters have nothing in common with
    these, so that all of it would be first values, under a quality that tells nothing of them.
    """
    if values.get("family", space.spec.families[0]) not in space.spec.families:
        return None
    moved, filled = [], []

    def choose(name: str, dimension: Choices | Range) -> Any:
        if name not in values:
            if not is_fixed(dimension):
                filled.append(name)
            return _first(dimension)
        value = values[name]
        if contains(dimension, value):
            return value
        moved.append(name)
        return _nearest(dimension, value)

    params = space.choose(choose)
    try:
        space.from_params(params)
    except InputError:
        return None
    return Adapted(params, tuple(moved), tuple(filled))


def _first(dimension: Choices | Range) -> Any:
    return dimension.values[0] if isinstance(dimension, Choices) else dimension.low


def _nearest(dimension: Choices | Range, value: Any) -> Any:
    """The nearest number; of words that the dimension lacks, its first."""
    if is_fixed(dimension):
        return fixed_value(dimension)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return _first(dimension)
    if isinstance(dimension, Choices):
        numbers = [choice for choice in dimension.values if isinstance(choice, (int, float))]
        if not numbers:
            return _first(dimension)
        if value > 0 and min(numbers) > 0:  # widths, bits, rates: what counts is the ratio
            return min(numbers, key=lambda choice: (abs(math.log(choice / value)), choice))
        return min(numbers, key=lambda choice: (abs(choice - value), choice))
    inside = min(max(value, dimension.low), dimension.last)
    if dimension.step is not None:
        steps = round((inside - dimension.low) / dimension.step)
        inside = min(dimension.low + steps * dimension.step, dimension.last)  # a sum of steps may come out above it
    return round(inside) if dimension.whole else inside
