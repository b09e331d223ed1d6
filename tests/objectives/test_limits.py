from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from objectives.limits import Limits, broken, constraint_values


def test_each_given_limit_has_a_relative_excess():
    limits = Limits(deployed_bytes=1000, latency_ms=10, peak_heap_bytes=400)
    found = constraint_values(limits, {"deployed_bytes": 1100, "latency_ms": 5, "peak_heap_bytes": 400})
    assert found == pytest.approx({"deployed_bytes": 0.1, "latency_ms": -0.5, "peak_heap_bytes": 0.0})
    assert broken(found) == ["deployed_bytes"]


def test_a_cost_that_is_not_known_yet_counts_as_kept():
    limits = Limits(long_latency_ms=10)
    assert constraint_values(limits, {"deployed_bytes": 1}) == {"deployed_bytes": 1 / 2e6 - 1, "long_latency_ms": 0.0}


def test_costs_without_a_limit_are_no_constraint():
    assert set(constraint_values(Limits(), {"deployed_bytes": 1, "latency_ms": 1e9})) == {"deployed_bytes"}


def test_a_cost_that_is_not_a_number_keeps_no_limit():
    assert broken(constraint_values(Limits(latency_ms=10), {"latency_ms": math.nan})) == ["latency_ms"]


@pytest.mark.parametrize(
    "section",
    [
        {"deployed_bytes": 0},
        {"latency_ms": -1},
        {"latency_ms": math.inf},
        {"long_latency_ms": math.nan},
        {"deployed_bytes": math.inf},
        {"heap": 3},
        {"peak_heap_bytes": 0},
    ],
)
def test_bad_limits_are_refused(section):
    with pytest.raises(ValidationError):
        Limits.model_validate(section)
