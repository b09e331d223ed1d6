"""Search dimensions and the ways to choose a value from them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Protocol, TypeAlias

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from space.errors import InputError

Scalar: TypeAlias = int | float | str


def _check_finite(values: Iterable[Scalar]) -> None:
    for value in values:
        # By comparison: whole numbers may be too large to become a float.
        if not isinstance(value, str) and not abs(value) <= sys.float_info.max:
            raise ValueError(f"should have finite numbers, not {value}")


def _number(text: str) -> Scalar:
    """The number that a text stands for, as YAML's 1e-3 and numbers in quotes do; other texts are names."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


class Choices(BaseModel):
    """One of a fixed list of values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[Scalar, ...] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _numbers(cls, values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        return tuple(_number(value) if isinstance(value, str) else value for value in values)

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        _check_finite(self.values)
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"has the same choice twice: {list(self.values)}")
        return self


class Range(BaseModel):
    """A number from `low` to `high`, both included; whole numbers if both ends are whole and `step` is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    step: int | float | None = Field(default=None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        _check_finite((self.low, self.high, self.step or 1))
        if self.low > self.high:
            raise ValueError(f"has low {self.low} above high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: true needs low above 0 and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return all(isinstance(x, int) for x in (self.low, self.high, 1 if self.step is None else self.step))

    @property
    def last(self) -> int | float:
        """The largest value that is reached: `high`, unless the steps pass over it."""
        if self.step is None:
            return self.high
        value = self.low + self.step * (self._count() - 1)
        return value if self.whole else min(float(value), float(self.high))

    def listed(self) -> Iterator[int | float]:
        """All values of a range that is whole or has a step, rising."""
        return (self.low + (self.step or 1) * index for index in range(self._count()))

    def _count(self) -> int:
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1


def _parse(value: Any) -> Any:
    """Study files write a dimension as a list, a mapping, or one fixed value."""
    if isinstance(value, (Choices, Range)):
        return value
    if isinstance(value, (list, tuple)):
        return Choices(values=tuple(value))
    if isinstance(value, Mapping):
        return Choices(**value) if "values" in value else Range(**value)
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return Choices(values=(value,))
    raise ValueError("should be a list of choices, {low, high, step or log}, or one fixed value")


Dimension = Annotated[Choices | Range, BeforeValidator(_parse)]
Chooser: TypeAlias = Callable[[str, Choices | Range], Any]


class OptunaTrial(Protocol):
    """The part of `optuna.Trial` that is used here."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


def is_fixed(dimension: Choices | Range) -> bool:
    """Whether only one value is possible; such a dimension is no parameter of the search."""
    return len(dimension.values) == 1 if isinstance(dimension, Choices) else dimension.low == dimension.high


def fixed_value(dimension: Choices | Range) -> Scalar:
    """The value of a fixed dimension."""
    return dimension.values[0] if isinstance(dimension, Choices) else dimension.low


def suggest_from(trial: OptunaTrial) -> Chooser:
    """Choose what an Optuna trial suggests."""

    def choose(name: str, dimension: Choices | Range) -> Any:
        if is_fixed(dimension):
            return fixed_value(dimension)
        if isinstance(dimension, Choices):
            return trial.suggest_categorical(name, dimension.values)
        if dimension.whole:
            step = int(dimension.step or 1)
            return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
        return trial.suggest_float(
            name, float(dimension.low), float(dimension.high), step=dimension.step, log=dimension.log
        )

    return choose


def take_from(params: Mapping[str, Any]) -> Chooser:
    """Choose what a flat mapping of parameters holds.

    Raises:
        InputError: a parameter is missing, or its value is not one of the dimension's.
    """

    def choose(name: str, dimension: Choices | Range) -> Any:
        if is_fixed(dimension):
            return fixed_value(dimension)
        if name not in params:
            raise InputError(f"Parameter {name!r} is missing.", f"Given: {', '.join(sorted(params))}.")
        value = params[name]
        if not contains(dimension, value):
            raise InputError(f"Parameter {name!r} is {value!r}, outside its dimension {describe(dimension)}.")
        return value

    return choose


def draw_from(generator: np.random.Generator) -> Chooser:
    """Choose uniformly at random (log-uniformly where the dimension says so)."""

    def choose(name: str, dimension: Choices | Range) -> Any:
        if isinstance(dimension, Choices):
            return dimension.values[int(generator.integers(len(dimension.values)))]
        low, high = float(dimension.low), float(dimension.high)
        if dimension.whole or dimension.step is not None:
            if dimension.log:
                return int(np.clip(round(math.exp(generator.uniform(math.log(low), math.log(high)))), low, high))
            step = dimension.step or 1
            count = math.floor((high - low) / step + 1e-9) + 1
            value = dimension.low + step * int(generator.integers(count))
            return value if dimension.whole else min(float(value), high)
        if dimension.log:
            return float(np.clip(math.exp(generator.uniform(math.log(low), math.log(high))), low, high))
        return float(generator.uniform(low, high))

    return choose


def extremes(larger: frozenset[str], fixed: Mapping[str, Any]) -> Chooser:
    """Choose the smallest value, the largest for the dimensions named, or what is fixed (by their last part)."""

    def choose(name: str, dimension: Choices | Range) -> Any:
        field = name.rpartition(".")[2]
        if field in fixed:
            return fixed[field]
        values = ends(dimension)
        if any(isinstance(value, str) for value in values):
            return values[0]
        return max(values) if field in larger else min(values)

    return choose


def contains(dimension: Choices | Range, value: Any) -> bool:
    """Whether a value is one that the dimension can take."""
    if isinstance(dimension, Choices):
        return value in dimension.values
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value):
        return False
    if not dimension.low <= value <= dimension.high or (dimension.whole and value != int(value)):
        return False
    steps = 0.0 if dimension.step is None else (value - dimension.low) / dimension.step
    return abs(steps - round(steps)) < 1e-6


def ends(dimension: Choices | Range) -> tuple[Scalar, ...]:
    """All choices, or the smallest and the largest value of a range."""
    return dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.last)


def check_values(name: str, dimension: Choices | Range, model: type[BaseModel]) -> None:
    """Check that a model's field of that name accepts what the dimension can take.

    Raises:
        ValueError: it does not; says which value and why.
    """
    field = model.model_fields[name]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    adapter = TypeAdapter(kind)

    def check(value: Scalar, instead: str = "") -> None:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            details = error.errors()[0]
            message = details["msg"].replace("Input should", "it should")
            if instead and "multiple_of" in details.get("ctx", {}):
                instead += f", or step: {details['ctx']['multiple_of']}"
            raise ValueError(f"{name} cannot be {value!r}: {message}{instead}") from None

    for value in ends(dimension):
        check(value)
    if isinstance(dimension, Choices) or field.annotation is float:  # numbers between two that fit do, too
        return
    if not dimension.whole and dimension.step is None:
        raise ValueError(f"{name} should be whole numbers, not {describe(dimension)}; give a list")
    for number in dimension.listed():
        check(number, "; give a list")


def describe(dimension: Choices | Range) -> str:
    """A dimension as a study file writes it."""
    if isinstance(dimension, Choices):
        return str(list(dimension.values))
    parts = [f"low: {dimension.low}", f"high: {dimension.high}"]
    if dimension.step is not None:
        parts.append(f"step: {dimension.step}")
    if dimension.log:
        parts.append("log: true")
    return "{" + ", ".join(parts) + "}"
