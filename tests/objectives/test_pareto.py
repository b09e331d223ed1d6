from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.pareto import Direction, hypervolume, non_dominated

# Few distinct values, so that ties are common.
VALUE = st.one_of(st.integers(0, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
DIRECTION = st.sampled_from(["maximize", "minimize"])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[Direction]]:
    directions = draw(st.lists(DIRECTION, min_size=1, max_size=3))
    row = st.lists(VALUE, min_size=len(directions), max_size=len(directions))
    return draw(st.lists(row, max_size=12)), directions


def better_or_equal(a: float, b: float, direction: Direction) -> bool:
    return a >= b if direction == "maximize" else a <= b


def dominates(a: list[float], b: list[float], directions: list[Direction]) -> bool:
    return a != b and all(better_or_equal(*values) for values in zip(a, b, directions, strict=True))


@given(problems())
def test_front_is_that_of_brute_force(problem: tuple[list[list[float]], list[Direction]]) -> None:
    points, directions = problem
    usable = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
    expected = [
        index for index in usable if not any(dominates(points[other], points[index], directions) for other in usable)
    ]
    assert non_dominated(points, directions) == expected


@given(problems())
def test_hypervolume_is_that_of_counted_cells(problem: tuple[list[list[float]], list[Direction]]) -> None:
    points, directions = problem
    reference = [0.0 if direction == "maximize" else 4.0 for direction in directions]
    usable = [point for point in points if all(map(math.isfinite, point))]
    # All values are whole numbers: count the unit cells of the grid that some point dominates.
    cells = itertools.product(range(4), repeat=len(directions))
    dominated = sum(
        any(
            all(
                value >= low + 1 if direction == "maximize" else value <= low
                for value, low, direction in zip(point, cell, directions, strict=True)
            )
            for point in usable
        )
        for cell in cells
    )
    assert hypervolume(points, reference, directions) == pytest.approx(dominated)


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.9, 200.0]], [0.0, 100.0], ["maximize", "minimize"]) == 0
    assert hypervolume(np.array([[0.5, 60.0], [0.9, 200.0]]), [0.0, 100.0], ["maximize", "minimize"]) == 20


@pytest.mark.parametrize(
    ("points", "directions"),
    [([[1.0, 2.0]], ["maximize"]), ([1.0], ["maximize"]), ([[1.0]], ["up"]), ([[1.0]], [])],
)
def test_shapes_are_checked(points: list, directions: list) -> None:
    with pytest.raises(ValueError, match="should"):
        non_dominated(points, directions)


def test_reference_is_checked() -> None:
    with pytest.raises(ValueError, match="finite"):
        hypervolume([[1.0]], [math.inf], ["maximize"])
