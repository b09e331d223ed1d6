"""What the model of quality sees of a configuration."""

from __future__ import annotations

import numpy as np

from search.samplers.known_cost.layout import Layout
from space.dimensions import Choices

# How much longer (as a logarithm) the model's length scales are expected to be for what one layer has, and for what
# sums all layers up.
OF_A_LAYER, OF_ALL = 0.7, -0.5


class Features:
    """Rows and known costs as standardised numbers.

    Numbers of a list count by their rank (their spacing is what the study's author found even), words of a list
    as one column each. A parameter that a configuration does not have counts as the middle of its dimension. For
    every parameter of the layers there is also its mean over the layers, and every known cost enters as its
    logarithm: how much a student can hold is what its quality depends on first.

    Args:
        layout: of the space.
        rows: [n, columns], a sample of the space: every feature has mean 0 and standard deviation 1 on it.
        costs: [n, costs] of the sample.

    Attributes:
        remoteness: [features], how much less than the others each is expected to matter (`fit_scales`).
    """

    def __init__(self, layout: Layout, rows: np.ndarray, costs: np.ndarray) -> None:
        self._words: list[tuple[int, int]] = []
        self._numbers: list[int] = []
        for column, dimension in enumerate(layout.dimensions):
            words = isinstance(dimension, Choices) and any(isinstance(value, str) for value in dimension.values)
            if words:
                # Of two words one column says all.
                count = layout.levels(column)
                self._words += [(column, value) for value in range(1 if count == 2 else 0, count)]
            else:
                self._numbers.append(column)
        self._ranks = [self._rank(layout, column) for column in self._numbers]
        groups = [np.intersect1d(columns, self._numbers) for columns in layout.groups().values()]
        self._groups = [columns for columns in groups if len(columns) > 1]
        layered = {column for columns in layout.groups().values() for column in columns}
        single = [OF_A_LAYER * (column in layered) for column in [*self._numbers, *(c for c, _ in self._words)]]
        self.remoteness = np.array([*single, *[OF_ALL] * (len(self._groups) + costs.shape[1])])
        raw = self._raw(rows, costs)
        self._mean = raw.mean(axis=0)
        spread = raw.std(axis=0)
        self._scale = np.where(spread > 1e-9, spread, 1.0)

    @staticmethod
    def _rank(layout: Layout, column: int) -> np.ndarray | None:
        """Position from 0 to 1 by index of the choice; None for a range, which is such a position."""
        dimension = layout.dimensions[column]
        count = layout.levels(column)
        if isinstance(dimension, Choices):
            return np.argsort(np.argsort(np.array(dimension.values, dtype=float))) / max(count - 1, 1)
        return np.arange(count) / max(count - 1, 1) if count else None

    def _raw(self, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
        positions = np.full(rows.shape, np.nan)
        for column, ranks in zip(self._numbers, self._ranks, strict=True):
            values = rows[:, column]
            if ranks is None:
                positions[:, column] = values
            else:
                known = ~np.isnan(values)
                positions[known, column] = ranks[values[known].astype(int)]
        parts = [np.nan_to_num(positions[:, self._numbers], nan=0.5)]
        parts += [(rows[:, column] == value).astype(float)[:, None] for column, value in self._words]
        for columns in self._groups:
            present = ~np.isnan(positions[:, columns])
            total = np.nansum(positions[:, columns], axis=1)
            parts.append((total / np.maximum(present.sum(axis=1), 1))[:, None])
        parts.append(np.log(np.maximum(costs, 1e-9)))
        return np.concatenate(parts, axis=1)

    def __call__(self, rows: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Features [n, features] of rows [n, columns] with costs [n, costs]."""
        return (self._raw(rows, costs) - self._mean) / self._scale
