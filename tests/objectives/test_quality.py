from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.quality import METRICS, REGRESSION_METRICS, Metric, score


def _logits(predicted: list[int], outputs: int = 2) -> np.ndarray:
    return np.eye(outputs)[predicted] * 3.0 - 1.0


def test_counts_by_hand() -> None:
    labels, logits = [1, 1, 1, 0, 0, 0], _logits([1, 1, 0, 1, 0, 0])
    assert score("accuracy", labels, logits, False) == pytest.approx(4 / 6)
    assert score("f1", labels, logits, False) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert score("matthews", labels, logits, False) == pytest.approx((2 * 2 - 1 * 1) / 9)


def test_correlations_by_hand() -> None:
    labels, predicted = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 40.0]
    assert score("spearman", labels, predicted, True) == pytest.approx(1.0)
    assert score("pearson", labels, predicted, True) == pytest.approx(np.corrcoef(labels, predicted)[0, 1])
    assert score("pearson", labels, [[4.0], [3.0], [2.0], [1.0]], True) == pytest.approx(-1.0)


@pytest.mark.parametrize("metric", ["matthews", "f1"])
def test_a_classifier_that_always_says_the_same_scores_zero(metric: Metric) -> None:
    assert score(metric, [0, 1, 0, 1], _logits([0, 0, 0, 0]), False) == 0.0


@pytest.mark.parametrize("metric", sorted(REGRESSION_METRICS))
@pytest.mark.parametrize("constant", [0.0, 3.5, 1e6])
def test_a_regression_that_always_says_the_same_scores_zero(metric: Metric, constant: float) -> None:
    noise = constant * 1e-15 * np.arange(4)  # what rounding leaves of a constant
    assert score(metric, [1.0, 2.0, 3.0, 4.0], constant + noise, True) == 0.0
    assert score(metric, [2.0] * 4, [1.0, 2.0, 3.0, 4.0], True) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "entity_f1"])
def test_logits_that_are_not_finite_are_refused(metric: Metric, value: float) -> None:
    regression = metric in REGRESSION_METRICS
    logits = np.zeros((3, 1 if regression else 2))
    logits[1, 0] = value
    with pytest.raises(ValueError, match="1 of 3 logits are not finite"):
        score(metric, [0, 1, 0], logits, regression)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown metric"):
        score("bleu", [0, 1], _logits([0, 1]), False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not fit"):
        score("accuracy", [0.5, 1.5], [[1.0], [2.0]], True)
    with pytest.raises(ValueError, match="does not fit"):
        score("pearson", [0, 1], _logits([0, 1]), False)
    with pytest.raises(ValueError, match="two labels"):
        score("f1", [0, 1, 2], _logits([0, 1, 2], 3), False)
    with pytest.raises(ValueError, match="must be"):
        score("accuracy", [0, 1, 2], _logits([0, 1]), False)
    with pytest.raises(ValueError, match="must be"):
        score("accuracy", [], np.zeros((0, 2)), False)
    with pytest.raises(ValueError, match="one output"):
        score("pearson", [0.0, 1.0], np.zeros((2, 2)), True)
    with pytest.raises(ValueError, match="labels are not finite"):
        score("pearson", [0.0, np.nan], [0.0, 1.0], True)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40),
    st.floats(0.1, 10),
    st.floats(-5, 5),
)
def test_scale_and_offset_of_logits_do_not_count(rows: list[tuple[int, int]], factor: float, offset: float) -> None:
    labels, logits = [label for label, _ in rows], _logits([said for _, said in rows], 3)
    for metric in ("accuracy", "matthews"):
        value = score(metric, labels, logits, False)
        assert -1.0 <= value <= 1.0
        assert value == score(metric, labels, logits * factor + offset, False)


def test_accuracy_without_two_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        score("accuracy", [0, 0], [[1.0], [2.0]], False)
