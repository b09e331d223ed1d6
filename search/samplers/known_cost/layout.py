"""Configurations as rows of a matrix, so that thousands of them can be drawn, varied and encoded at once.

A row has one column per parameter of the space: the index of a choice, or the position in a range from 0 to 1.
Columns of parameters that a configuration does not have (those of layers beyond its depth) are NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from space.dimensions import Choices, Range, contains, is_fixed
from space.joint import JointSpace

# A range of whole numbers with more values than this is not tried out for parameters that depend on it.
MOST_BRANCHES = 32


class Layout:
    """The columns of a space.

    Args:
        space: to lay out.

    Attributes:
        names: of the parameters, one per column.
        dimensions: the same.
    """

    def __init__(self, space: JointSpace) -> None:
        self._space = space
        found: dict[str, Choices | Range] = {}
        self._branching: list[str] = []
        self._explore(found)
        self.names = list(found)
        self.dimensions = [found[name] for name in self.names]
        self._index = {name: column for column, name in enumerate(self.names)}
        self._branching_columns = [self._index[name] for name in self._branching]
        self._masks: dict[bytes, np.ndarray] = {}
        self._counts = np.array([_count(dimension) for dimension in self.dimensions])

    def __len__(self) -> int:
        return len(self.names)

    def _explore(self, found: dict[str, Choices | Range]) -> None:
        """Find every parameter, and those on whose value it depends which others there are."""

        def walk(fixed: Mapping[str, Any]) -> dict[str, Choices | Range]:
            asked: dict[str, Choices | Range] = {}

            def choose(name: str, dimension: Choices | Range) -> Any:
                if not is_fixed(dimension):
                    asked[name] = dimension
                return fixed.get(name, _values(dimension)[-1])

            self._space.choose(choose)
            return asked

        waiting: list[dict[str, Any]] = [{}]
        seen = set()
        while waiting:
            base = waiting.pop()
            asked = walk(base)
            found.update({name: dimension for name, dimension in asked.items() if name not in found})
            for name, dimension in asked.items():
                for value in _values(dimension):
                    other = {**base, name: value}
                    names = frozenset(walk(other))
                    if names == frozenset(asked):
                        continue
                    if name not in self._branching:
                        self._branching.append(name)
                    if names not in seen:
                        seen.add(names)
                        waiting.append(other)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter, as `space.dimensions.suggest_from` asks for them."""
        return {name: _distribution(dimension) for name, dimension in zip(self.names, self.dimensions, strict=True)}

    def from_unit(self, points: np.ndarray) -> np.ndarray:
        """Rows [n, columns] of points in the unit cube [n, columns]."""
        counts = self._counts
        index = np.minimum(np.floor(points * np.where(counts > 0, counts, 1)), np.maximum(counts - 1, 0))
        return self.mask(np.where(counts > 0, index, points))

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Rows [count, columns], uniformly at random."""
        return self.from_unit(generator.random((count, len(self))))

    def mask(self, rows: np.ndarray, fill: np.ndarray | None = None) -> np.ndarray:
        """Rows with NaN in the columns that a configuration does not have.

        Args:
            rows: [n, columns].
            fill: rows [n, columns] without NaN that give the values of columns it has anew.
        """
        # Filled in first: of a family that a row did not have, that says which other parameters there are.
        if fill is not None:
            rows = np.where(np.isnan(rows), fill, rows)
        return np.where(self.present(rows), rows, np.nan)

    def present(self, rows: np.ndarray) -> np.ndarray:
        """Bool [n, columns]: which parameters each configuration has."""
        keys = np.ascontiguousarray(np.nan_to_num(rows[:, self._branching_columns], nan=-1.0))
        present = np.empty(rows.shape, dtype=bool)
        for number, key in enumerate(keys):
            code = key.tobytes()
            if code not in self._masks:
                self._masks[code] = self._presence(rows[number])
            present[number] = self._masks[code]
        return present

    def _presence(self, row: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(self), dtype=bool)

        def choose(name: str, dimension: Choices | Range) -> Any:
            if is_fixed(dimension):
                return _values(dimension)[0]
            column = self._index[name]
            mask[column] = True
            position = row[column]
            return self._value(column, 0.0 if math.isnan(position) else position)

        self._space.choose(choose)
        return mask

    def params(self, row: np.ndarray) -> dict[str, Any]:
        """Flat parameters of a row."""
        return {
            self.names[column]: self._value(column, position)
            for column, position in enumerate(row.tolist())
            if not math.isnan(position)
        }

    def row(self, params: Mapping[str, Any]) -> np.ndarray | None:
        """The row of flat parameters; None if they are no whole configuration of the space."""
        row = np.full(len(self), np.nan)
        for name, value in params.items():
            column = self._index.get(name)
            if column is None or not contains(self.dimensions[column], value):
                return None
            row[column] = self.position(column, value)
        return row if np.array_equal(~np.isnan(row), self.present(row[None])[0]) else None

    def column(self, name: str) -> int | None:
        """The column of a parameter."""
        return self._index.get(name)

    def position(self, column: int, value: Any) -> float:
        """A value in a row's terms."""
        dimension = self.dimensions[column]
        if isinstance(dimension, Choices):
            return float(dimension.values.index(value))
        if self._counts[column]:
            return float(round((value - dimension.low) / (dimension.step or 1)))
        if dimension.log:
            return math.log(value / dimension.low) / math.log(dimension.high / dimension.low)
        return (value - dimension.low) / (dimension.high - dimension.low)

    def _value(self, column: int, position: float) -> Any:
        dimension = self.dimensions[column]
        if isinstance(dimension, Choices):
            return dimension.values[int(position)]
        low, high = dimension.low, dimension.high
        if self._counts[column]:
            value = low + int(position) * (dimension.step or 1)
            return int(value) if dimension.whole else min(float(value), float(high))
        value = low * (high / low) ** position if dimension.log else low + (high - low) * position
        value = min(max(float(value), float(low)), float(high))
        return round(value) if dimension.whole else value

    def vary(self, rows: np.ndarray, generator: np.random.Generator, scale: float, only: np.ndarray) -> np.ndarray:
        """Rows with one to three of their columns changed: to a neighbouring or another choice, or by a small step.

        Args:
            rows: [n, columns].
            generator: source of randomness.
            scale: standard deviation of a step in a range.
            only: bool [columns] or [n, columns], the columns that may change.
        """
        n, width = rows.shape
        allowed = ~np.isnan(rows) & only
        order = np.where(allowed, generator.random((n, width)), np.inf)
        rank = order.argsort(axis=1).argsort(axis=1)
        changed = allowed & (rank < generator.integers(1, 4, (n, 1)))
        counts = np.broadcast_to(np.maximum(self._counts, 1), rows.shape)
        sign = np.where(generator.random((n, width)) < 0.5, -1.0, 1.0)
        # A step beyond the end of a list turns back, so that every change changes something.
        near = np.abs(rows + sign)
        near = np.where(near > counts - 1, np.maximum(counts - 2, 0), near)
        other = (rows + 1 + np.floor(generator.random((n, width)) * (counts - 1))) % counts
        index = np.where(generator.random((n, width)) < 0.7, near, other)
        place = np.abs(rows + scale * generator.standard_normal((n, width)))
        place = np.clip(np.where(place > 1, 2 - place, place), 0, 1)
        varied = np.where(changed, np.where(self._counts > 0, index, place), rows)
        return self.mask(varied, self.draw_filled(generator, n))

    def cross(self, first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Rows that take each column from one of two parents [n, columns]."""
        chosen = np.where(generator.random(first.shape) < 0.5, first, second)
        chosen = np.where(np.isnan(chosen), np.where(np.isnan(first), second, first), chosen)
        return self.mask(chosen, self.draw_filled(generator, len(first)))

    def draw_filled(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """As `draw`, with values also where a configuration has no such parameter."""
        points = generator.random((count, len(self)))
        return np.where(self._counts > 0, np.floor(points * np.maximum(self._counts, 1)), points)

    def levels(self, column: int) -> int:
        """How many values a column takes; 0 if it is continuous."""
        return int(self._counts[column])

    def groups(self) -> dict[str, list[int]]:
        """Columns of the parameters that every layer has, by their name without the layer."""
        found: dict[str, list[int]] = {}
        for column, name in enumerate(self.names):
            if match := re.fullmatch(r"[a-z_]*?(\d+)\.(\w+)", name):
                found.setdefault(match[2], []).append(column)
        return found


def _count(dimension: Choices | Range) -> int:
    """How many values there are; 0 for a continuous range, and for a whole one on a logarithmic scale."""
    if isinstance(dimension, Choices):
        return len(dimension.values)
    if dimension.log or not (dimension.whole or dimension.step is not None):
        return 0
    return math.floor((dimension.high - dimension.low) / (dimension.step or 1) + 1e-9) + 1


def _values(dimension: Choices | Range) -> list[Any]:
    """The values that are tried out for what depends on them, the last one taken first."""
    if isinstance(dimension, Choices):
        return list(dimension.values)
    count = _count(dimension)
    if dimension.whole and 0 < count <= MOST_BRANCHES:
        return [dimension.low + index * (dimension.step or 1) for index in range(count)]
    return [dimension.low, dimension.high]


def _distribution(dimension: Choices | Range) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if dimension.whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, step=step, log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), step=dimension.step, log=dimension.log)
